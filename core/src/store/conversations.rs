//! Conversations and who takes part in them.

use async_trait::async_trait;

use super::StoreError;
use crate::name::{ConversationId, UserId};

/// A conversation to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConversation {
    /// Its name for good.
    pub id: ConversationId,
    /// What people call it.
    pub title: Option<String>,
    /// Who takes part at first; repeated names count once.
    pub participants: Vec<UserId>,
    /// When, milliseconds since the epoch.
    pub created_ms: u64,
}

/// A conversation as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its name.
    pub id: ConversationId,
    /// What people call it.
    pub title: Option<String>,
    /// Who takes part, sorted.
    pub participants: Vec<UserId>,
    /// When it was created, milliseconds since the epoch.
    pub created_ms: u64,
}

/// The outcome of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    New,
    /// The name was taken; nothing was changed.
    Exists,
}

/// How a user stands to a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Takes part in it.
    Participant,
    /// It exists, the user has no part in it.
    Stranger,
    /// There is no such conversation.
    Unknown,
}

/// Conversations and membership.
#[async_trait]
pub trait Conversations: Send + Sync {
    /// Creates a conversation with its participants, all or nothing.
    async fn create(&self, conversation: &NewConversation) -> Result<Created, StoreError>;

    /// A conversation with its participants.
    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, StoreError>;

    /// The conversations of each user, sorted by name, in the order the users were asked for.
    async fn conversations_of(&self, users: &[UserId]) -> Result<Vec<Vec<ConversationId>>, StoreError>;

    /// Several conversations with their participants, in the order asked, leaving out those that do not exist.
    async fn conversations(&self, ids: &[ConversationId]) -> Result<Vec<Conversation>, StoreError>;

    /// How many take part in each conversation, in the order asked, counted up to `most`.
    async fn sizes(&self, ids: &[ConversationId], most: usize) -> Result<Vec<usize>, StoreError>;

    /// How each user stands to each conversation, in the order asked.
    async fn standings(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Standing>, StoreError>;

    /// Adds a participant. `None` if there is no such conversation, otherwise whether the user is new to it.
    async fn add_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError>;

    /// Removes a participant. `None` if there is no such conversation, otherwise whether the user was in it.
    async fn remove_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError>;
}
