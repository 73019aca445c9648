//! A role's reader of the embedded log. What was read and not acknowledged is found again behind the acknowledged
//! position, so a new lease simply starts there.

use std::time::Duration;

use async_trait::async_trait;

use super::{SqliteLog, writer::Command};
use crate::{
    lease::Lease,
    log::{Batch, Follower, Log, LogError, Tail},
    partition::Partition,
    position::Position,
    role::Role,
};

/// Where the reader stands under a lease.
#[derive(Clone, Copy)]
struct Held {
    lease: Lease,
    at: Position,
    /// Where the log ended when the lease was new: somebody may have read up to there before.
    known: Position,
}

pub(super) struct SqliteFollower {
    log: SqliteLog,
    role: Role,
    held: Option<Held>,
}

impl SqliteFollower {
    pub(super) fn new(log: SqliteLog, role: Role) -> Self {
        Self { log, role, held: None }
    }

    async fn hold(&mut self, lease: Lease) -> Result<Held, LogError> {
        if let Some(held) = self.held.filter(|held| held.lease == lease) {
            return Ok(held);
        }
        let acked = self.log.progress(self.role).await?;
        let (at, known) = (acked.first().copied().unwrap_or_default(), *self.log.shared.end.borrow());
        Ok(Held { lease, at, known })
    }
}

#[async_trait]
impl Follower for SqliteFollower {
    async fn read(&mut self, leases: &[Lease], max: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        let Some(&lease) = leases.first() else {
            self.held = None;
            tokio::time::sleep(wait).await;
            return Ok(Vec::new());
        };
        let held = self.hold(lease).await?;
        self.held = Some(held);
        let at = held.at;
        let mut end = self.log.shared.end.clone();
        let _ = tokio::time::timeout(wait, end.wait_for(|end| *end > at)).await; // late means nothing new
        let Tail::Records(records) = self.log.read_after(Partition(0), at, max).await? else {
            return Err(LogError::Damaged(format!("{} has not seen what follows {at:?}, and it is gone", self.role)));
        };
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Vec::new()) };
        self.held = Some(Held { at: last.position, ..held });
        let redelivered = first.position <= held.known;
        Ok(vec![Batch { lease, records, redelivered }])
    }

    async fn ack(&mut self, done: &[(Lease, Position)]) -> Result<(), LogError> {
        let done = done.to_vec();
        self.log.command(|answer| Command::Ack { done, answer }).await?
    }
}
