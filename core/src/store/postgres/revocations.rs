//! What was taken back, in Postgres.

use async_trait::async_trait;
use sqlx::{PgConnection, Row};

use super::{PostgresStore, failed};
use crate::store::{
    MAX_REVOKED, Revocation, Revocations, Revoked, StoreError, columns,
    revocations::{entry, forgotten_before},
};

/// Who appends holds it to the commit, so that no lower number appears behind one that was read. Readers never wait.
const LOCK: &str = "LOCK TABLE revocations IN SHARE ROW EXCLUSIVE MODE";

const FORGET: &str = "DELETE FROM revocations WHERE until_ms < $1";

const COUNT: &str = "SELECT count(*) FROM revocations WHERE conversation_id IS NULL";

const APPEND: &str = "
INSERT INTO revocations (token_id, user_id, conversation_id, issued_before, until_ms) VALUES ($1, $2, $3, $4, $5)";

const AFTER: &str = "
SELECT number, token_id, user_id, conversation_id, issued_before, until_ms
FROM revocations WHERE number > $1 ORDER BY number LIMIT $2";

#[async_trait]
impl Revocations for PostgresStore {
    async fn revoke(&self, what: &Revoked, until_ms: u64) -> Result<bool, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        note(&mut open, what, until_ms).await?;
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *open).await.map_err(failed)?;
        if count > columns::limit(MAX_REVOKED) {
            return Ok(false); // the transaction is undone
        }
        open.commit().await.map_err(failed)?;
        Ok(true)
    }

    async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        let rows = sqlx::query(AFTER).bind(columns::to_column(after)).bind(columns::limit(limit));
        let rows = rows.fetch_all(&self.pool).await.map_err(failed)?;
        let read = |row: &sqlx::postgres::PgRow| {
            let what = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
            Ok((row.try_get(0)?, what, row.try_get(5)?))
        };
        rows.iter().map(|row| entry(read(row).map_err(failed)?)).collect()
    }
}

/// Appends an entry within a transaction, and forgets what has run out.
pub(super) async fn note(open: &mut PgConnection, what: &Revoked, until_ms: u64) -> Result<(), StoreError> {
    sqlx::query(LOCK).execute(&mut *open).await.map_err(failed)?;
    sqlx::query(FORGET).bind(forgotten_before()).execute(&mut *open).await.map_err(failed)?;
    let (token, user, conversation, issued_before) = what.columns();
    let append = sqlx::query(APPEND).bind(token).bind(user).bind(conversation).bind(issued_before);
    append.bind(columns::to_column(until_ms)).execute(&mut *open).await.map(drop).map_err(failed)
}
