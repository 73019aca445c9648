//! The delay before another try: exponential with full jitter.
//!
//! The `backoff` crate supplies the arithmetic of one delay and nothing else; its helpers sleep in memory, and a delay
//! that matters is kept where it survives a crash. It is unmaintained, harmless, and confined to this file.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// How delays grow.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The upper end of the first delay.
    pub base: Duration,
    /// No delay is longer.
    pub cap: Duration,
}

impl Policy {
    /// For a dependency that went away: a tenth of a second, growing to five.
    pub const RECONNECT: Self = Self { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

    /// For looking whether a dependency is back that is known to be gone: a second, growing to fifteen.
    pub const PROBE: Self = Self { base: Duration::from_secs(1), cap: Duration::from_secs(15) };

    /// The delay before try `attempt`, counted from 0: uniform between nothing and `base * 2^attempt`, at most `cap`.
    pub fn delay(self, attempt: u32) -> Duration {
        let ceiling = self.base.saturating_mul(2_u32.saturating_pow(attempt.min(20))).min(self.cap);
        let mut step = ExponentialBackoff {
            current_interval: ceiling / 2, // factor 1.0 spreads it over 0..=ceiling
            randomization_factor: 1.0,
            max_elapsed_time: None, // the default gives up after a quarter of an hour
            ..ExponentialBackoff::default()
        };
        step.next_backoff().unwrap_or(ceiling).min(ceiling)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_above_the_cap_nor_above_the_doubling(attempt: u32, base in 1_u64..1_000, cap in 1_u64..100_000) {
            let policy = Policy { base: Duration::from_millis(base), cap: Duration::from_millis(cap) };
            let doubled = policy.base.saturating_mul(2_u32.saturating_pow(attempt.min(20)));
            prop_assert!(policy.delay(attempt) <= policy.cap.min(doubled));
        }
    }

    #[test]
    fn the_mean_is_near_half() {
        let policy = Policy { base: Duration::from_secs(1), cap: Duration::from_secs(1) };
        let mean = (0..2_000).map(|_| policy.delay(0).as_secs_f64()).sum::<f64>() / 2_000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
