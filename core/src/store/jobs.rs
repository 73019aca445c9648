//! Jobs: work that was handed off because it cannot be done now, and is due later.
//!
//! An unordered role hands its work off at the first failure, so that a provider's outage holds up nothing. The store
//! keeps jobs, because it outlives whatever becomes of the log; their times are the database's own, so a delay survives
//! every process and no sleep holds an event.
//!
//! ```text
//! read from the log ──hand_off: jobs and progress in one transaction──▶ due ──settle──▶ done
//!                     then acknowledge; until then the same again         ▲     │
//!                     is taken for what it is                             └─────┘ again, after a delay
//! ```

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;
use crate::{lease::Lease, position::Position};

/// Work to be done later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// The event it comes from.
    pub position: Position,
    /// Which of the jobs of that event, 0, 1, 2 …
    pub part: u16,
    /// How long it is to wait.
    pub delay: Duration,
    /// What its role needs to know. References, not payloads.
    pub task: String,
}

/// Work that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its identity.
    pub id: Uuid,
    /// The event it comes from.
    pub position: Position,
    /// Which of the jobs of that event.
    pub part: u16,
    /// How often it was tried since it was handed off.
    pub attempts: u32,
    /// What its role needs to know.
    pub task: String,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done, or given up: the job is no more.
    Done,
    /// It is to be tried again after a delay.
    Again(Duration),
}

/// Durable jobs of roles and partitions. Everything is fenced by the lease of their owner, who alone works on them.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// Records jobs and that everything up to a position has been handed off, in one transaction. Whoever reads the
    /// same events again, because an acknowledgement was lost, may hand them off again: what is recorded or behind the
    /// progress already is left as it is, done or not. Returns how many jobs were new.
    async fn hand_off(&self, lease: &Lease, upto: Position, jobs: &[NewJob]) -> Result<u64, StoreError>;

    /// At most `max` jobs that are due, those due first in front. They stay due until they are settled.
    async fn due(&self, lease: &Lease, max: usize) -> Result<Vec<Job>, StoreError>;

    /// Says what became of a job. Returns whether it was there; settling twice is harmless.
    async fn settle(&self, lease: &Lease, id: Uuid, verdict: Verdict) -> Result<bool, StoreError>;

    /// How many jobs of the lease's partition are not done, due or not.
    async fn count_jobs(&self, lease: &Lease) -> Result<u64, StoreError>;
}

/// A delay as a column.
pub(super) fn milliseconds(delay: Duration) -> i64 {
    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 2)
}
