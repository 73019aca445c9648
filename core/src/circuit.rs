//! A circuit to a dependency: after a failure that is the dependency's own, nothing is asked of it for a while.
//!
//! Only systemic failures open it, so nobody's attempts are spent on an outage. It owns no clock and no task: whoever
//! has it passes the time in, and asks before each use.
//!
//! ```text
//! closed ──failed──▶ open ──its time is up──▶ one probe ──succeeded──▶ closed
//!                     ▲                          │
//!                     └───────── failed ─────────┘ the next probe comes later, up to 15 s
//! ```

use std::time::{Duration, Instant};

use crate::retry::Policy;

/// Whether a dependency may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As much as one likes.
    Pass,
    /// Once, with something small, to see whether it is back.
    Probe,
    /// Not before this time has passed.
    Wait(Duration),
}

/// What is known of one dependency.
#[derive(Debug, Clone)]
pub struct Circuit {
    policy: Policy,
    failures: u32,
    probe_at: Option<Instant>,
}

impl Default for Circuit {
    fn default() -> Self {
        Self { policy: Policy::PROBE, failures: 0, probe_at: None }
    }
}

impl Circuit {
    /// Whether the dependency may be asked now.
    pub fn admits(&self, now: Instant) -> Admission {
        match self.probe_at {
            None => Admission::Pass,
            Some(at) if at <= now => Admission::Probe,
            Some(at) => Admission::Wait(at - now),
        }
    }

    /// Whether the last answer was none.
    pub fn is_open(&self) -> bool {
        self.probe_at.is_some()
    }

    /// It answered, if only with a refusal. Says whether that closed the circuit.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.probe_at.take().is_some()
    }

    /// It did not answer, or said that it cannot. Says whether that opened the circuit.
    pub fn failed(&mut self, now: Instant) -> bool {
        let delay = self.policy.delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.probe_at.replace(now + delay).is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failure_opens_it_and_an_answer_to_the_probe_closes_it() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        assert_eq!(circuit.admits(now), Admission::Pass);
        assert!(circuit.failed(now) && circuit.is_open());
        assert!(matches!(circuit.admits(now), Admission::Wait(left) if left <= Policy::PROBE.base));
        assert_eq!(circuit.admits(now + Policy::PROBE.base), Admission::Probe);
        assert!(circuit.succeeded() && !circuit.is_open());
        assert_eq!(circuit.admits(now), Admission::Pass);
        assert!(!circuit.succeeded(), "it was closed already");
    }

    proptest! {
        #[test]
        fn a_probe_comes_within_the_cap_however_long_it_lasts(failures in 1_u32..200) {
            let (mut circuit, now) = (Circuit::default(), Instant::now());
            for _ in 0..failures {
                circuit.failed(now);
            }
            prop_assert_eq!(circuit.admits(now + Policy::PROBE.cap), Admission::Probe);
        }
    }

    #[test]
    fn probes_become_rarer_and_start_over_after_an_answer() {
        let now = Instant::now();
        let longest = |failures: u32| {
            let waits = (0..200).map(|_| {
                let mut circuit = Circuit::default();
                for _ in 0..failures {
                    circuit.failed(now);
                }
                if let Admission::Wait(left) = circuit.admits(now) { left } else { Duration::ZERO }
            });
            waits.max().unwrap_or_default()
        };
        assert!(longest(1) <= Duration::from_secs(1) && longest(6) > Duration::from_secs(5));
        let mut circuit = Circuit::default();
        for _ in 0..6 {
            circuit.failed(now);
        }
        circuit.succeeded();
        circuit.failed(now);
        assert!(circuit.admits(now + Policy::PROBE.base) == Admission::Probe);
    }
}
