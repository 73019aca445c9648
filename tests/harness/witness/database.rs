//! What the database has, as one more observer.

use serde_json::Value;
use sqlx::{Connection, PgConnection, SqliteConnection};

use super::{
    checker::{Seen, Stream},
    listener,
};

type Row = (String, i64, String, String);

/// How many events it has in conversations whose names begin so.
pub(crate) async fn count(database: &str, name: &str) -> Result<usize, sqlx::Error> {
    let query = "SELECT count(*) FROM messages WHERE conversation_id LIKE $1 || '%'";
    let count: i64 = if database.starts_with("postgres") {
        sqlx::query_scalar(query).bind(name).fetch_one(&mut PgConnection::connect(database).await?).await?
    } else {
        sqlx::query_scalar(query).bind(name).fetch_one(&mut SqliteConnection::connect(database).await?).await?
    };
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Every event it has in conversations whose names begin so, in order.
pub(super) async fn read(database: &str, name: &str) -> Result<Stream, sqlx::Error> {
    let query = "SELECT conversation_id, seq, event, data FROM messages WHERE conversation_id LIKE $1 || '%'
        ORDER BY conversation_id, seq";
    let rows: Vec<Row> = if database.starts_with("postgres") {
        sqlx::query_as(query).bind(name).fetch_all(&mut PgConnection::connect(database).await?).await?
    } else {
        sqlx::query_as(query).bind(name).fetch_all(&mut SqliteConnection::connect(database).await?).await?
    };
    let seen = rows.into_iter().map(|(conversation, seq, event, data)| {
        let data: Value = serde_json::from_str(&data).unwrap_or_default();
        Seen { conversation, seq: u64::try_from(seq).unwrap_or_default(), ..listener::of_data(&event, &data) }
    });
    Ok(Stream { observer: DATABASE.to_owned(), seen: seen.collect() })
}

/// Its name among the observers.
pub(super) const DATABASE: &str = "database";
