//! Dead letters: events that could not be handled, kept until somebody decides about them.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{event::Record, lease::Lease, name::ConversationId, position::Position, role::Role};

/// Why an event was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The database refuses it for its own sake.
    Refused,
    /// It is not in the format of [`crate::event`].
    Unreadable,
    /// Workers crashed over it, again and again.
    Crash,
}

impl Reason {
    /// Why a record is given up that the store refuses.
    pub fn of_refusal(record: &Record) -> Self {
        if record.event().is_ok() { Self::Refused } else { Self::Unreadable }
    }

    /// The one word for it: column, metric label, and what clients read in the tombstone.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Crash => "crash",
        }
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It waits for somebody.
    Dead,
    /// Its event is where it belongs after all.
    Redriven,
    /// Its payload was given up; its tombstone stays.
    Deleted,
}

impl Fate {
    /// Every fate there is.
    pub const ALL: [Self; 3] = [Self::Dead, Self::Redriven, Self::Deleted];

    /// The one word for it: column, flag value, field of an answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Redriven => "redriven",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a fate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state of a dead letter; there are: dead, redriven, deleted")]
pub struct UnknownFate(String);

impl FromStr for Fate {
    type Err = UnknownFate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|fate| fate.as_str() == text).ok_or_else(|| UnknownFate(text.to_owned()))
    }
}

/// An event that is given up, as its worker tells it.
#[derive(Debug, Clone)]
pub struct Death<'a> {
    /// Under which lease it was read; everything before it is done.
    pub lease: Lease,
    /// What was read.
    pub record: &'a Record,
    /// Why it is given up.
    pub reason: Reason,
    /// The cause in words, for people. Never a payload.
    pub detail: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed first, milliseconds since the epoch.
    pub first_failed_ms: u64,
    /// When it failed last.
    pub last_failed_ms: u64,
}

/// A dead letter without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its identity, a version 7 UUID: later ones are greater.
    pub id: Uuid,
    /// Which role gave it up.
    pub role: String,
    /// Where it was read.
    pub partition: u16,
    /// Its place there.
    pub position: Position,
    /// The conversation it belongs to, as far as that is legible; so for the following.
    pub conversation: Option<String>,
    /// Its number within the conversation.
    pub seq: Option<u64>,
    /// The event's identity.
    pub message_id: Option<Uuid>,
    /// Who sent it.
    pub sender: Option<String>,
    /// The sender's idempotency key.
    pub key: Option<String>,
    /// Its type.
    pub event: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// The cause in words.
    pub detail: String,
    /// How often it was tried, redrives included.
    pub attempts: u32,
    /// When it failed first, milliseconds since the epoch.
    pub first_failed_ms: u64,
    /// When it failed last.
    pub last_failed_ms: u64,
    /// What became of it.
    pub fate: Fate,
    /// Who decided that, why and when, once somebody has.
    pub decision: Option<Decision>,
}

/// Who decided about a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who.
    pub by: String,
    /// Why, in their words.
    pub why: String,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// Which dead letters somebody wants to see; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sieve {
    /// Of which role.
    pub role: Option<Role>,
    /// Of which conversation.
    pub conversation: Option<ConversationId>,
    /// With which fate.
    pub fate: Option<Fate>,
}

/// What became of a redrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redriven {
    /// The event is where it belongs now.
    Done,
    /// It was there already.
    Already,
    /// There is no such dead letter.
    Unknown,
    /// It cannot be, for this reason; the dead letter stays as it was.
    Refused(String),
}

/// Events that were given up: what was read, why, and what became of it.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Gives an event up: fences the lease, lays a `tombstone` with data `{"reason":REASON,"dead_letter":ID}` in its
    /// place and keeps the event as a dead letter, in one transaction. `None`, and nothing laid, if the event was stored
    /// or given up before. A role that stores nothing leaves no tombstone, nor does an event whose place is not legible.
    ///
    /// The tombstone keeps the event's key, so that a repeat still counts as one, unless that is what cannot be stored.
    /// A tombstone that is refused as well is [`StoreError::Refused`]: then the event is not to blame.
    async fn bury(&self, death: &Death<'_>) -> Result<Option<Uuid>, StoreError>;

    /// At most `limit` dead letters after a given one, in the order they came.
    async fn dead_letters(
        &self,
        sieve: &Sieve,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// One of them.
    async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError>;

    /// The data of its event as it was read; `None` when there is no such letter or its payload was given up.
    async fn dead_letter_payload(&self, id: Uuid) -> Result<Option<Vec<u8>>, StoreError>;

    /// How many there are.
    async fn count_dead_letters(&self, sieve: &Sieve) -> Result<u64, StoreError>;

    /// Puts an event where its tombstone is, so that it has the number it always had. Twice is harmless.
    async fn redrive(&self, id: Uuid, decision: &Decision) -> Result<Redriven, StoreError>;

    /// Gives the payload up; the tombstone stays. Says whether there was one to give up, `None` without such a letter.
    async fn delete_dead_letter(&self, id: Uuid, decision: &Decision) -> Result<Option<bool>, StoreError>;
}
