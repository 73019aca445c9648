//! Rights that were taken back, in the order they were, so that every gateway can learn of what is new.
//!
//! A signal tells the gateways concerned at once, but a signal may be lost. This list is what they can rely on: each
//! reads what follows the last number it has seen.

use std::time::Duration;

use async_trait::async_trait;

use super::{StoreError, columns};
use crate::{
    clock::now_ms,
    name::{ConversationId, UserId},
};

/// How many tokens can be revoked at the same time, by id or by user. What runs out makes room.
pub const MAX_REVOKED: usize = 100_000;
/// How long it is remembered that somebody left a conversation: far longer than any gateway takes to read it.
const REMEMBER_PARTS: Duration = Duration::from_secs(600);
/// What has run out is kept a while longer, because clocks differ.
const GRACE: Duration = Duration::from_secs(3_600);

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The token with this id, its `jti`.
    Token(String),
    /// Every token of a user that was issued before an instant, in seconds since the epoch.
    Tokens {
        /// Whose.
        user: UserId,
        /// Those with an `iat` before it, or without one.
        issued_before: u64,
    },
    /// A part in a conversation. Written by [`super::Conversations::remove_participant`].
    Part {
        /// In which.
        conversation: ConversationId,
        /// Whose.
        user: UserId,
    },
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its place; whoever sees a number has seen, or can read, every lower one.
    pub number: u64,
    /// What was taken back.
    pub what: Revoked,
    /// Until when it matters, milliseconds since the epoch: by then the token has run out.
    pub until_ms: u64,
}

/// The list of what was taken back.
#[async_trait]
pub trait Revocations: Send + Sync {
    /// Takes tokens back. `false` when [`MAX_REVOKED`] are already; then nothing is changed.
    async fn revoke(&self, what: &Revoked, until_ms: u64) -> Result<bool, StoreError>;

    /// What follows a number, in order, at most `limit`.
    async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, StoreError>;
}

/// Until when it matters that somebody left a conversation now.
pub(super) fn parts_until() -> u64 {
    now_ms().saturating_add(REMEMBER_PARTS.as_millis() as u64)
}

/// What ended before this is forgotten.
pub(super) fn forgotten_before() -> i64 {
    columns::to_column(now_ms().saturating_sub(GRACE.as_millis() as u64))
}

/// An entry as it is kept: token, user, conversation, and the instant.
pub(super) type Columns = (Option<String>, Option<String>, Option<String>, Option<i64>);

impl Revoked {
    pub(super) fn columns(&self) -> Columns {
        match self {
            Self::Token(id) => (Some(id.clone()), None, None, None),
            Self::Tokens { user, issued_before } => {
                (None, Some(user.to_string()), None, Some(columns::to_column(*issued_before)))
            }
            Self::Part { conversation, user } => (None, Some(user.to_string()), Some(conversation.to_string()), None),
        }
    }

    pub(super) fn of(columns: Columns) -> Result<Self, StoreError> {
        match columns {
            (Some(id), ..) => Ok(Self::Token(id)),
            (None, Some(user), Some(conversation), _) => {
                Ok(Self::Part { conversation: columns::conversation(&conversation)?, user: columns::user(&user)? })
            }
            (None, Some(user), None, Some(before)) => {
                Ok(Self::Tokens { user: columns::user(&user)?, issued_before: columns::from_column(before) })
            }
            _ => Err(StoreError::Damaged("a revocation of nothing".to_owned())),
        }
    }
}

/// The entry in a row of number, token, user, conversation, instant and end.
pub(super) fn entry((number, what, until_ms): (i64, Columns, i64)) -> Result<Revocation, StoreError> {
    let (number, until_ms) = (columns::from_column(number), columns::from_column(until_ms));
    Ok(Revocation { number, what: Revoked::of(what)?, until_ms })
}
