//! How hard it is for the log to take more, as one of four levels: the backpressure ladder.
//!
//! | level | reached by any of | what it costs |
//! |---|---|---|
//! | yellow | memory 60 %, backlog 25 % of its budget, the oldest unstored event 30 s old | ephemeral events are dropped, the log keeps nothing it need not keep |
//! | orange | memory 75 %, backlog 50 % | publishes above a rate of each sender are refused |
//! | red | memory 85 %, backlog 100 %, settings that make a promise false | all publishes are refused |
//!
//! A level is left only when its readings are a tenth below what it was reached by, so that it does not flap.
//! Whatever has been accepted is worked off at every level. Refused publishes can be tried again.

use std::{collections::VecDeque, fmt, time::Duration};

use serde::Serialize;

use crate::position::Position;

/// A rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All is well.
    #[default]
    Green,
    /// What is not kept is not sent either.
    Yellow,
    /// Whoever publishes much has to wait.
    Orange,
    /// Everybody who publishes has to wait.
    Red,
}

/// What a level is reached by; the share of the backlog is that of its budget.
struct Rung {
    level: Level,
    memory: f64,
    backlog: f64,
    age: Duration,
}

/// From the top. Age alone never refuses a publish: a database may be away for long while there is room.
const LADDER: [Rung; 3] = [
    Rung { level: Level::Red, memory: 0.85, backlog: 1.0, age: Duration::MAX },
    Rung { level: Level::Orange, memory: 0.75, backlog: 0.5, age: Duration::MAX },
    Rung { level: Level::Yellow, memory: 0.6, backlog: 0.25, age: Duration::from_secs(30) },
];
/// Which share of a threshold holds a level once it is reached.
const HOLD: f64 = 0.9;

/// What a level is decided by.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Readings {
    /// Which share of its memory the log uses; `None` where nothing bounds it.
    pub memory: Option<f64>,
    /// Events accepted and not stored, as a share of the budget for them.
    pub backlog: f64,
    /// For how long the oldest of them has been waiting.
    pub age: Duration,
    /// Whether the log is set up in a way that makes a promise false.
    pub unsuitable: bool,
}

impl Level {
    /// Every level, from the bottom.
    pub const ALL: [Self; 4] = [Self::Green, Self::Yellow, Self::Orange, Self::Red];

    /// The level after new readings: up at once, down only when they are well below.
    #[must_use]
    pub fn after(self, readings: &Readings) -> Self {
        let (reached, held) = (readings.level(1.0), readings.level(HOLD));
        self.clamp(reached, held)
    }

    /// The one word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Orange => "orange",
            Self::Red => "red",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Readings {
    /// The highest level with a threshold, multiplied by the factor, that one of the readings has reached.
    fn level(&self, factor: f64) -> Level {
        if self.unsuitable {
            return Level::Red;
        }
        let is_reached = |rung: &&Rung| {
            self.memory.is_some_and(|memory| memory >= rung.memory * factor)
                || self.backlog >= rung.backlog * factor
                || rung.age < Duration::MAX && self.age >= rung.age.mul_f64(factor)
        };
        LADDER.iter().find(is_reached).map_or(Level::Green, |rung| rung.level)
    }
}

/// How long the oldest unstored event of a partition has been waiting, as somebody knows who looks now and then.
///
/// Only ends of the partition are kept, each with the time it was first seen, so nothing has to be read and no wall
/// clock is compared. An event is as old as the look that first saw it: younger than it is by at most the time between
/// two looks, or by the time before the first one.
#[derive(Debug, Clone, Default)]
pub struct Ages {
    ends: VecDeque<(u64, Duration)>,
    /// Ends seen closer to each other than this count as one.
    grain: Duration,
}

/// Ends kept of one partition. During a long wait they get coarser, to about a fiftieth of it.
const MAX_ENDS: usize = 128;

impl Ages {
    /// Takes note of where the partition ends and how far it is stored, at a time on a clock that never goes back.
    /// Returns for how long the oldest event between the two has been waiting.
    pub fn note(&mut self, end: Position, stored: Position, now: Duration) -> Duration {
        // Offsets go on over generations, so they alone say what lies before what.
        let (end, stored) = (end.offset(), stored.offset());
        while self.ends.back().is_some_and(|(last, _)| *last > end) {
            self.ends.pop_back(); // the log has lost its end
        }
        match self.ends.back_mut() {
            Some((last, since)) if *last < end && now.saturating_sub(*since) < self.grain => *last = end,
            Some((last, _)) if *last == end => {}
            _ => self.ends.push_back((end, now)),
        }
        while self.ends.front().is_some_and(|(first, _)| *first <= stored) {
            self.ends.pop_front();
        }
        let age = self.ends.front().map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since));
        if self.ends.is_empty() {
            self.grain = Duration::ZERO;
        } else if self.ends.len() > MAX_ENDS {
            self.merge_pairs(age);
        }
        age
    }

    fn merge_pairs(&mut self, age: Duration) {
        let merged = self.ends.make_contiguous().chunks(2).map(|pair| (pair[pair.len() - 1].0, pair[0].1));
        self.ends = merged.collect();
        self.grain = age / (MAX_ENDS / 2) as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(share: f64) -> Readings {
        Readings { memory: Some(share), ..Readings::default() }
    }

    fn backlog(share: f64) -> Readings {
        Readings { backlog: share, ..Readings::default() }
    }

    #[test]
    fn each_threshold_reaches_its_level() {
        let aged = |seconds| Readings { age: Duration::from_secs(seconds), ..Readings::default() };
        for (readings, level) in [
            (memory(0.59), Level::Green),
            (memory(0.6), Level::Yellow),
            (memory(0.75), Level::Orange),
            (memory(0.85), Level::Red),
            (backlog(0.24), Level::Green),
            (backlog(0.25), Level::Yellow),
            (backlog(0.5), Level::Orange),
            (backlog(1.0), Level::Red),
            (aged(29), Level::Green),
            (aged(30), Level::Yellow),
            (aged(100_000), Level::Yellow),
            (Readings { unsuitable: true, ..Readings::default() }, Level::Red),
        ] {
            assert_eq!(Level::Green.after(&readings), level, "{readings:?}");
        }
    }

    #[test]
    fn a_level_is_left_a_tenth_below_where_it_was_reached() {
        assert_eq!(Level::Red.after(&memory(0.77)), Level::Red);
        assert_eq!(Level::Red.after(&memory(0.76)), Level::Orange);
        assert_eq!(Level::Red.after(&backlog(0.89)), Level::Orange);
        assert_eq!(Level::Orange.after(&backlog(0.45)), Level::Orange);
        assert_eq!(Level::Yellow.after(&memory(0.53)), Level::Green);
        assert_eq!(Level::Red.after(&Readings::default()), Level::Green, "settings were repaired");
    }

    fn readings() -> impl Strategy<Value = Readings> {
        let parts = (proptest::option::of(0.0..1.2_f64), 0.0..1.5_f64, 0..100_u64, proptest::bool::weighted(0.1));
        parts.prop_map(|(memory, backlog, age, unsuitable)| Readings {
            memory,
            backlog,
            age: Duration::from_secs(age),
            unsuitable,
        })
    }

    fn level() -> impl Strategy<Value = Level> {
        proptest::sample::select(&Level::ALL[..])
    }

    proptest! {
        #[test]
        fn never_below_what_is_reached(before in level(), readings in readings()) {
            prop_assert!(before.after(&readings) >= Level::Green.after(&readings));
        }

        #[test]
        fn never_above_both_what_was_and_what_is_reached(before in level(), readings in readings()) {
            prop_assert!(before.after(&readings) <= before.max(Level::Green.after(&readings)));
        }

        #[test]
        fn the_same_readings_change_it_once(before in level(), readings in readings()) {
            let after = before.after(&readings);
            prop_assert_eq!(after.after(&readings), after);
        }

        /// Readings that swing by less than a tenth settle on one level, wherever they begin.
        #[test]
        fn small_swings_do_not_flap(
            before in level(),
            high in 0.0..1.5_f64,
            swings in proptest::collection::vec(0.91..1.0_f64, 2..20),
        ) {
            let mut at = before.after(&backlog(high));
            for swing in swings {
                let next = at.after(&backlog(high * swing));
                prop_assert!(next <= at && next >= Level::Green.after(&backlog(high)));
                at = next;
            }
        }

        /// Against a list of every event with the time it was first seen.
        #[test]
        fn ages_are_those_of_the_oldest_unstored(steps in proptest::collection::vec((0..5_u64, 0..6_u64), 1..100)) {
            let (mut ages, mut seen, mut end, mut stored) = (Ages::default(), Vec::new(), 0_u64, 0_u64);
            for (second, (more, done)) in steps.into_iter().enumerate() {
                let now = Duration::from_secs(second as u64);
                (end, stored) = (end + more, (stored + done).min(end + more));
                seen.resize(end as usize, now);
                let oldest = seen.get(stored as usize).map_or(Duration::ZERO, |since: &Duration| now - *since);
                prop_assert_eq!(ages.note(Position::new(1, end), Position::new(1, stored), now), oldest);
            }
        }
    }

    #[test]
    fn a_long_wait_is_remembered_in_bounded_space() {
        let mut ages = Ages::default();
        for second in 1..=100_000_u64 {
            let age = ages.note(Position::new(1, second), Position::ZERO, Duration::from_secs(second));
            assert_eq!(age, Duration::from_secs(second - 1));
        }
        assert!(ages.ends.len() <= MAX_ENDS);
        let age = ages.note(Position::new(1, 100_000), Position::new(1, 50_000), Duration::from_secs(100_000));
        assert!((50_000..=52_000).contains(&age.as_secs()), "{age:?}");
    }

    #[test]
    fn a_log_that_lost_its_end_starts_over() {
        let mut ages = Ages::default();
        ages.note(Position::new(1, 10), Position::ZERO, Duration::from_secs(1));
        let later = Duration::from_secs(9);
        assert_eq!(ages.note(Position::new(2, 4), Position::new(2, 4), later), Duration::ZERO);
    }
}
