//! What was taken back, in SQLite. There is one writer, so numbers are in the order of commits.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::{SqliteStore, failed};
use crate::store::{
    MAX_REVOKED, Revocation, Revocations, Revoked, StoreError, columns,
    revocations::{entry, forgotten_before},
};

const FORGET: &str = "DELETE FROM revocations WHERE until_ms < ?";

const COUNT: &str = "SELECT count(*) FROM revocations WHERE conversation_id IS NULL";

const APPEND: &str = "
INSERT INTO revocations (token_id, user_id, conversation_id, issued_before, until_ms) VALUES (?, ?, ?, ?, ?)";

const AFTER: &str = "
SELECT number, token_id, user_id, conversation_id, issued_before, until_ms
FROM revocations WHERE number > ? ORDER BY number LIMIT ?";

#[async_trait]
impl Revocations for SqliteStore {
    async fn revoke(&self, what: &Revoked, until_ms: u64) -> Result<bool, StoreError> {
        let mut open = self.begin().await?;
        note(&mut open, what, until_ms).await?;
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *open).await.map_err(failed)?;
        if count > columns::limit(MAX_REVOKED) {
            return Ok(false); // the transaction is undone
        }
        self.commit(open).await?;
        Ok(true)
    }

    async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        let rows = sqlx::query(AFTER).bind(columns::to_column(after)).bind(columns::limit(limit));
        let rows = rows.fetch_all(&self.readers).await.map_err(failed)?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let what = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
            Ok((row.try_get(0)?, what, row.try_get(5)?))
        };
        rows.iter().map(|row| entry(read(row).map_err(failed)?)).collect()
    }
}

/// Appends an entry within a transaction, and forgets what has run out.
pub(super) async fn note(open: &mut SqliteConnection, what: &Revoked, until_ms: u64) -> Result<(), StoreError> {
    sqlx::query(FORGET).bind(forgotten_before()).execute(&mut *open).await.map_err(failed)?;
    let (token, user, conversation, issued_before) = what.columns();
    let append = sqlx::query(APPEND).bind(token).bind(user).bind(conversation).bind(issued_before);
    append.bind(columns::to_column(until_ms)).execute(&mut *open).await.map(drop).map_err(failed)
}
