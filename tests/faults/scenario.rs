//! What a scenario is, what it is given and what comes of it.

use std::{ops::Range, time::Duration};

use futures_util::future::LocalBoxFuture;

use super::harness::witness::violation::Violation;

/// A fault and what must come of it.
pub(crate) struct Scenario {
    /// Numbers in the fault matrix; empty where it has none.
    pub(crate) rows: &'static str,
    pub(crate) name: &'static str,
    pub(crate) engine: Engine,
    /// How it is injected.
    pub(crate) fault: &'static str,
    pub(crate) expected: &'static str,
    /// How often in the short selection, 0 for not at all, and in the whole matrix.
    pub(crate) rounds: (usize, usize),
    /// Why this version does not pass it yet.
    pub(crate) pending: Option<&'static str>,
    pub(crate) run: fn(Plan) -> LocalBoxFuture<'static, Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Distributed,
    Embedded,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Distributed => "distributed",
            Self::Embedded => "embedded",
        }
    }
}

/// How a scenario is to be played.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) rounds: usize,
    /// Whether times are as long as the matrix says.
    pub(crate) is_long: bool,
    dice: u64,
}

impl Plan {
    pub(crate) fn new(seed: u64, rounds: usize, is_long: bool) -> Self {
        Self { seed, rounds, is_long, dice: seed }
    }

    /// Seconds of a fault: a few, or as many as the matrix says.
    pub(crate) fn seconds(&self, short: u64, long: u64) -> Duration {
        Duration::from_secs(if self.is_long { long } else { short })
    }

    /// How long something may take: twice as long in the short selection, which shares the machine with other tests.
    pub(crate) fn within(&self, limit: Duration) -> Duration {
        if self.is_long { limit } else { limit * 2 }
    }

    /// A number below that one. The same seed gives the same numbers.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }

    /// A time in milliseconds.
    pub(crate) fn millis(&mut self, range: Range<usize>) -> Duration {
        Duration::from_millis((range.start + self.below(range.len())) as u64)
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rounds: usize,
    pub(crate) events: usize,
    pub(crate) recoveries: Vec<Duration>,
    pub(crate) violations: Vec<Violation>,
    /// What else was measured.
    pub(crate) notes: Vec<String>,
}

impl Outcome {
    /// The scenario did not come to its end.
    pub(crate) fn broken(what: String) -> Self {
        Self { violations: vec![Violation::Broken { what }], ..Self::default() }
    }

    /// Something must be so.
    pub(crate) fn expect(&mut self, what: &str, is: bool) {
        if !is {
            self.violations.push(Violation::Broken { what: format!("expected: {what}") });
        }
    }

    /// Something took so long, or never came, and may take at most that long.
    pub(crate) fn bound(&mut self, what: &str, measured: Option<Duration>, limit: Duration) {
        if measured.is_none_or(|measured| measured > limit) {
            let measured = measured.map_or("never".to_owned(), |measured| format!("{measured:.1?}"));
            let (what, limit) = (what.to_owned(), format!("{limit:.1?}"));
            self.violations.push(Violation::Bound { what, measured, limit });
        }
    }

    /// Something may be at most so much.
    pub(crate) fn at_most(&mut self, what: &str, measured: u64, limit: u64) {
        if measured > limit {
            let (what, measured, limit) = (what.to_owned(), measured.to_string(), limit.to_string());
            self.violations.push(Violation::Bound { what, measured, limit });
        }
    }
}

/// The middle one, and any other share, of some times.
pub(crate) fn share(times: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).ceil() as usize).copied()
}
