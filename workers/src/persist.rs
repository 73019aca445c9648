//! Stores events: a window of the log becomes one transaction.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use everpost_core::{
    event::Record,
    lease::Lease,
    log::{Batch, Follower, LogError},
    position::Position,
    role::Role,
    store::StoreError,
};

use crate::{Held, Ports, Step, StepError, Worker};

/// Records in one transaction, about.
const WINDOW: usize = 1_000;
/// How long a step waits for something to do.
const WAIT: Duration = Duration::from_secs(1);
/// A window this small waits once for company: a commit costs the same for one record as for many.
const SMALL: usize = 100;
const LINGER: Duration = Duration::from_millis(15);
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// Records the log keeps of each partition although all roles are done with them, for clients that come back.
const KEEP: u64 = 4_096;

/// The `persist` role.
pub struct Persist {
    follower: Box<dyn Follower>,
    held: Held,
    ports: Ports,
    /// Read and not stored yet.
    window: Vec<Batch>,
    trimmed: Instant,
}

impl Persist {
    /// A worker that stores what the follower reads.
    pub fn new(follower: Box<dyn Follower>, held: Held, ports: Ports) -> Self {
        Self { follower, held, ports, window: Vec::new(), trimmed: Instant::now() }
    }

    async fn fill(&mut self, leases: &[Lease]) -> Result<(), StepError> {
        if self.window.is_empty() {
            self.window = self.follower.read(leases, WINDOW, WAIT).await?;
            if (1..SMALL).contains(&size(&self.window)) {
                tokio::time::sleep(LINGER).await;
                let company = self.follower.read(leases, WINDOW, Duration::ZERO).await?;
                self.window.extend(company);
            }
        }
        Ok(())
    }

    /// Stores the window. When one of its leases turns out to be lost, the others are stored one by one.
    async fn store(&mut self) -> Result<Vec<(Lease, Position)>, StepError> {
        let done = ends(&self.window);
        let records: Vec<Record> = self.window.iter().flat_map(|batch| batch.records.iter().cloned()).collect();
        match self.ports.store.persist(&done, &records).await {
            Ok(_) => Ok(done),
            Err(StoreError::Fenced) => self.store_one_by_one().await,
            Err(error) => Err(error.into()),
        }
    }

    async fn store_one_by_one(&mut self) -> Result<Vec<(Lease, Position)>, StepError> {
        let mut done = HashMap::new();
        for batch in &self.window {
            let end = ends(std::slice::from_ref(batch));
            match self.ports.store.persist(&end, &batch.records).await {
                Ok(_) => done.extend(end),
                Err(StoreError::Fenced) => {
                    tracing::warn!(partition = batch.lease.partition.0, "another worker stores this partition now");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done.into_iter().collect())
    }

    async fn acknowledge(&mut self, done: &[(Lease, Position)]) -> Result<(), StepError> {
        match self.follower.ack(done).await {
            // Stored is stored; the new owner reads it again and finds it there.
            Ok(()) | Err(LogError::Fenced) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn trim(&mut self, leases: &[Lease]) -> Result<(), StepError> {
        if self.trimmed.elapsed() < TRIM_EVERY {
            return Ok(());
        }
        self.trimmed = Instant::now();
        for lease in leases {
            match self.ports.log.trim(lease, KEEP).await {
                Ok(_) | Err(LogError::Fenced) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn size(window: &[Batch]) -> usize {
    window.iter().map(|batch| batch.records.len()).sum()
}

/// The last position of each lease in the window.
fn ends(window: &[Batch]) -> Vec<(Lease, Position)> {
    let mut ends = HashMap::new();
    for batch in window {
        ends.extend(batch.records.last().map(|last| (batch.lease, last.position)));
    }
    ends.into_iter().collect()
}

#[async_trait]
impl Worker for Persist {
    const ROLE: Role = Role::Persist;

    async fn step(&mut self) -> Result<Step, StepError> {
        let leases = self.held.leases();
        self.fill(&leases).await?;
        self.window.retain(|batch| leases.contains(&batch.lease));
        let records = size(&self.window);
        if records > 0 {
            let done = self.store().await?;
            self.window.clear();
            self.acknowledge(&done).await?;
        }
        self.trim(&leases).await?;
        Ok(if records > 0 { Step::Worked(records) } else { Step::Idle })
    }
}
