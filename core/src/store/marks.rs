//! Marks and cursors: how far people and devices have come.

use async_trait::async_trait;

use super::StoreError;
use crate::name::{ConversationId, DeviceId, UserId};

/// What a mark says about everything up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A device of the user has it.
    Delivered,
    /// The user has read it.
    Read,
}

impl Mark {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

/// Marks that only move forward, and one cursor for each device.
#[async_trait]
pub trait Marks: Send + Sync {
    /// Moves marks forward; each tells whether it moved. A mark behind the present one changes nothing.
    async fn advance(&self, mark: Mark, to: &[(ConversationId, UserId, u64)]) -> Result<Vec<bool>, StoreError>;

    /// A user's mark in each conversation, in the order asked, 0 where there is none.
    async fn marks(&self, mark: Mark, user: &UserId, of: &[ConversationId]) -> Result<Vec<u64>, StoreError>;

    /// Remembers the last cursor each device acknowledged.
    async fn save_cursors(&self, cursors: &[(UserId, DeviceId, String)]) -> Result<(), StoreError>;

    /// The cursor a device acknowledged last.
    async fn cursor(&self, user: &UserId, device: &DeviceId) -> Result<Option<String>, StoreError>;
}
