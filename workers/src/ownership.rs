//! Who owns which partition: takes a fair share, beats for it, takes over from the dead, hands over when asked.
//!
//! See [`everpost_core::lease`] for the protocol. Everything here runs beside the work, because beats must not wait for
//! a slow database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use everpost_core::{
    lease::{BEAT_EVERY, Lease, LeaseView, Leases, SELF_FENCE_AFTER, TAKEOVER_AFTER},
    log::LogError,
    partition::{Partition, Partitions},
    role::Role,
};
use tokio_util::sync::CancellationToken;

/// A look at the leases that took longer says nothing about others standing still.
const SLOW: Duration = Duration::from_secs(1);
/// A worker that has not announced itself for this long is forgotten.
const RETIRE_AFTER: Duration = Duration::from_secs(30);

/// What a worker may work on right now; shared with the one who keeps it true.
#[derive(Clone)]
pub struct Held {
    state: Arc<Mutex<State>>,
}

struct State {
    leases: Vec<Lease>,
    confirmed: Instant,
}

impl Held {
    /// The leases held, none when they could not be confirmed for too long.
    pub fn leases(&self) -> Vec<Lease> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.confirmed.elapsed() < SELF_FENCE_AFTER { state.leases.clone() } else { Vec::new() }
    }

    fn set(&self, leases: Vec<Lease>, confirmed: Instant) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { leases, confirmed };
    }
}

/// Something that moves while its owner lives, and since when it stands still.
struct Pulse<T> {
    seen: T,
    since: Instant,
}

/// Keeps one worker's share of a role's partitions.
pub struct Ownership {
    role: Role,
    owner: String,
    leases: Arc<dyn Leases>,
    partitions: Partitions,
    held: Held,
    mine: Vec<Lease>,
    pulses: HashMap<Partition, Pulse<LeaseView>>,
    workers: HashMap<String, Pulse<u64>>,
}

impl Ownership {
    /// A new worker of the role, under a name of its own, owning nothing yet.
    pub fn new(role: Role, leases: Arc<dyn Leases>, partitions: Partitions) -> (Self, Held) {
        let held = Held { state: Arc::new(Mutex::new(State { leases: Vec::new(), confirmed: Instant::now() })) };
        let owner = everpost_core::name::InstanceId::random().to_string();
        let (pulses, workers) = (HashMap::new(), HashMap::new());
        (Self { role, owner, leases, partitions, held: held.clone(), mine: Vec::new(), pulses, workers }, held)
    }

    /// Keeps the share until `stop`, then gives everything back.
    pub async fn keep(&mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.step().await {
                self.pulses.clear();
                tracing::debug!(role = %self.role, %error, "the leases could not be kept this time");
            }
            let _ = tokio::time::timeout(BEAT_EVERY, stop.cancelled()).await; // whichever comes first
        }
        self.give_back().await;
    }

    /// Beats, looks, and takes or hands over what fairness asks for.
    pub async fn step(&mut self) -> Result<(), LogError> {
        let (began, before) = (Instant::now(), self.mine.len());
        self.beat().await?;
        let share = self.share().await?;
        let looking = Instant::now();
        let views = self.leases.view(self.role).await?;
        if looking.elapsed() > SLOW {
            self.pulses.clear();
        }
        for (partition, view) in self.partitions.iter().zip(views) {
            self.consider(partition, view, share).await?;
        }
        while self.mine.len() > share {
            let Some(surplus) = self.mine.pop() else { break };
            self.held.set(self.mine.clone(), began);
            self.leases.release(&surplus).await?;
        }
        self.held.set(self.mine.clone(), began);
        if self.mine.len() != before {
            tracing::info!(role = %self.role, partitions = self.mine.len(), "the share of partitions has changed");
        }
        Ok(())
    }

    async fn beat(&mut self) -> Result<(), LogError> {
        let began = Instant::now();
        let still = self.leases.beat(&self.mine).await?;
        let before = self.mine.len();
        let mut still = still.into_iter();
        self.mine.retain(|_| still.next().unwrap_or(false));
        if self.mine.len() < before {
            tracing::warn!(role = %self.role, lost = before - self.mine.len(), "partitions were taken over");
        }
        self.held.set(self.mine.clone(), began);
        Ok(())
    }

    /// How many partitions each living worker of the role should own.
    async fn share(&mut self) -> Result<usize, LogError> {
        let counts = self.leases.announce(self.role, &self.owner).await?;
        self.workers.retain(|known, _| counts.iter().any(|(worker, _)| worker == known));
        for (worker, count) in counts {
            let now = Instant::now();
            let pulse = self.workers.entry(worker).or_insert(Pulse { seen: count, since: now });
            if pulse.seen != count {
                *pulse = Pulse { seen: count, since: now };
            }
        }
        let gone: Vec<_> = self.workers.iter().filter(|(_, p)| p.since.elapsed() > RETIRE_AFTER).collect();
        for (worker, _) in gone {
            self.leases.retire(self.role, worker).await?;
        }
        let living = self.workers.values().filter(|pulse| pulse.since.elapsed() < TAKEOVER_AFTER).count();
        Ok(self.partitions.count().div_ceil(living.max(1)))
    }

    async fn consider(&mut self, partition: Partition, view: LeaseView, share: usize) -> Result<(), LogError> {
        if self.mine.iter().any(|lease| lease.partition == partition) {
            self.pulses.remove(&partition);
            return Ok(());
        }
        let now = Instant::now();
        let pulse = self.pulses.entry(partition).or_insert_with(|| Pulse { seen: view.clone(), since: now });
        if pulse.seen != view {
            *pulse = Pulse { seen: view.clone(), since: now };
        }
        let free = view.owner.is_none();
        let abandoned = !free && pulse.since.elapsed() >= TAKEOVER_AFTER;
        if (free || abandoned) && self.mine.len() < share {
            let lease = self.leases.acquire(self.role, partition, &self.owner, &view).await?;
            if abandoned && lease.is_some() {
                tracing::info!(role = %self.role, partition = partition.0, "took over from a worker that is gone");
            }
            self.mine.extend(lease);
        }
        Ok(())
    }

    async fn give_back(&mut self) {
        self.held.set(Vec::new(), Instant::now());
        // First of all: whoever finds a free lease must not count this worker's share any more.
        let _ = self.leases.retire(self.role, &self.owner).await; // whoever stays notices by itself
        for lease in self.mine.drain(..) {
            if let Err(error) = self.leases.release(&lease).await {
                tracing::debug!(role = %self.role, %error, "a lease was left to run out");
            }
        }
    }
}
