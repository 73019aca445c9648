//! The log: where an event is accepted, and what its sender is told.
//!
//! The log is a fixed number of partitions. In each, events have dense offsets; in each conversation, dense sequence
//! numbers, given by the same atomic step that accepts the event. Roles follow the log as consumer groups, one owner to
//! a partition, and acknowledge what they have done. Nothing is removed that a role has not acknowledged.

mod error;
pub mod redis;
pub mod sqlite;
mod vitals;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

pub use self::{
    error::LogError,
    vitals::{Memory, Vitals},
};
use crate::{
    event::{Draft, Record},
    generation::Generation,
    identity::Digest,
    lease::Lease,
    name::ConversationId,
    partition::{Partition, Partitions},
    position::Position,
    role::Role,
};

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// In the memory of the log; a crash may lose it. Only on request.
    Memory,
    /// On stable storage of the log.
    Fsync,
    /// In the database.
    Stored,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Fsync => "fsync",
            Self::Stored => "stored",
        })
    }
}

/// The answer to one draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It has its place and is as durable as [`Log::durability`] says.
    Accepted {
        /// Its number in the conversation.
        seq: u64,
        /// Its place in the partition.
        position: Position,
    },
    /// Its identity is known: this is the event it repeats. Nothing was changed.
    Duplicate(Prior),
    /// Its key may be older than the log's memory: ask the store, mark it verified, append it again.
    Unverified,
    /// The log does not know the conversation: [`Log::hydrate`] it, append again.
    Unhydrated,
}

/// The first event with an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prior {
    /// Its number in the conversation.
    pub seq: u64,
    /// Its place in the partition.
    pub position: Position,
    /// Its identity.
    pub message_id: Uuid,
    /// The digest of its body; a repeat with another body is a mistake.
    pub body: Digest,
}

/// How far a conversation has come in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Which one.
    pub conversation: ConversationId,
    /// Its last stored sequence number, 0 when it has none.
    pub seq: u64,
}

/// What lies after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// The next records without a gap; none when the position is the end.
    Records(Vec<Record>),
    /// The records right after the position are no longer in the log; the store has them.
    Trimmed,
}

/// Records of one partition that its owner is to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Under which lease they were read.
    pub lease: Lease,
    /// In order, without gaps.
    pub records: Vec<Record>,
    /// Whether they may have been handed out before, to this reader or to an earlier owner.
    pub redelivered: bool,
}

/// Why a partition cannot go on as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server that holds it was started anew, or it is another server: its last events may be missing.
    Restarted,
    /// Nothing is known of it: it was emptied.
    Emptied,
    /// Some of what belongs to it is gone.
    Incomplete,
    /// The consumer group of a role is gone, or has forgotten what it handed out, or the role's lease is gone.
    Ungrouped,
    /// It is an older copy of itself.
    Older,
    /// Somebody began a new generation and did not finish.
    HalfRenewed,
}

impl Fault {
    /// One word for it: log field, metric label, column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restarted => "restarted",
            Self::Emptied => "emptied",
            Self::Incomplete => "incomplete",
            Self::Ungrouped => "ungrouped",
            Self::Older => "older",
            Self::HalfRenewed => "half_renewed",
        }
    }
}

/// How a partition is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which one.
    pub partition: Partition,
    /// The generation it is in; 0 when it does not know.
    pub generation: u16,
    /// What is wrong with it, if anything is.
    pub fault: Option<Fault>,
    /// The last offset that is left.
    pub end: u64,
    /// Whether what it knows of conversations and identities is what it knew at that offset.
    pub intact: bool,
    /// The last offset this process has seen accepted; beyond `end` it is lost.
    pub seen: u64,
    /// What the adapter recognises this very state by.
    pub witness: String,
}

/// How a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// In which generation.
    pub generation: Generation,
    /// Whether it may go on with the sequence numbers and identities it knows; else it forgets them, and asks the store
    /// for each conversation again.
    pub intact: bool,
    /// Up to where everything is stored; groups that are gone begin there.
    pub stored: Position,
}

/// A durable, partitioned log of events.
#[async_trait]
pub trait Log: Send + Sync {
    /// How many partitions it has; fixed when it was installed.
    fn partitions(&self) -> Partitions;

    /// Which installation this is. Cursors of another one mean nothing here.
    fn epoch(&self) -> u32;

    /// What [`Appended::Accepted`] promises.
    fn durability(&self) -> Durability;

    /// How many drafts [`Log::append`] takes at most.
    fn max_batch(&self) -> usize;

    /// Appends drafts of one partition, all that can be in one atomic step, in their order, and returns when they are
    /// durable. The answers stand in the order of the drafts. A draft that is [`Appended::Unverified`] or
    /// [`Appended::Unhydrated`] holds back the later drafts of its conversation with the same answer, so that order
    /// survives the second try. After an error the outcome is unknown; repeating the same drafts is safe.
    async fn append(&self, partition: Partition, drafts: &[Draft]) -> Result<Vec<Appended>, LogError>;

    /// The generation of a partition as far as this process knows.
    fn generation(&self, partition: Partition) -> u16;

    /// Tells the log how far conversations of a partition have come in the store. Never moves one back; idempotent.
    /// The store must have been asked in that generation: [`LogError::Renewing`] when it is no longer the present one.
    async fn hydrate(&self, partition: Partition, generation: u16, tops: &[Top]) -> Result<(), LogError>;

    /// At most about `max` records after a position, for anybody who wants to look; needs no lease, changes nothing.
    async fn read_after(&self, partition: Partition, after: Position, max: usize) -> Result<Tail, LogError>;

    /// The last position of each partition.
    async fn ends(&self) -> Result<Vec<Position>, LogError>;

    /// Up to where a role has acknowledged each partition.
    async fn progress(&self, role: Role) -> Result<Vec<Position>, LogError>;

    /// How the log is doing; cheap enough to be asked every second.
    async fn vitals(&self) -> Result<Vitals, LogError>;

    /// What makes a promise of this log false as it is set up now, each with its remedy. Nothing, while all is well.
    async fn faults(&self) -> Result<Vec<String>, LogError>;

    /// Joins the consumer group of a role.
    async fn follow(&self, role: Role) -> Result<Box<dyn Follower>, LogError>;

    /// Removes from the front of the leased partition what every role has acknowledged, but never the last `keep`
    /// records. Returns how many were removed.
    async fn trim(&self, lease: &Lease, keep: u64) -> Result<u64, LogError>;

    /// The last number given in each conversation of a partition that the log knows.
    async fn tops(&self, partition: Partition) -> Result<Vec<Top>, LogError>;

    /// The same of some conversations of a partition, in the order asked; 0 where the log does not know.
    async fn tops_of(&self, partition: Partition, conversations: &[ConversationId]) -> Result<Vec<u64>, LogError>;

    /// Looks at every partition for signs that it is not what it was, and learns their generations.
    async fn survey(&self) -> Result<Vec<Condition>, LogError>;

    /// Lets a partition take nothing more until it is renewed, if it is in that generation. Idempotent.
    async fn freeze(&self, partition: Partition, generation: u16) -> Result<(), LogError>;

    /// Lets a partition go on in a new generation, with nobody's leases; `false`, and nothing changed, if it no longer
    /// looks as it was surveyed.
    async fn renew(&self, condition: &Condition, renewal: &Renewal) -> Result<bool, LogError>;

    /// The next records that are left after a position, whatever is missing between them, of a partition that is not
    /// sound; none at the end.
    async fn salvage(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Record>, LogError>;
}

/// A member of a role's consumer group. What it has read and not acknowledged is read again by the next owner, in
/// order.
#[async_trait]
pub trait Follower: Send + Sync {
    /// The next records of the leased partitions, about `max` in all: for a lease not seen before what earlier owners
    /// left unacknowledged, then new ones. Waits up to `wait` when there is nothing. After an error whatever was on its
    /// way is read again. Must not be cancelled.
    async fn read(&mut self, leases: &[Lease], max: usize, wait: Duration) -> Result<Vec<Batch>, LogError>;

    /// Acknowledges everything read under these leases up to and including the positions. [`LogError::Fenced`] if a
    /// lease has a newer owner; then nothing of that lease was changed.
    async fn ack(&mut self, done: &[(Lease, Position)]) -> Result<(), LogError>;
}
