//! What a gateway counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Counters of this process's gateway; clones count together.
#[derive(Debug, Clone, Default)]
pub struct GatewayMetrics {
    connections: Gauge,
    accepted: Counter,
    refused: Counter,
    delivered: Counter,
    marks_written: Counter,
    missed: Counter,
    shed: Family<Kind, Counter>,
}

impl GatewayMetrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "gateway_connections",
            "Open connections: WebSockets and event streams",
            self.connections.clone(),
        );
        registry.register("gateway_upgrades", "WebSockets and event streams taken", self.accepted.clone());
        registry.register("gateway_refusals", "WebSockets and event streams refused", self.refused.clone());
        registry.register(
            "gateway_frames",
            "Sequenced frames built for the rooms of this instance",
            self.delivered.clone(),
        );
        registry.register(
            "gateway_mark_writes",
            "Calls to the database that moved marks, however many each of them moved",
            self.marks_written.clone(),
        );
        registry.register(
            "gateway_missed",
            "Times something was lost between the workers and this gateway, and read from the log instead",
            self.missed.clone(),
        );
        registry.register(
            "gateway_shed",
            "What was not taken under pressure: publishes refused, ephemeral events dropped",
            self.shed.clone(),
        );
    }

    pub(crate) fn delivered(&self) -> Counter {
        self.delivered.clone()
    }

    pub(crate) fn marks_written(&self) {
        self.marks_written.inc();
    }

    pub(crate) fn missed(&self) -> Counter {
        self.missed.clone()
    }

    pub(crate) fn publish_refused(&self) {
        self.shed.get_or_create(&Kind { kind: "publish" }).inc();
    }

    pub(crate) fn ephemeral_dropped(&self) {
        self.shed.get_or_create(&Kind { kind: "ephemeral" }).inc();
    }

    pub(crate) fn connections(&self, open: usize) {
        self.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub(crate) fn upgraded(&self) {
        self.accepted.inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }
}
