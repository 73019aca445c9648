//! What the workers count.

use std::time::Duration;

use everpost_core::role::Role;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::Step;

const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    role: &'static str,
}

/// Counters of all roles of this process; clones count together.
#[derive(Debug, Clone)]
pub struct WorkerMetrics {
    records: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    seconds: Family<Label, Histogram, fn() -> Histogram>,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        Self { records: Family::default(), failures: Family::default(), seconds }
    }
}

impl WorkerMetrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("worker_records", "Records a role has handled", self.records.clone());
        registry.register("worker_failures", "Steps of a role that failed", self.failures.clone());
        registry.register("worker_step_seconds", "Duration of steps with work", self.seconds.clone());
    }

    pub(crate) fn stepped(&self, role: Role, step: Step, took: Duration) {
        if let Step::Worked(records) = step {
            let label = Label { role: role.as_str() };
            self.records.get_or_create(&label).inc_by(records as u64);
            self.seconds.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn failed(&self, role: Role) {
        self.failures.get_or_create(&Label { role: role.as_str() }).inc();
    }
}
