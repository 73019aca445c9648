//! What the workers count.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use everpost_core::{clock::now_ms, event::Record, role::Role, store::isolation::GivenUp};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{Step, audit::Missing};

const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// A gauge for what is no whole number.
pub(crate) type Ratio = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Label {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Given {
    role: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dependency {
    dependency: &'static str,
}

/// At most one line in this time about events given up; the counter counts them all.
const QUIET: Duration = Duration::from_secs(1);
impl Label {
    pub(crate) fn of(role: Role) -> Self {
        Self { role: role.as_str() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// Accepted events that are missing, as the workers of this process see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct GapMetrics(Family<Cause, Gauge>);

impl GapMetrics {
    pub(crate) fn show(&self, missing: &Missing) {
        let causes = [("skipped", missing.skipped), ("absent", missing.absent), ("unstored", missing.unstored)];
        for (cause, events) in causes {
            self.0.get_or_create(&Cause { cause }).set(i64::try_from(events).unwrap_or(i64::MAX));
        }
    }
}

/// Counters of all roles of this process; clones count together.
#[derive(Debug, Clone)]
pub struct WorkerMetrics {
    records: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    seconds: Family<Label, Histogram, fn() -> Histogram>,
    dead_letters: Family<Given, Counter>,
    circuits: Family<Dependency, Gauge>,
    oldest: Family<Label, Gauge>,
    told: Arc<Mutex<Option<Instant>>>,
    gap: GapMetrics,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        Self {
            records: Family::default(),
            failures: Family::default(),
            seconds,
            dead_letters: Family::default(),
            circuits: Family::default(),
            oldest: Family::default(),
            told: Arc::default(),
            gap: GapMetrics::default(),
        }
    }
}

impl WorkerMetrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("worker_records", "Records a role has handled", self.records.clone());
        registry.register("worker_failures", "Steps of a role that failed", self.failures.clone());
        registry.register("worker_step_seconds", "Duration of steps with work", self.seconds.clone());
        registry.register("worker_dead_letters", "Events a role has given up", self.dead_letters.clone());
        registry.register("worker_circuit_open", "1 while a dependency is given time", self.circuits.clone());
        registry.register(
            "worker_oldest_seconds",
            "Age of the oldest event in hand, 0 without one",
            self.oldest.clone(),
        );
        let gap = "Accepted events that are neither stored nor in the log, by how it shows; anything but 0 is an alarm";
        registry.register("conservation_gap", gap, self.gap.0.clone());
    }

    pub(crate) fn stepped(&self, role: Role, step: Step, took: Duration) {
        if let Step::Worked(records) = step {
            let label = Label::of(role);
            self.records.get_or_create(&label).inc_by(records as u64);
            self.seconds.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn gap(&self) -> GapMetrics {
        self.gap.clone()
    }

    pub(crate) fn failed(&self, role: Role) {
        self.failures.get_or_create(&Label::of(role)).inc();
    }

    /// Counts events given up, and says so now and then.
    pub(crate) fn gave_up(&self, given_up: &[GivenUp]) {
        for GivenUp { lease, reason, .. } in given_up {
            let given = Given { role: lease.role.as_str(), reason: reason.as_str() };
            self.dead_letters.get_or_create(&given).inc();
        }
        let Some(GivenUp { id, lease, reason }) = given_up.last() else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|last| last.elapsed() >= QUIET) {
            *told = Some(Instant::now());
            let (role, partition, reason, events) = (lease.role, lease.partition.0, reason.as_str(), given_up.len());
            tracing::error!(%role, partition, reason, events, %id, "given up: see `everpost dead-letters show`");
        }
    }

    pub(crate) fn circuit(&self, dependency: &'static str, open: bool) {
        self.circuits.get_or_create(&Dependency { dependency }).set(i64::from(open));
    }

    /// Notes how old the first record in hand is.
    pub(crate) fn in_hand(&self, role: Role, first: Option<&Record>) {
        let created = first.and_then(|record| Some(record.event().ok()?.created_ms));
        let age = created.map_or(0, |created| now_ms().saturating_sub(created) / 1_000);
        self.oldest.get_or_create(&Label { role: role.as_str() }).set(i64::try_from(age).unwrap_or(i64::MAX));
    }
}
