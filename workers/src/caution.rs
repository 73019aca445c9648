//! What a worker is careful with: records over which work has crashed.
//!
//! A crash of the process is known from the tenure it left open, a panic from having caught it. After it each record that
//! had been handed out is noted and worked on by itself. If that ends in a crash twice in a row over the same record, it
//! was this one, and it is given up: at the third crash, and never for having been in hand once when somebody pulled the
//! plug. In ordinary life nothing is written but the beginning and the end of a tenure.

use std::{collections::HashMap, sync::Arc, time::Duration};

use everpost_core::{
    lease::Lease,
    log::Batch,
    name::InstanceId,
    position::Position,
    store::{Store, StoreError},
};

/// Crashes after which what was in hand is worked on one by one.
const CAREFUL_AFTER: u32 = 1;
/// Crashes over one record after which it is given up.
pub(crate) const GIVE_UP_AFTER: u32 = 3;
/// The culprit is within this many records: nobody has more in hand at a time. Where the log knows what was handed out,
/// it is found among fewer.
const IN_HAND: u64 = 4_096;
/// A database that does not answer must not hold up an orderly end.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stretch of a partition that is worked on record by record, both ends included.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: Position,
    through: Position,
    /// Another worker left it, so what was never handed out before is not in it.
    inherited: bool,
}

/// What one worker knows about crashes.
pub(crate) struct Caution {
    store: Arc<dyn Store>,
    worker: InstanceId,
    begun: Vec<Lease>,
    careful: HashMap<Lease, Stretch>,
    crashes: HashMap<(Lease, Position), u32>,
    in_hand: Option<(Lease, Position)>,
}

impl Caution {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let (careful, crashes) = (HashMap::new(), HashMap::new());
        Self { store, worker: InstanceId::random(), begun: Vec::new(), careful, crashes, in_hand: None }
    }

    /// Begins and ends tenures as leases come and go. Nearly always there is nothing to do.
    pub(crate) async fn follow(&mut self, leases: &[Lease], window: &[Batch]) -> Result<(), StoreError> {
        if self.begun.iter().any(|lease| !leases.contains(lease)) {
            self.end(leases).await;
        }
        if window.is_empty() {
            self.relax(); // whatever was there when work crashed is done
        }
        let is_new = |lease: &Lease| window.iter().any(|batch| batch.lease == *lease && !batch.redelivered);
        self.careful.retain(|lease, stretch| !(stretch.inherited && is_new(lease)));
        for batch in window {
            if let (Some(first), false) = (batch.records.first(), self.begun.contains(&batch.lease)) {
                self.begin(batch.lease, first.position, batch.redelivered).await?;
            }
        }
        Ok(())
    }

    fn relax(&mut self) {
        self.careful.clear();
        self.crashes.clear();
    }

    async fn begin(&mut self, lease: Lease, first: Position, redelivered: bool) -> Result<(), StoreError> {
        let partition = usize::from(lease.partition.0);
        let stored = self.store.stored(partition + 1).await?[partition];
        let from = first.max(stored.next());
        let legacy = self.store.begin_tenure(&lease, self.worker.as_str(), from).await?;
        self.begun.push(lease);
        if let Some(suspect) = legacy.suspect {
            self.crashes.insert((lease, suspect), legacy.crashes);
        }
        if redelivered && (legacy.crashes >= CAREFUL_AFTER || legacy.suspect.is_some()) {
            let through = Position::new(from.generation(), from.offset() + IN_HAND);
            self.careful.insert(lease, Stretch { from, through, inherited: true });
            tracing::info!(role = %lease.role, partition = lease.partition.0, crashes = legacy.crashes,
                "work has crashed here: what was in hand is gone through record by record");
        }
        Ok(())
    }

    /// Ends the tenures of leases that are held no more; of all, at the end.
    pub(crate) async fn end(&mut self, held: &[Lease]) {
        let gone: Vec<Lease> = self.begun.extract_if(.., |lease| !held.contains(lease)).collect();
        self.careful.retain(|lease, _| !gone.contains(lease));
        self.crashes.retain(|(lease, _), _| !gone.contains(lease));
        let ends = futures_util::future::join_all(gone.iter().map(|lease| self.store.end_tenure(lease)));
        // Not told, the next owner is a little more careful than it had to be.
        let _ = tokio::time::timeout(FAREWELL, ends).await;
    }

    /// Whether nothing is suspected.
    pub(crate) fn is_calm(&self) -> bool {
        self.careful.is_empty()
    }

    /// Whether the records of a batch are to be worked on one by one.
    pub(crate) fn covers(&self, batch: &Batch) -> bool {
        let first = batch.records.first().map(|record| record.position);
        self.careful.get(&batch.lease).is_some_and(|stretch| first.is_some_and(|first| first <= stretch.through))
    }

    /// Whether a record was finished before work crashed.
    pub(crate) fn is_past(&self, lease: Lease, at: Position) -> bool {
        self.careful.get(&lease).is_some_and(|stretch| at < stretch.from)
    }

    /// Whether work has crashed often enough over this record.
    pub(crate) fn gives_up(&self, lease: Lease, at: Position) -> bool {
        self.crashes.get(&(lease, at)).is_some_and(|crashes| *crashes >= GIVE_UP_AFTER)
    }

    /// Takes one record in hand, so that it is known afterwards which one it was.
    pub(crate) async fn take(&mut self, lease: Lease, at: Position) -> Result<(), StoreError> {
        self.store.suspect(&lease, at).await?;
        self.in_hand = Some((lease, at));
        Ok(())
    }

    /// It was finished, or failed in a way that can be told.
    pub(crate) fn put_down(&mut self) {
        self.in_hand = None;
    }

    /// A batch was finished; caution ends with its stretch.
    pub(crate) fn finished(&mut self, batch: &Batch) {
        let last = batch.records.last().map(|record| record.position);
        let over = |stretch: &Stretch| last.is_some_and(|last| last >= stretch.through);
        if self.careful.get(&batch.lease).is_some_and(over) {
            self.careful.remove(&batch.lease);
            self.crashes.retain(|(lease, _), _| *lease != batch.lease);
        }
    }

    /// Work on the window has panicked.
    pub(crate) fn panicked(&mut self, window: &[Batch]) {
        if let Some(record) = self.in_hand.take() {
            *self.crashes.entry(record).or_insert(1) += 1;
            return;
        }
        for batch in window {
            let (Some(first), Some(last)) = (batch.records.first(), batch.records.last()) else { continue };
            let stretch = Stretch { from: first.position, through: last.position, inherited: false };
            let known = self.careful.entry(batch.lease).or_insert(stretch);
            known.through = known.through.max(last.position);
        }
    }
}
