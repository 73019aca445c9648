//! Marks and cursors: how far people and devices have come.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::name::{ConversationId, DeviceId, UserId};

/// What a mark says about everything up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// How far a user has come in one conversation; 0 is before its first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// What a device of the user has; never behind what was read.
    pub delivered: u64,
    /// What the user has read.
    pub read: u64,
}

/// Marks that only move forward, and one cursor for each device.
#[async_trait]
pub trait Marks: Send + Sync {
    /// Moves marks forward; each tells whether it moved. A mark behind the present one changes nothing, nor does one of
    /// somebody who takes no part in the conversation, nor a delivered mark that what was read has overtaken.
    async fn advance(&self, mark: Mark, to: &[(ConversationId, UserId, u64)]) -> Result<Vec<bool>, StoreError>;

    /// How far each user has come in each conversation, in the order asked.
    async fn reaches(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Reach>, StoreError>;

    /// Remembers the last cursor each device acknowledged.
    async fn save_cursors(&self, cursors: &[(UserId, DeviceId, String)]) -> Result<(), StoreError>;

    /// The cursor a device acknowledged last.
    async fn cursor(&self, user: &UserId, device: &DeviceId) -> Result<Option<String>, StoreError>;
}
