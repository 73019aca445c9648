//! Recovery: notices that a log is not what it was, and lets it go on without mixing two pasts.
//!
//! A Redis that was restarted, emptied, set back to an older file or deprived of a key may have forgotten events that
//! were accepted, and nobody can prove that it has not. So each such partition goes on in a new generation:
//!
//! ```text
//! freeze and survey the log → store: generation + 1, base = what survived or is stored, old leases fenced
//!                           → store what survived and is not stored, if the log can no longer number it
//!                           → log: the new generation, its groups, nobody's leases
//! ```
//!
//! Any process may do this at any time, several at once and half of it: the store takes a generation from one of them
//! only, the log takes it only if it still looks as it was surveyed, and what one left half done the next one begins
//! anew. Appends of the old generation are refused by the log, transactions of the old generation by the store. Where
//! nothing was lost nobody notices but for a pause.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{
    generation::History,
    lease::Lease,
    log::{Condition, Fault, Log, LogError, Renewal},
    partition::Partition,
    position::Position,
    role::Role,
    store::{Begun, Store, StoreError, isolation::Refused},
};

/// How often the log is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Two looks are at least this far apart, however many ask for one.
const PAUSE: Duration = Duration::from_millis(50);
/// How long whoever began a generation may take before somebody else begins another one.
const GRACE: Duration = Duration::from_millis(300);
/// Records stored in one transaction when the log itself can no longer hand them out.
const RESCUE: usize = 500;

/// Why the log could not be made whole this time.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is older than its log: it was restored from a backup.
    #[error(
        "partition {} of the log is in generation {log}, the database knows only {store}: the database was restored \
         from a backup; restore a newer one, or empty Redis so that the log goes on from what the database has",
        partition.0
    )]
    StoreIsOlder {
        /// Where.
        partition: Partition,
        /// The log's generation.
        log: u16,
        /// The store's.
        store: u16,
    },
}

/// How often partitions went on in a new generation, and what is known to be lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many partitions began one, by fault.
    pub begun: BTreeMap<&'static str, u64>,
    /// Events that this process saw accepted and that are neither in the log nor in the store; their senders keep them
    /// until they are told that they are stored.
    pub lost: u64,
}

/// Watches over one log. Shared by everybody in the process who depends on it.
pub struct Recovery {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    history: watch::Sender<Arc<History>>,
    looked: watch::Sender<u64>,
    asked: Notify,
    doubted: AtomicBool,
    tally: Mutex<Tally>,
}

impl Recovery {
    /// Makes the log whole before anything begins to use it.
    pub async fn open(log: Arc<dyn Log>, store: Arc<dyn Store>) -> Result<Arc<Self>, RecoveryError> {
        let (history, looked) = (watch::Sender::default(), watch::Sender::default());
        let recovery = Self {
            log,
            store,
            history,
            looked,
            asked: Notify::new(),
            doubted: AtomicBool::new(false),
            tally: Mutex::default(),
        };
        recovery.load().await?;
        // A store that is ahead has seen events this log has not: it is an older copy, whatever it says of itself.
        let stored = recovery.store.stored(recovery.log.partitions().count()).await?;
        let mut conditions = recovery.log.survey().await?;
        for (condition, stored) in conditions.iter_mut().zip(stored) {
            if condition.fault.is_none() && stored.offset() > condition.end {
                condition.fault = Some(Fault::Older);
            }
        }
        recovery.mend(&conditions).await?;
        recovery.check().await?;
        Ok(Arc::new(recovery))
    }

    /// The generations so far.
    pub fn history(&self) -> Arc<History> {
        self.history.borrow().clone()
    }

    /// Tells when there is a new generation.
    pub fn watch(&self) -> watch::Receiver<Arc<History>> {
        self.history.subscribe()
    }

    /// What has happened since the process started.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Somebody who holds a lease was refused by the store: it may know of a generation that the log has not heard of.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
        self.asked.notify_one();
    }

    /// Asks for a look at the log and waits until there was one, `patience` at most.
    pub async fn settle(&self, patience: Duration) {
        let mut looked = self.looked.subscribe();
        self.asked.notify_one();
        let _ = tokio::time::timeout(patience, looked.changed()).await; // the caller tries again in any case
    }

    /// Looks at the log every second, and whenever asked to, for ever. May be cancelled: what it leaves half done is
    /// begun anew by the next who looks.
    pub async fn run(&self) {
        let mut failures = 0_u64;
        loop {
            let _ = tokio::time::timeout(EVERY, self.asked.notified()).await; // whichever comes first
            match self.check().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    if failures.is_multiple_of(20) {
                        tracing::warn!(%error, "the event log could not be looked after; publishing may have to wait");
                    }
                    failures += 1;
                }
            }
            self.looked.send_modify(|looked| *looked += 1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Looks at the log once and mends what is wrong with it.
    pub async fn check(&self) -> Result<(), RecoveryError> {
        let doubted = self.doubted.swap(false, Ordering::Relaxed);
        let outcome = self.look(doubted).await;
        if outcome.is_err() {
            self.doubted.store(true, Ordering::Relaxed); // a generation may have begun and not come to its end
        }
        outcome
    }

    async fn look(&self, doubted: bool) -> Result<(), RecoveryError> {
        if self.is_sound(&self.log.survey().await?) && !doubted {
            return Ok(());
        }
        let conditions = self.look_again().await?;
        if !conditions.iter().any(|condition| self.is_behind(condition)) {
            return self.mend(&conditions).await;
        }
        // Somebody is about it, or died over it.
        tokio::time::sleep(GRACE).await;
        let conditions = self.look_again().await?;
        self.mend(&conditions).await
    }

    /// The store first: what is surveyed after it was asked cannot be older than what it says.
    async fn look_again(&self) -> Result<Vec<Condition>, RecoveryError> {
        self.load().await?;
        Ok(self.log.survey().await?)
    }

    fn is_behind(&self, condition: &Condition) -> bool {
        condition.generation < self.history().current(condition.partition).number
    }

    fn is_sound(&self, conditions: &[Condition]) -> bool {
        let history = self.history();
        conditions.iter().all(|one| one.fault.is_none() && one.generation == history.current(one.partition).number)
    }

    async fn load(&self) -> Result<(), RecoveryError> {
        let known = Arc::new(self.store.generations(self.log.partitions().count()).await?);
        self.history.send_if_modified(|history| {
            let is_new = **history != *known;
            *history = known.clone();
            is_new
        });
        Ok(())
    }

    async fn mend(&self, conditions: &[Condition]) -> Result<(), RecoveryError> {
        let faults = self.faults(conditions)?;
        if faults.is_empty() {
            return Ok(());
        }
        let conditions = self.freeze(&faults).await?;
        let (mut renewed, mut lost) = (BTreeMap::<&str, u64>::new(), 0);
        for (Condition { partition, generation, .. }, fault) in faults {
            let present = &conditions[partition.index()];
            if present.generation != *generation {
                continue; // somebody was faster
            }
            if let Some(base) = self.renew(present, fault).await? {
                *renewed.entry(fault.as_str()).or_default() += 1;
                lost += present.seen.saturating_sub(base);
            }
        }
        self.load().await?; // whether or not one came to its end: the store may know of another generation by now
        if !renewed.is_empty() {
            self.account(renewed, lost);
        }
        Ok(())
    }

    /// The partitions that cannot go on as they are.
    fn faults<'a>(&self, conditions: &'a [Condition]) -> Result<Vec<(&'a Condition, Fault)>, RecoveryError> {
        let (history, mut faults) = (self.history(), Vec::new());
        for condition in conditions {
            let Condition { partition, generation: log, .. } = *condition;
            let store = history.current(partition).number;
            if log > store {
                return Err(RecoveryError::StoreIsOlder { partition, log, store });
            }
            let behind = (log < store).then_some(Fault::HalfRenewed);
            faults.extend(condition.fault.or(behind).map(|fault| (condition, fault)));
        }
        Ok(faults)
    }

    /// Keeps these partitions as they are, and looks at them again: what a generation stands on must not grow while the
    /// store begins it.
    async fn freeze(&self, faults: &[(&Condition, Fault)]) -> Result<Vec<Condition>, RecoveryError> {
        for (condition, _) in faults {
            self.log.freeze(condition.partition, condition.generation).await?;
        }
        Ok(self.log.survey().await?)
    }

    fn account(&self, renewed: BTreeMap<&'static str, u64>, lost: u64) {
        let what = renewed.iter().map(|(fault, count)| format!("{fault} ({count})")).collect::<Vec<_>>().join(", ");
        if lost == 0 {
            tracing::warn!(partitions = what, "the event log goes on in a new generation; nothing known was lost");
        } else {
            tracing::error!(
                partitions = what,
                lost,
                "the event log goes on in a new generation; accepted events are gone that were not stored yet, unless \
                 their senders send them again"
            );
        }
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.into_iter().for_each(|(fault, count)| *tally.begun.entry(fault).or_default() += count);
        tally.lost += lost;
    }

    /// Begins a new generation of one partition; its base, or `None` if somebody else is about it.
    async fn renew(&self, condition: &Condition, fault: Fault) -> Result<Option<u64>, RecoveryError> {
        let partition = condition.partition;
        let present = self.history().current(partition).number;
        let begun = self.store.begin(partition, present, condition.end, fault.as_str()).await?;
        let Some(Begun { generation, stored }) = begun else { return Ok(None) };
        // Only a log that has everything the store has can go on with its own numbers.
        let intact = condition.intact && condition.end >= stored.offset();
        if !intact && condition.end > stored.offset() {
            let lease = Lease { role: Role::Persist, partition, token: generation.fence() };
            self.rescue(lease, stored).await?;
        }
        let renewal = Renewal { generation, intact, stored };
        Ok(self.log.renew(condition, &renewal).await?.then_some(generation.base))
    }

    /// Stores what is left in the log and not stored, because afterwards the log numbers on from what the store has.
    async fn rescue(&self, lease: Lease, stored: Position) -> Result<(), RecoveryError> {
        let mut after = stored;
        loop {
            let records = self.log.salvage(lease.partition, after, RESCUE).await?;
            let Some(last) = records.last() else { return Ok(()) };
            after = last.position;
            match self.store.persist(&[(lease, after)], &records).await {
                // One bad event must not keep a whole partition from going on.
                Err(StoreError::Refused(_)) => {
                    Refused::new(&*self.store, vec![lease; records.len()], &records).isolate().await?;
                }
                outcome => outcome.map(drop)?,
            }
        }
    }
}
