//! The conversations of a user as a list shows them: the newest first, each with its last event and the user's marks.

use async_trait::async_trait;

use super::{Conversation, Reach, StoreError};
use crate::{
    event::Record,
    name::{ConversationId, UserId},
};

/// A conversation as one of its participants finds it in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The conversation itself.
    pub conversation: Conversation,
    /// Its last stored event.
    pub last: Option<Record>,
    /// How far the user has come in it.
    pub reach: Reach,
    /// Its place in the list.
    pub activity: Activity,
}

/// A place in a list that is sorted by when something happened last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// When the last event was accepted, or the conversation created; milliseconds since the epoch.
    pub at_ms: u64,
    /// Where.
    pub conversation: ConversationId,
}

/// Lists of conversations.
#[async_trait]
pub trait Overviews: Send + Sync {
    /// At most `limit` conversations of a user, those where something happened last first, from behind a place on.
    ///
    /// There is no index for that order: keeping one would cost something with every event. The last event of each of
    /// the user's conversations is looked up instead, which is one look into the primary key each.
    async fn overviews(
        &self,
        user: &UserId,
        behind: Option<&Activity>,
        limit: usize,
    ) -> Result<Vec<Overview>, StoreError>;
}
