//! How a log is doing: how much is in it that somebody still needs, and how much room there is.

use crate::{position::Position, role::Role};

/// What one look at a log finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vitals {
    /// The last position of each partition.
    pub ends: Vec<Position>,
    /// For each role, up to where it has acknowledged each partition; never ahead of the ends.
    pub progress: Vec<(Role, Vec<Position>)>,
    /// What the log takes, where anything is known about it.
    pub memory: Option<Memory>,
}

/// The memory of a log that is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that count towards the limit.
    pub used: u64,
    /// Bytes at which the log takes no more; `None` when nobody has set a limit.
    pub limit: Option<u64>,
}

impl Memory {
    /// Which share of the limit is used.
    pub fn share(&self) -> Option<f64> {
        self.limit.map(|limit| self.used as f64 / limit.max(1) as f64)
    }
}

impl Vitals {
    /// Up to where a role has acknowledged each partition.
    pub fn progress_of(&self, role: Role) -> &[Position] {
        self.progress.iter().find(|(of, _)| *of == role).map_or(&[], |(_, positions)| positions)
    }

    /// How many events a role has before it, in each partition. Offsets go on over generations.
    pub fn backlog(&self, role: Role) -> impl Iterator<Item = u64> {
        let done = self.progress_of(role).iter().copied().chain(std::iter::repeat(Position::ZERO));
        self.ends.iter().zip(done).map(|(end, done)| end.offset().saturating_sub(done.offset()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backlog_is_what_lies_between_also_over_generations() {
        let at = |generation, offset| Position::new(generation, offset);
        let progress = vec![(Role::Persist, vec![at(1, 7), Position::ZERO, at(2, 9)])];
        let vitals = Vitals { ends: vec![at(2, 10), at(1, 3), at(2, 9)], progress, memory: None };
        assert_eq!(vitals.backlog(Role::Persist).collect::<Vec<_>>(), [3, 3, 0]);
        assert_eq!(vitals.backlog(Role::Fanout).sum::<u64>(), 22, "a role that has done nothing has it all before it");
    }

    #[test]
    fn without_a_limit_there_is_no_share() {
        assert_eq!(Memory { used: 10, limit: None }.share(), None);
        assert_eq!(Memory { used: 10, limit: Some(40) }.share(), Some(0.25));
    }
}
