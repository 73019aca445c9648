//! Positions: where an event stands in its partition.

use std::fmt;

const OFFSET_BITS: u32 = 48;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// A point in one partition: the generation of the log and a dense offset, 1, 2, 3 … within it.
///
/// Positions of a partition grow without gaps while a generation lasts, so a missing event is visible as a missing
/// offset. A new generation begins when the log itself may have lost something. The zero position is before everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// The position of an offset in a generation. Offsets beyond 2^48 are cut; at a million events a second that is
    /// nine years of one generation.
    pub fn new(generation: u16, offset: u64) -> Self {
        Self((u64::from(generation) << OFFSET_BITS) | (offset & OFFSET_MASK))
    }

    /// The generation of the log this position belongs to.
    pub fn generation(self) -> u16 {
        (self.0 >> OFFSET_BITS) as u16
    }

    /// The offset within the generation.
    pub fn offset(self) -> u64 {
        self.0 & OFFSET_MASK
    }

    /// The position of the event after this one in the same generation.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position `count` events earlier, at most back to the start of the generation.
    pub fn back(self, count: u64) -> Self {
        Self::new(self.generation(), self.offset().saturating_sub(count))
    }

    /// As a database column: generations below 2^15 keep it positive, and so in order.
    pub fn to_column(self) -> i64 {
        self.0 as i64
    }

    /// The position a column holds.
    pub fn from_column(column: i64) -> Self {
        Self(column as u64)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.generation(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_generation_is_always_later() {
        assert!(Position::new(2, 1) > Position::new(1, OFFSET_MASK));
        assert!(Position::new(1, 8) > Position::new(1, 7));
    }

    #[test]
    fn columns_keep_the_order() {
        let (a, b) = (Position::new(1, 9), Position::new(2, 1));
        assert!(a.to_column() < b.to_column());
        assert_eq!(Position::from_column(a.to_column()), a);
    }
}
