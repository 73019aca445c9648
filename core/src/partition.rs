//! Partitions: how conversations spread over streams, owners and machines.

use xxhash_rust::xxh3::xxh3_64;

/// One of a fixed number of independent logs. Order holds within a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u16);

impl Partition {
    /// Where this partition stands in a list of all of them.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How many partitions there are: a power of two, chosen at installation and never changed after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions(u16);

/// The number of partitions is not one that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the number of partitions must be a power of two from 1 to 256, not {0}")]
pub struct InvalidPartitions(u16);

impl Partitions {
    /// A count of partitions: a power of two, at most 256.
    pub fn new(count: u16) -> Result<Self, InvalidPartitions> {
        if count.is_power_of_two() && count <= 256 { Ok(Self(count)) } else { Err(InvalidPartitions(count)) }
    }

    /// Exactly one: for a log with a single writer, where spreading would buy nothing.
    pub const ONE: Self = Self(1);

    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.0)
    }

    /// The partition of a conversation; the same on every machine and in every version.
    pub fn of(self, conversation: &str) -> Partition {
        let hash = xxh3_64(conversation.as_bytes());
        Partition((hash & u64::from(self.0 - 1)) as u16)
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Partition> + Clone {
        (0..self.0).map(Partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_are_counts() {
        assert!([0, 3, 12, 512].into_iter().all(|n| Partitions::new(n).is_err()));
        assert!([1, 2, 16, 256].into_iter().all(|n| Partitions::new(n).is_ok()));
    }

    #[test]
    fn the_assignment_never_changes() {
        let sixteen = Partitions::new(16).expect("a power of two");
        let assigned: Vec<u16> = ["a", "general", "room-1", "room-2"].iter().map(|c| sixteen.of(c).0).collect();
        assert_eq!(assigned, [15, 3, 7, 8], "stored data is found by this assignment");
    }

    #[test]
    fn conversations_spread_evenly() {
        let sixteen = Partitions::new(16).expect("a power of two");
        let mut counts = [0_u32; 16];
        (0..16_000).for_each(|n| counts[sixteen.of(&format!("room-{n}")).index()] += 1);
        assert!(counts.iter().all(|&c| (800..1_200).contains(&c)), "{counts:?}");
    }
}
