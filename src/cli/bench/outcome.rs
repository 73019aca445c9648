//! The result of a load, and how a report tells it.

use hdrhistogram::Histogram;

use super::{process, report::Report, tally::Shard, witness::Faults};

/// What a load came to.
pub(super) struct Outcome {
    /// The length of the steady part.
    pub(super) seconds: f64,
    /// Messages received in it.
    pub(super) deliveries: u64,
    /// Publishes acknowledged in it.
    pub(super) acks: u64,
    /// What the watched processes used in it.
    pub(super) cpu_seconds: Option<f64>,
    /// Cores the generator itself kept busy, which the servers did not have.
    pub(super) generator_cores: f64,
    /// The counts at its end, with its latencies.
    pub(super) latencies: Shard,
    /// The counts after the last message.
    pub(super) end: Shard,
    /// What receivers missed or got wrong, over the whole run.
    pub(super) faults: Faults,
    /// Publishes without an answer.
    pub(super) unanswered: u64,
}

impl Outcome {
    /// Rates, latencies and cost of what publishers see.
    pub(super) fn of_publishing(&self, report: Report) -> Report {
        let mut report = report.number("acks_per_second", self.acks as f64 / self.seconds, 0);
        report = latencies(report, ["ack_p50_ms", "ack_p99_ms", "ack_max_ms"], &self.latencies.ack);
        if let Some(cpu) = self.cpu_seconds {
            report = report.number("cpu_seconds_per_million_acks", process::per_million(cpu, self.acks), 2);
        }
        self.promises(report)
    }

    /// Rates, latencies and cost of what listeners see.
    pub(super) fn of_delivering(&self, report: Report) -> Report {
        let mut report = report.number("deliveries_per_second", self.deliveries as f64 / self.seconds, 0).number(
            "publishes_per_second",
            self.acks as f64 / self.seconds,
            0,
        );
        let names = ["delivery_p50_ms", "delivery_p99_ms", "delivery_max_ms"];
        report = latencies(report, names, &self.latencies.delivery);
        if let Some(cpu) = self.cpu_seconds {
            let cost = process::per_million(cpu, self.deliveries);
            report = report.number("cpu_seconds_per_million_deliveries", cost, 2);
        }
        self.promises(report)
    }

    /// What must be zero, and what acknowledgements promised.
    fn promises(&self, report: Report) -> Report {
        let durability: Vec<_> = self.end.durability.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        report
            .number("generator_cores", self.generator_cores, 2)
            .count("lost", self.faults.lost)
            .count("twice", self.faults.twice)
            .count("out_of_order", self.faults.disordered)
            .count("unanswered", self.unanswered)
            .count("refused", self.end.errors)
            .count("closed", self.end.closed)
            .text("durability", durability.join(", "))
            .note("first_refusal", self.end.first_error.as_deref())
            .note("first_close", self.end.first_close.as_deref())
    }
}

/// The median, the 99th percentile and the maximum of `histogram`, in milliseconds.
pub(super) fn latencies(report: Report, names: [&'static str; 3], histogram: &Histogram<u64>) -> Report {
    let values = [histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99), histogram.max()];
    let pairs = names.into_iter().zip(values);
    pairs.fold(report, |report, (name, nanos)| report.number(name, nanos as f64 / 1e6, 3))
}
