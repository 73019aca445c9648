//! Who has got how far, and when: what recovery and isolation are measured by.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::Load;

/// Moments of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse {
    /// When each message was written.
    pub(super) written: HashMap<Uuid, Instant>,
    /// When the newest message of each sender that was acknowledged had been written.
    acked: Vec<Option<Instant>>,
    /// The same for what it knows to be stored.
    stored: Vec<Option<Instant>>,
    /// When the newest message that a listener has heard had been written.
    heard: Vec<Option<Instant>>,
    /// How much each sender still waits for.
    pub(super) outstanding: Vec<usize>,
    /// When each message was written, and how long its acknowledgement took.
    pub(crate) latencies: Vec<(Instant, Duration)>,
}

impl Pulse {
    pub(super) fn of(load: &Load) -> Self {
        let (senders, listeners) = (load.publishers, load.listeners);
        let (acked, stored, heard) = (vec![None; senders], vec![None; senders], vec![None; listeners]);
        Self { acked, stored, heard, outstanding: vec![0; senders], ..Self::default() }
    }

    pub(super) fn acked(&mut self, publisher: usize, written: Instant) {
        self.acked[publisher] = self.acked[publisher].max(Some(written));
    }

    pub(super) fn stored(&mut self, publisher: usize, written: Instant) {
        self.stored[publisher] = self.stored[publisher].max(Some(written));
    }

    pub(super) fn heard(&mut self, listener: usize, id: Uuid) {
        self.heard[listener] = self.heard[listener].max(self.written.get(&id).copied());
    }

    /// Whether something that every sender wrote after that moment was acknowledged.
    pub(super) fn publishes_since(&self, moment: Instant) -> bool {
        self.acked.iter().all(|at| *at > Some(moment))
    }

    /// Whether every listener heard something that was written after that moment.
    pub(super) fn delivers_since(&self, moment: Instant) -> bool {
        self.heard.iter().all(|at| *at > Some(moment))
    }

    /// Whether something that every sender wrote after that moment is stored.
    pub(super) fn stores_since(&self, moment: Instant) -> bool {
        self.stored.iter().all(|at| *at > Some(moment))
    }

    /// A share of the acknowledgements of what was written in that time came within this.
    pub(crate) fn latency(&self, from: Instant, to: Instant, share: f64) -> Duration {
        let within = self.latencies.iter().filter(|(written, _)| (from..to).contains(written));
        let mut latencies: Vec<Duration> = within.map(|(_, latency)| *latency).collect();
        latencies.sort();
        let last = latencies.len().saturating_sub(1);
        latencies.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }
}
