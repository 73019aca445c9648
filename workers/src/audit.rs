//! Conservation: accepted = stored + tombstones + still in the log, checked by whoever stores.
//!
//! The owner of a partition's persist role makes three sums. All of them come out unless something accepted is missing:
//!
//! - **skipped**: offsets are dense, so what is read follows upon what the store has, from owner to owner. An offset
//!   that never came is an event that is in neither; what is left of it is a tombstone (`holes.rs`). Exact.
//! - **absent**: sequence numbers are dense, so what was stored in the last second is as many rows as numbers when one
//!   looks again. Exact up to [`MAX_ROWS`] a second, a sample beyond.
//! - **unstored**: the store has whatever was acknowledged to the log. If not, it is older than it was.
//!
//! What they cannot see: a row that is removed or changed later than a second after it was stored; rows that vanish
//! beyond the sample; an event the log forgot together with its offset, which the log's own checks have to find.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use everpost_core::{
    event::Record,
    lease::Lease,
    log::Batch,
    name::ConversationId,
    partition::Partition,
    position::Position,
    role::Role,
    store::{StoreError, Stretch},
};

use crate::{Ports, StepError, metrics::GapMetrics};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// At most one line in this time about what is missing.
const QUIET: Duration = Duration::from_secs(60);
/// Rows looked for at once, and in how many conversations.
const MAX_ROWS: u64 = 10_000;
const MAX_CONVERSATIONS: usize = 1_000;

/// What one worker knows of the events that went through its hands.
pub(crate) struct Audit {
    metrics: GapMetrics,
    /// Up to where each partition is known to be stored without a hole, and under which lease.
    followed: HashMap<Partition, (Lease, Position)>,
    /// Stored since the last look: first and last number of each conversation.
    fresh: HashMap<ConversationId, (u64, u64)>,
    rows: u64,
    looked: Instant,
    missing: Missing,
    /// How much was missing when somebody was told last, and when that was.
    told: (u64, Option<Instant>),
}

/// Events that are missing, by how it shows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Missing {
    pub(crate) skipped: u64,
    pub(crate) absent: u64,
    pub(crate) unstored: u64,
}

impl Audit {
    pub(crate) fn new(metrics: GapMetrics) -> Self {
        let (followed, fresh) = (HashMap::new(), HashMap::new());
        Self { metrics, followed, fresh, rows: 0, looked: Instant::now(), missing: Missing::default(), told: (0, None) }
    }

    /// Finds out, before the first window under a lease is stored, what the window has to follow upon. Whatever was
    /// acknowledged under older leases was committed before this lease was taken.
    pub(crate) async fn begin(&mut self, ports: &Ports, leases: &[Lease], window: &[Batch]) -> Result<(), StoreError> {
        self.followed.retain(|_, (lease, _)| leases.contains(lease));
        if window.iter().all(|batch| self.followed.contains_key(&batch.lease.partition)) {
            return Ok(());
        }
        let stored = ports.store.stored(ports.log.partitions().count()).await?;
        for lease in leases {
            let at = stored.get(lease.partition.index()).copied().unwrap_or_default();
            self.followed.entry(lease.partition).or_insert((*lease, at));
        }
        Ok(())
    }

    /// Up to where each partition is known to be stored without a hole.
    pub(crate) fn followed(&self) -> HashMap<Partition, Position> {
        self.followed.iter().map(|(&partition, &(_, at))| (partition, at)).collect()
    }

    /// Takes note of events for which there are only tombstones, because nobody knows what they were.
    pub(crate) fn lost(&mut self, events: u64) {
        self.missing.skipped += events;
    }

    /// Takes note of what was stored.
    pub(crate) fn stored(&mut self, window: &[Batch], done: &[(Lease, Position)]) {
        for batch in window.iter().filter(|batch| done.iter().any(|(lease, _)| *lease == batch.lease)) {
            let Some((_, at)) = self.followed.get_mut(&batch.lease.partition) else { continue };
            for record in &batch.records {
                // Offsets go on over generations.
                self.missing.skipped += record.position.offset().saturating_sub(at.offset() + 1);
                *at = record.position.max(*at);
            }
            batch.records.iter().for_each(|record| self.sample(record));
        }
    }

    fn sample(&mut self, record: &Record) {
        let Ok(event) = record.event() else { return };
        let Ok(conversation) = ConversationId::new(event.conversation) else { return };
        if self.rows >= MAX_ROWS {
            return;
        }
        if let Some((first, last)) = self.fresh.get_mut(&conversation) {
            (*first, *last) = (event.seq.min(*first), event.seq.max(*last));
        } else if self.fresh.len() < MAX_CONVERSATIONS {
            self.fresh.insert(conversation, (event.seq, event.seq));
        } else {
            return;
        }
        self.rows += 1;
    }

    /// Once a second: looks whether it is all there. Nothing waits for the answer but the next window.
    pub(crate) async fn look(&mut self, ports: &Ports, leases: &[Lease]) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        if let Err(error) = self.compare(ports, leases).await {
            tracing::debug!(%error, "conservation could not be checked this time");
        }
        self.metrics.show(&self.missing);
        self.complain();
    }

    async fn compare(&mut self, ports: &Ports, leases: &[Lease]) -> Result<(), StepError> {
        // In this order, because events are stored before they are acknowledged.
        let acked = ports.log.progress(Role::Persist).await?;
        let stored = ports.store.stored(acked.len()).await?;
        let ahead = leases.iter().filter_map(|lease| {
            let (acked, stored) = (acked.get(lease.partition.index())?, stored.get(lease.partition.index())?);
            Some(acked.offset().saturating_sub(stored.offset()))
        });
        self.missing.unstored = ahead.sum();
        let stretch = |(conversation, &(first, last)): (&ConversationId, &(u64, u64))| Stretch {
            conversation: conversation.clone(),
            first,
            last,
        };
        let stretches: Vec<Stretch> = self.fresh.iter().map(stretch).collect();
        if !stretches.is_empty() {
            let found: u64 = ports.store.count(&stretches).await?.iter().sum();
            let expected: u64 = stretches.iter().map(|stretch| stretch.last - stretch.first + 1).sum();
            self.missing.absent += expected.saturating_sub(found);
            self.fresh.clear();
            self.rows = 0;
        }
        Ok(())
    }

    fn complain(&mut self) {
        let Missing { skipped, absent, unstored } = self.missing;
        let (missing, (before, when)) = (skipped + absent + unstored, self.told);
        if missing > before && when.is_none_or(|when| when.elapsed() >= QUIET) {
            tracing::error!(skipped, absent, unstored, "accepted events are neither stored nor in the log");
            self.told = (missing, Some(Instant::now()));
        } else if missing < before {
            self.told.0 = missing;
        }
    }
}
