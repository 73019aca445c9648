//! Tenures: who works under which lease, so that what a crash interrupted is known afterwards.
//!
//! A tenure begins with the first record under a lease and ends in order. One that is found open and belongs to somebody
//! else ended in a crash. Nothing is written in between, except after a crash: then each record that was in hand is
//! noted before it is worked on by itself, and if that is the end twice in a row, it was this one.

use async_trait::async_trait;

use super::StoreError;
use crate::{generation::Generation, lease::Lease, position::Position};

/// What earlier tenures left to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Legacy {
    /// How often in a row work ended in a crash without getting any further.
    pub crashes: u32,
    /// What was worked on by itself when it last did.
    pub suspect: Option<Position>,
}

/// Tenures, one for each role and partition.
#[async_trait]
pub trait Tenures: Send + Sync {
    /// Begins a tenure whose first unfinished record is at a position, and tells what earlier ones left.
    async fn begin_tenure(&self, lease: &Lease, worker: &str, at: Position) -> Result<Legacy, StoreError>;

    /// Notes what is worked on by itself from now on. Without effect when somebody else's tenure has begun.
    async fn suspect(&self, lease: &Lease, at: Position) -> Result<(), StoreError>;

    /// Ends a tenure in order. Without effect when somebody else's has begun.
    async fn end_tenure(&self, lease: &Lease) -> Result<(), StoreError>;
}

/// A tenure as the database has it.
pub(super) struct Tenure {
    pub(super) token: u64,
    pub(super) worker: String,
    pub(super) open: bool,
    pub(super) at: Position,
    pub(super) crashes: u32,
    pub(super) suspect: Position,
}

/// What a tenure leaves to the one that begins at a position.
pub(super) fn legacy(before: Option<&Tenure>, lease: &Lease, worker: &str, at: Position) -> Legacy {
    let Some(before) = before else { return Legacy::default() };
    // A new generation of the log takes all leases away from whoever has them, and nobody crashed.
    let renewed = Generation::of_token(before.token) != Generation::of_token(lease.token);
    let crashed = before.open && before.worker != worker && !renewed;
    let stuck = at <= before.at;
    let suspect = Some(before.suspect).filter(|suspect| crashed && *suspect >= at);
    let crashes = match (crashed, stuck) {
        (true, true) => before.crashes.saturating_add(1),
        // It got further, up to what it then had in hand alone: that was among what the crash before was about.
        (true, false) if suspect.is_some() => 2,
        (true, false) => 1,
        (false, true) => before.crashes,
        (false, false) => 0,
    };
    Legacy { crashes, suspect }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{partition::Partition, role::Role};

    fn tenure(open: bool, at: u64, crashes: u32, suspect: u64) -> Tenure {
        let suspect = if suspect == 0 { Position::ZERO } else { Position::new(1, suspect) };
        Tenure { token: 1, worker: "a".to_owned(), open, at: Position::new(1, at), crashes, suspect }
    }

    fn lease(token: u64) -> Lease {
        Lease { role: Role::Persist, partition: Partition(0), token }
    }

    fn crashes(before: &Tenure, worker: &str, at: u64) -> u32 {
        legacy(Some(before), &lease(2), worker, Position::new(1, at)).crashes
    }

    #[test]
    fn leases_lost_to_a_new_generation_are_no_crash() {
        let later = lease(Generation { number: 2, base: 5 }.fence() + 1);
        assert_eq!(legacy(Some(&tenure(true, 5, 0, 5)), &later, "b", Position::new(1, 5)), Legacy::default());
    }

    #[test]
    fn only_somebody_elses_open_tenure_is_a_crash() {
        assert_eq!(crashes(&tenure(true, 5, 0, 0), "b", 5), 1);
        assert_eq!(crashes(&tenure(false, 5, 0, 0), "b", 5), 0, "it ended in order");
        assert_eq!(crashes(&tenure(true, 5, 0, 0), "a", 5), 0, "it got its lease back");
        assert_eq!(legacy(None, &lease(1), "a", Position::ZERO), Legacy::default());
    }

    #[test]
    fn crashes_add_up_only_without_progress() {
        assert_eq!(crashes(&tenure(true, 5, 1, 0), "b", 5), 2);
        assert_eq!(crashes(&tenure(true, 5, 7, 0), "b", 6), 1, "it got further, so this is another matter");
        assert_eq!(crashes(&tenure(false, 5, 1, 0), "b", 5), 1, "an orderly end neither adds nor forgives");
        assert_eq!(crashes(&tenure(false, 5, 1, 0), "b", 6), 0);
    }

    #[test]
    fn a_suspect_that_was_reached_has_crashed_twice() {
        assert_eq!(crashes(&tenure(true, 5, 1, 9), "b", 9), 2);
        assert_eq!(crashes(&tenure(true, 9, 2, 9), "b", 9), 3);
        assert_eq!(crashes(&tenure(true, 5, 1, 9), "b", 10), 1, "it was finished, so this is another matter");
    }

    #[test]
    fn a_suspect_counts_if_it_was_the_end_and_is_unfinished() {
        let suspect = |before: &Tenure, at| legacy(Some(before), &lease(2), "b", Position::new(1, at)).suspect;
        assert_eq!(suspect(&tenure(true, 5, 2, 7), 7), Some(Position::new(1, 7)));
        assert_eq!(suspect(&tenure(true, 5, 2, 7), 8), None, "it was finished after all");
        assert_eq!(suspect(&tenure(false, 5, 2, 7), 7), None, "the tenure ended in order");
    }
}
