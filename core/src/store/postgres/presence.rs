//! When people were last connected, in Postgres.

use async_trait::async_trait;

use super::{PostgresStore, failed};
use crate::{
    name::UserId,
    store::{Presence, StoreError, columns},
};

/// Sorted, so that two of these never wait for each other.
const SAVE: &str = "
INSERT INTO presence AS p (user_id, last_seen_ms)
SELECT user_id, max(ms) FROM UNNEST($1::text[], $2::bigint[]) AS seen (user_id, ms) GROUP BY user_id ORDER BY user_id
ON CONFLICT (user_id) DO UPDATE SET last_seen_ms = EXCLUDED.last_seen_ms WHERE p.last_seen_ms < EXCLUDED.last_seen_ms";

#[async_trait]
impl Presence for PostgresStore {
    async fn save_last_seen(&self, seen: &[(UserId, u64)]) -> Result<(), StoreError> {
        let save = sqlx::query(SAVE)
            .bind(seen.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>())
            .bind(seen.iter().map(|(_, ms)| columns::to_column(*ms)).collect::<Vec<_>>())
            .execute(&self.pool);
        save.await.map(drop).map_err(failed)
    }

    async fn last_seen(&self, user: &UserId) -> Result<Option<u64>, StoreError> {
        let seen = sqlx::query_scalar("SELECT last_seen_ms FROM presence WHERE user_id = $1").bind(user.as_str());
        let seen: Option<i64> = seen.fetch_optional(&self.pool).await.map_err(failed)?;
        Ok(seen.map(columns::from_column))
    }
}
