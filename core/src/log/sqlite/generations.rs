//! Generations of the file: which one an offset belongs to.
//!
//! Offsets go on from generation to generation. Each generation has a base, the offset after which it begins; at that
//! offset the history it continues ends, whatever a lost one wrote beyond it.

use crate::{generation::Generation, position::Position};

/// All generations of a file, the oldest first, each with its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generations(Vec<(u16, u64)>);

impl Default for Generations {
    fn default() -> Self {
        Self::new([])
    }
}

impl Generations {
    /// The first generation, after which the given ones came.
    pub(super) fn new(later: impl IntoIterator<Item = (u16, u64)>) -> Self {
        Self([(1, 0)].into_iter().chain(later).collect())
    }

    /// The same with one more.
    pub(super) fn and(mut self, Generation { number, base }: Generation) -> Self {
        self.0.push((number, base));
        self
    }

    pub(super) fn current(&self) -> u16 {
        self.0.last().map_or(1, |&(generation, _)| generation)
    }

    /// The offset after which the current generation begins.
    pub(super) fn base(&self) -> u64 {
        self.0.last().map_or(0, |&(_, base)| base)
    }

    /// The position of an offset.
    pub(super) fn place(&self, offset: u64) -> Position {
        let of = self.0.iter().rev().find(|&&(_, base)| base < offset);
        of.map_or(Position::ZERO, |&(generation, _)| Position::new(generation, offset))
    }

    /// The offset up to which the history before a position is the history of this file: its own, or the base of the
    /// generation that took over before it was reached.
    pub(super) fn shared(&self, position: Position) -> u64 {
        let next = self.0.iter().find(|&&(generation, _)| generation > position.generation());
        next.map_or(position.offset(), |&(_, base)| position.offset().min(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_belongs_to_the_generation_that_began_before_it() {
        let generations = Generations::new([(2, 100), (4, 120)]);
        let places = [0, 1, 100, 101, 120, 121].map(|offset| generations.place(offset));
        let expected = [(1, 1), (1, 100), (2, 101), (2, 120), (4, 121)].map(|(g, offset)| Position::new(g, offset));
        assert_eq!((places[0], &places[1..]), (Position::ZERO, &expected[..]));
        assert_eq!((generations.current(), generations.base()), (4, 120));
    }

    #[test]
    fn what_a_lost_history_had_beyond_the_base_is_not_shared() {
        let generations = Generations::new([(2, 100), (4, 120)]);
        let shared = [(1, 90), (1, 150), (2, 110), (2, 150), (3, 130), (4, 150)];
        let shared = shared.map(|(generation, offset)| generations.shared(Position::new(generation, offset)));
        assert_eq!(shared, [90, 100, 110, 120, 120, 150]);
    }
}
