//! Leases: at any time, one worker owns a role's partition.
//!
//! A lease is an owner, a token that grows with every change of owner, and a beat the owner counts up. There is no
//! time-to-live and no wall clock: a contender takes a lease over only after it has itself watched the beat stand still
//! for [`TAKEOVER_AFTER`], on its own monotonic clock, while its own reads succeeded. Whoever lost a lease finds out
//! from its token: every acknowledgement and every transaction checks it.
//!
//! ```text
//!   free ──acquire──▶ owned(token) ──beat──▶ owned(token)
//!                        │  └──release──▶ free(token)
//!                        └── no beat seen for 5 s ──acquire──▶ owned(token + 1)
//! ```

use std::time::Duration;

use async_trait::async_trait;

use crate::{log::LogError, partition::Partition, role::Role};

/// How often an owner beats.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a beat must stand still before somebody else takes over.
pub const TAKEOVER_AFTER: Duration = Duration::from_secs(5);
/// How long an owner that cannot beat goes on; well before anybody could take over.
pub const SELF_FENCE_AFTER: Duration = Duration::from_secs(3);

/// The right to work on one partition for one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// What for.
    pub role: Role,
    /// Where.
    pub partition: Partition,
    /// Grows with every owner; the higher one wins everywhere.
    pub token: u64,
}

/// A lease as somebody looking at it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseView {
    /// Who has it, if anybody.
    pub owner: Option<String>,
    /// The token of the current or last owner.
    pub token: u64,
    /// Counts up while the owner lives.
    pub beat: u64,
}

impl LeaseView {
    /// Whether this is still the lease somebody was given, and not given back.
    pub fn is_held(&self, lease: &Lease) -> bool {
        self.token == lease.token && self.owner.is_some()
    }
}

/// Where leases are kept: beside the log they guard.
#[async_trait]
pub trait Leases: Send + Sync {
    /// All leases of a role, one for each partition in order.
    async fn view(&self, role: Role) -> Result<Vec<LeaseView>, LogError>;

    /// Makes `owner` known as a worker of the role and returns every known worker with its count of announcements. A
    /// worker whose count stands still is dead; it takes no share.
    async fn announce(&self, role: Role, owner: &str) -> Result<Vec<(String, u64)>, LogError>;

    /// Takes a lease that still looks exactly as it was seen; `None` when somebody was faster.
    async fn acquire(
        &self,
        role: Role,
        partition: Partition,
        owner: &str,
        seen: &LeaseView,
    ) -> Result<Option<Lease>, LogError>;

    /// Beats for all these leases; says for each whether it is still held.
    async fn beat(&self, leases: &[Lease]) -> Result<Vec<bool>, LogError>;

    /// Gives a lease back, so that the next owner need not wait. Harmless when it is no longer held.
    async fn release(&self, lease: &Lease) -> Result<(), LogError>;

    /// Forgets a worker of the role, at the end of its life or when it was found dead.
    async fn retire(&self, role: Role, owner: &str) -> Result<(), LogError>;
}
