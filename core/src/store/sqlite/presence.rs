//! When people were last connected, in SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed};
use crate::{
    name::UserId,
    store::{Presence, StoreError, columns},
};

const SAVE: &str = "
INSERT INTO presence (user_id, last_seen_ms) VALUES (?, ?)
ON CONFLICT (user_id) DO UPDATE SET last_seen_ms = excluded.last_seen_ms WHERE last_seen_ms < excluded.last_seen_ms";

#[async_trait]
impl Presence for SqliteStore {
    async fn save_last_seen(&self, seen: &[(UserId, u64)]) -> Result<(), StoreError> {
        let mut open = self.begin().await?;
        for (user, ms) in seen {
            let save = sqlx::query(SAVE).bind(user.as_str()).bind(columns::to_column(*ms));
            save.execute(&mut *open).await.map_err(failed)?;
        }
        self.commit(open).await
    }

    async fn last_seen(&self, user: &UserId) -> Result<Option<u64>, StoreError> {
        let seen = sqlx::query_scalar("SELECT last_seen_ms FROM presence WHERE user_id = ?").bind(user.as_str());
        let seen: Option<i64> = seen.fetch_optional(&self.readers).await.map_err(failed)?;
        Ok(seen.map(columns::from_column))
    }
}
