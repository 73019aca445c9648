//! Shows what recovery has done: a metric is read from its tally whenever somebody asks.

use std::{fmt, sync::Arc};

use everpost_core::recovery::Recovery;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

/// Makes it visible how often the log began a new generation, and why.
pub fn register_recovery(recovery: Arc<Recovery>, registry: &mut Registry) {
    registry.register_collector(Box::new(History { recovery }));
}

struct History {
    recovery: Arc<Recovery>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

impl Collector for History {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let tally = self.recovery.tally();
        let help = "Partitions that this process let go on in a new generation, by what was wrong";
        let mut begun = encoder.encode_descriptor("log_generations", help, None, MetricType::Counter)?;
        for (fault, count) in &tally.begun {
            ConstCounter::new(*count).encode(begun.encode_family(&[("fault", *fault)])?)?;
        }
        let help = "Accepted events known to be lost with the log, unless their senders send them again";
        let lost = encoder.encode_descriptor("log_lost_events", help, None, MetricType::Counter)?;
        ConstCounter::new(tally.lost).encode(lost)
    }
}
