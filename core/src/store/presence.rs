//! When people were last connected, for those who ask after they have left. Who is connected is the roster's to say.

use async_trait::async_trait;

use super::StoreError;
use crate::name::UserId;

/// One moment for each user.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Remembers when users left, milliseconds since the epoch. A moment before the present one changes nothing.
    async fn save_last_seen(&self, seen: &[(UserId, u64)]) -> Result<(), StoreError>;

    /// When a user left last.
    async fn last_seen(&self, user: &UserId) -> Result<Option<u64>, StoreError>;
}
