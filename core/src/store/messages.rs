//! Every sequenced event, for good.

use async_trait::async_trait;

use super::StoreError;
use crate::{
    event::Record,
    identity::Key,
    lease::Lease,
    log::{Prior, Top},
    name::{ConversationId, UserId},
    position::Position,
};

/// A page somebody wants: the events of a conversation after a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Want {
    /// Of which conversation.
    pub conversation: ConversationId,
    /// After which number; 0 for the beginning.
    pub after: u64,
}

/// A part of a conversation, from one sequence number to another, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Of which conversation.
    pub conversation: ConversationId,
    /// Where it begins.
    pub first: u64,
    /// Where it ends.
    pub last: u64,
}

/// A publish the store may know: conversation, sender, key.
pub type Ask = (ConversationId, UserId, Key);

/// Sequenced events, unique by conversation and sequence number, and by conversation, sender and key.
#[async_trait]
pub trait Messages: Send + Sync {
    /// Stores records that were read under leases, each lease with the last position it has read, in one transaction.
    ///
    /// The transaction counts only while every lease is the newest its partition has shown here
    /// ([`StoreError::Fenced`] otherwise, nothing changed). A record that is stored already is left as it is, so the
    /// same records may come again. A record whose key is taken by an earlier event becomes a `tombstone` in its place
    /// with data `{"reason":"duplicate","of":SEQ}` and no key. A place taken by another event is [`StoreError::Fork`].
    /// Conversations need not exist. Returns how many records were new.
    async fn persist(&self, done: &[(Lease, Position)], records: &[Record]) -> Result<u64, StoreError>;

    /// Up to which position everything of each partition is stored, by partition; [`Position::ZERO`] where nothing is.
    async fn stored(&self, partitions: usize) -> Result<Vec<Position>, StoreError>;

    /// How many events of each stretch are stored, tombstones included, in the order asked.
    async fn count(&self, stretches: &[Stretch]) -> Result<Vec<u64>, StoreError>;

    /// For each want, at most `limit` records in sequence order, in the order asked.
    async fn after(&self, wants: &[Want], limit: usize) -> Result<Vec<Vec<Record>>, StoreError>;

    /// The `limit` records before a sequence number (all when `None`), in sequence order.
    async fn before(
        &self,
        conversation: &ConversationId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// The last stored sequence number of each conversation, in the order asked; 0 where nothing is stored.
    async fn tops(&self, conversations: &[ConversationId]) -> Result<Vec<Top>, StoreError>;

    /// For each conversation and position, the last stored sequence number at or before that position, 0 if none.
    async fn locate(&self, at: &[(ConversationId, Position)]) -> Result<Vec<u64>, StoreError>;

    /// The event each key was first used for, in the order asked.
    async fn priors(&self, asks: &[Ask]) -> Result<Vec<Option<Prior>>, StoreError>;
}
