//! Generations: which part of a partition's past the present still stands on.
//!
//! A log that was restarted, emptied or set back may have forgotten its last events, also some that clients have seen.
//! From then on the partition is in a new generation: its offsets go on after the last one that survived, the *base*,
//! and a position of an older generation beyond that base points at something that no longer exists.
//!
//! ```text
//! generation 1   1 ── 2 ── 3 ── 4 ── 5        4 and 5 were lost
//! generation 2             └─── 4 ── 5 ── 6   base 3
//! ```

use crate::{partition::Partition, position::Position};

/// One generation of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// 1, 2, 3 …; numbers may be skipped.
    pub number: u16,
    /// The last offset of the past that it stands on; its own first event has the next one.
    pub base: u64,
}

impl Generation {
    /// What every partition begins with.
    pub const FIRST: Self = Self { number: 1, base: 0 };

    /// Lease tokens of this generation are greater than this, and than every token of an earlier one.
    pub fn fence(self) -> u64 {
        u64::from(self.number) << 32
    }

    /// What all lease tokens of a generation have in common, and those of no other.
    pub fn of_token(token: u64) -> u64 {
        token >> 32
    }
}

/// The generations of all partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    later: Vec<Vec<Generation>>,
}

impl History {
    /// From the generations after the first, for each partition in order, oldest first.
    pub fn new(later: Vec<Vec<Generation>>) -> Self {
        Self { later }
    }

    fn of(&self, partition: Partition) -> &[Generation] {
        self.later.get(partition.index()).map_or(&[], Vec::as_slice)
    }

    /// The present generation of a partition.
    pub fn current(&self, partition: Partition) -> Generation {
        self.of(partition).last().copied().unwrap_or(Generation::FIRST)
    }

    /// The position itself if the present stands on it, else the last point before it that the present stands on.
    pub fn floor(&self, partition: Partition, position: Position) -> Position {
        let later = self.of(partition).iter().filter(|generation| generation.number > position.generation());
        match later.map(|generation| generation.base).min() {
            Some(base) if base < position.offset() => Position::new(position.generation(), base),
            _ => position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(bases: &[(u16, u64)]) -> History {
        let later = bases.iter().map(|&(number, base)| Generation { number, base }).collect();
        History::new(vec![later])
    }

    fn floor(bases: &[(u16, u64)], generation: u16, offset: u64) -> Position {
        history(bases).floor(Partition(0), Position::new(generation, offset))
    }

    #[test]
    fn what_survived_stands() {
        assert_eq!(floor(&[], 1, 7), Position::new(1, 7));
        assert_eq!(floor(&[(2, 7)], 1, 7), Position::new(1, 7));
        assert_eq!(floor(&[(2, 7)], 2, 900), Position::new(2, 900));
        assert_eq!(floor(&[(2, 7)], 0, 0), Position::ZERO);
    }

    #[test]
    fn what_was_lost_falls_back_to_the_base() {
        assert_eq!(floor(&[(2, 7)], 1, 8), Position::new(1, 7));
        assert_eq!(floor(&[(2, 0)], 1, 8), Position::new(1, 0));
    }

    #[test]
    fn a_second_loss_may_reach_behind_the_first() {
        let twice = [(2, 7), (5, 4)];
        assert_eq!(floor(&twice, 1, 6), Position::new(1, 4), "it survived the first loss only");
        assert_eq!(floor(&twice, 2, 9), Position::new(2, 4));
        assert_eq!(floor(&twice, 1, 4), Position::new(1, 4));
    }

    #[test]
    fn the_last_one_is_the_present() {
        assert_eq!(history(&[]).current(Partition(0)), Generation::FIRST);
        assert_eq!(history(&[(2, 7), (5, 4)]).current(Partition(0)), Generation { number: 5, base: 4 });
        assert_eq!(history(&[(2, 7)]).current(Partition(9)), Generation::FIRST, "nothing is known of it");
    }

    #[test]
    fn a_later_generation_fences_every_token_of_an_earlier_one() {
        let (old, new) = (Generation::FIRST, Generation { number: 2, base: 0 });
        assert!(new.fence() > old.fence() + u64::from(u32::MAX));
    }
}
