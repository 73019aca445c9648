//! Stores events: a window of the log becomes one transaction.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use everpost_core::{
    circuit::{Admission, Circuit},
    clock::now_ms,
    event::Record,
    lease::Lease,
    log::{Batch, Follower, LogError},
    position::Position,
    pressure::Level,
    role::Role,
    store::{
        Death, Reason, StoreError,
        isolation::{GivenUp, Refused},
    },
};

use crate::{
    Held, Ports, Pressure, Step, StepError, Worker, WorkerMetrics,
    audit::Audit,
    caution::{Caution, GIVE_UP_AFTER},
    holes,
    metrics::GapMetrics,
};

/// Records in one transaction, about.
const WINDOW: usize = 1_000;
/// How long a step waits for something to do.
const WAIT: Duration = Duration::from_secs(1);
/// A window this small waits once for company: a commit costs the same for one record as for many.
const SMALL: usize = 100;
const LINGER: Duration = Duration::from_millis(15);
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// Records the log keeps of each partition although all roles are done with them, for clients that come back. Under
/// pressure it keeps none: the store has them.
const KEEP: u64 = 4_096;

/// What the circuit of this role leads to.
const DATABASE: &str = "database";

/// The `persist` role.
pub struct Persist {
    follower: Box<dyn Follower>,
    held: Held,
    ports: Ports,
    metrics: WorkerMetrics,
    pressure: Pressure,
    audit: Audit,
    /// Read and not stored yet.
    window: Vec<Batch>,
    circuit: Circuit,
    caution: Caution,
    /// Leases the store no longer takes; whoever keeps the leases will notice, too.
    lost: HashSet<Lease>,
    trimmed: Instant,
}

impl Persist {
    /// A worker that stores what the follower reads.
    pub fn new(follower: Box<dyn Follower>, held: Held, ports: Ports) -> Self {
        let (metrics, caution) = (WorkerMetrics::default(), Caution::new(ports.store.clone()));
        let (pressure, audit) = (Pressure::none(), Audit::new(GapMetrics::default()));
        let (window, circuit, trimmed) = (Vec::new(), Circuit::default(), Instant::now());
        let lost = HashSet::new();
        Self { follower, held, ports, metrics, pressure, audit, window, circuit, caution, lost, trimmed }
    }

    /// Lets it make room when the log is pressed.
    #[must_use]
    pub fn under(self, pressure: Pressure) -> Self {
        Self { pressure, ..self }
    }

    /// The same worker, counting where others count, and showing there what it finds missing.
    #[must_use]
    pub fn counting(self, metrics: WorkerMetrics) -> Self {
        Self { audit: Audit::new(metrics.gap()), metrics, ..self }
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

    /// Stores the window, except what it has to give up. When one of its leases turns out to be lost, the others are
    /// stored one by one.
    async fn store(&mut self) -> Result<Vec<(Lease, Position)>, StoreError> {
        if !self.caution.is_calm() {
            return self.store_carefully().await;
        }
        match self.store_all(&self.window).await {
            Err(StoreError::Fenced) => self.store_one_by_one().await,
            outcome => outcome,
        }
    }

    /// Stores batches in one transaction, or, if that is refused, in as many as it takes to find out why.
    async fn store_all(&self, batches: &[Batch]) -> Result<Vec<(Lease, Position)>, StoreError> {
        let (done, store) = (ends(batches), &*self.ports.store);
        let records: Vec<Record> = batches.iter().flat_map(|batch| batch.records.iter().cloned()).collect();
        match store.persist(&done, &records).await {
            Ok(_) => Ok(done),
            Err(StoreError::Refused(_)) => {
                let leases = batches.iter().flat_map(|batch| std::iter::repeat_n(batch.lease, batch.records.len()));
                let mut refused = Refused::new(store, leases.collect(), &records);
                let isolated = refused.isolate().await;
                self.metrics.gave_up(refused.given_up());
                isolated.map(|()| done)
            }
            Err(error) => Err(error),
        }
    }

    async fn store_one_by_one(&mut self) -> Result<Vec<(Lease, Position)>, StoreError> {
        let (mut done, mut lost) = (HashMap::new(), Vec::new());
        for batch in &self.window {
            match self.store_all(std::slice::from_ref(batch)).await {
                Ok(end) => done.extend(end),
                Err(StoreError::Fenced) => lost.push(batch.lease),
                Err(error) => return Err(error),
            }
        }
        lost.into_iter().for_each(|lease| self.lose(lease));
        Ok(done.into_iter().collect())
    }

    /// The same, and where work has crashed, record by record.
    async fn store_carefully(&mut self) -> Result<Vec<(Lease, Position)>, StoreError> {
        let mut done = HashMap::new();
        for at in 0..self.window.len() {
            let batch = self.window[at].clone();
            let stored = match self.caution.covers(&batch) {
                true => self.store_each(&batch).await,
                false => self.store_all(std::slice::from_ref(&batch)).await.map(drop),
            };
            match stored {
                Ok(()) => done.extend(ends(std::slice::from_ref(&batch))),
                Err(StoreError::Fenced) => self.lose(batch.lease),
                Err(error) => return Err(error),
            }
            self.caution.finished(&batch);
        }
        Ok(done.into_iter().collect())
    }

    /// Says so once; a lease the store has refused is never good again.
    fn lose(&mut self, lease: Lease) {
        if self.lost.insert(lease) {
            tracing::warn!(partition = lease.partition.0, "another worker stores this partition now");
            self.ports.recovery.doubt();
        }
    }

    async fn store_each(&mut self, batch: &Batch) -> Result<(), StoreError> {
        for record in &batch.records {
            let (lease, at) = (batch.lease, record.position);
            if self.caution.is_past(lease, at) {
                continue;
            }
            if self.caution.gives_up(lease, at) {
                let death = crashed(lease, record);
                let buried = self.ports.store.bury(&death).await?;
                let given_up = buried.map(|id| GivenUp { id, lease, reason: death.reason });
                self.metrics.gave_up(given_up.as_slice());
                continue;
            }
            self.caution.take(lease, at).await?;
            let stored = self.store_all(&[Batch { records: vec![record.clone()], ..*batch }]).await;
            self.caution.put_down();
            stored?;
        }
        Ok(())
    }

    /// Asks a database that did not answer for one small thing: to store the first record.
    async fn probe(&self) -> Result<(), StoreError> {
        let Some((batch, first)) = self.window.iter().find_map(|batch| Some((batch, batch.records.first()?))) else {
            return Ok(());
        };
        if !self.caution.is_calm() {
            return self.ports.store.persist(&[], &[]).await.map(drop);
        }
        match self.ports.store.persist(&[(batch.lease, first.position)], std::slice::from_ref(first)).await {
            Err(StoreError::Refused(_) | StoreError::Fenced) => Ok(()), // an answer, if not the best
            outcome => outcome.map(drop),
        }
    }

    /// Opens the circuit after a failure that is the database's own, closes it after any answer.
    fn judge<T>(&mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        let away = matches!(outcome, Err(StoreError::Unavailable(_)));
        if away && self.circuit.failed(Instant::now()) {
            tracing::warn!("the database is given time: nothing more is read for it until it answers");
        } else if !away && self.circuit.succeeded() {
            tracing::info!("the database answers again");
        }
        self.metrics.circuit(DATABASE, self.circuit.is_open());
        outcome
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
        let keep = if self.pressure.level() == Level::Green { KEEP } else { 0 };
        for lease in leases {
            match self.ports.log.trim(lease, keep).await {
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

/// The death of a record over which work has crashed.
fn crashed(lease: Lease, record: &Record) -> Death<'_> {
    let (now, detail) = (now_ms(), "workers crashed over it, the last time with nothing else in hand".to_owned());
    let (reason, attempts) = (Reason::Crash, GIVE_UP_AFTER);
    Death { lease, record, reason, detail, attempts, first_failed_ms: now, last_failed_ms: now }
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
        let admission = self.circuit.admits(Instant::now());
        if let Admission::Wait(left) = admission {
            tokio::time::sleep(left.min(WAIT)).await;
            return Ok(Step::Idle);
        }
        self.fill(&leases).await?;
        self.lost.retain(|lease| leases.contains(lease));
        self.window.retain(|batch| leases.contains(&batch.lease) && !self.lost.contains(&batch.lease));
        self.metrics.in_hand(Self::ROLE, self.window.first().and_then(|batch| batch.records.first()));
        if admission == Admission::Probe {
            let probed = self.probe().await;
            self.judge(probed)?;
        }
        let followed = self.caution.follow(&leases, &self.window).await;
        self.judge(followed)?;
        let records = size(&self.window);
        if records > 0 {
            let audited = self.audit.begin(&self.ports, &leases, &self.window).await;
            self.judge(audited)?;
            let lost = holes::fill(&self.ports, &mut self.window, self.audit.followed()).await?;
            self.audit.lost(lost);
            let stored = self.store().await;
            let done = self.judge(stored)?;
            self.audit.stored(&self.window, &done);
            self.window.clear();
            self.acknowledge(&done).await?;
        }
        self.audit.look(&self.ports, &leases).await;
        self.trim(&leases).await?;
        Ok(if records > 0 { Step::Worked(records) } else { Step::Idle })
    }

    fn panicked(&mut self) {
        self.caution.panicked(&self.window);
    }

    async fn end(&mut self) {
        self.caution.end(&[]).await;
    }
}
