//! Watches what one client receives of one conversation: nothing lost, nothing twice, in order.

use std::collections::BTreeSet;

/// Gaps beyond this are counted but no longer followed, so that a broken server cannot exhaust the generator.
const MOST_FOLLOWED: u64 = 100_000;

/// What one client has seen.
#[derive(Debug, Default)]
pub(super) struct Witness {
    first: u64,
    last: u64,
    missing: BTreeSet<u64>,
    unfollowed: u64,
    /// Frames that came again.
    pub(super) twice: u64,
    /// Frames that came after a later one.
    pub(super) disordered: u64,
    /// Messages received.
    pub(super) received: u64,
}

/// What was wrong with it, summed over clients.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) twice: u64,
    pub(super) disordered: u64,
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.twice += other.twice;
        self.disordered += other.disordered;
    }
}

impl Witness {
    /// A client that resumes after `last`: what follows must begin with the next number.
    pub(super) fn resuming_after(last: u64) -> Self {
        Self { first: last + 1, last, ..Self::default() }
    }

    /// Notes a sequenced frame.
    pub(super) fn see(&mut self, seq: u64) {
        if self.first == 0 {
            (self.first, self.last) = (seq, seq);
        } else if seq == self.last + 1 {
            self.last = seq;
        } else if seq > self.last {
            self.leave_gap(seq);
        } else if self.missing.remove(&seq) {
            self.disordered += 1;
        } else {
            self.twice += 1;
        }
    }

    fn leave_gap(&mut self, seq: u64) {
        let followed = (seq - self.last - 1).min(MOST_FOLLOWED.saturating_sub(self.missing.len() as u64));
        self.missing.extend(self.last + 1..self.last + 1 + followed);
        self.unfollowed += seq - self.last - 1 - followed;
        self.last = seq;
    }

    /// The highest number seen.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether everything up to `goal` is there.
    pub(super) fn has_everything(&self, goal: u64) -> bool {
        self.last >= goal && self.missing.is_empty()
    }

    /// What is wrong, given that everything from `from` to `to` was acknowledged.
    pub(super) fn faults(&self, from: u64, to: u64) -> Faults {
        let before = if self.first == 0 { 0 } else { self.first.saturating_sub(from) };
        let after = if self.first == 0 { (to + 1).saturating_sub(from) } else { to.saturating_sub(self.last) };
        let lost = before + after + self.missing.len() as u64 + self.unfollowed;
        Faults { lost, twice: self.twice, disordered: self.disordered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seqs: &[u64]) -> Witness {
        let mut witness = Witness::default();
        seqs.iter().for_each(|seq| witness.see(*seq));
        witness
    }

    #[test]
    fn a_whole_sequence_has_no_faults() {
        assert_eq!(seen(&[3, 4, 5]).faults(3, 5), Faults::default());
    }

    #[test]
    fn every_kind_of_loss_is_counted() {
        assert_eq!(seen(&[3, 5]).faults(3, 5).lost, 1, "a hole");
        assert_eq!(seen(&[3, 4]).faults(1, 4).lost, 2, "the beginning");
        assert_eq!(seen(&[3, 4]).faults(3, 9).lost, 5, "the end");
        assert_eq!(seen(&[]).faults(1, 9).lost, 9, "everything");
        assert_eq!(seen(&[1, 1_000_002]).faults(1, 1_000_002).lost, 1_000_000, "more than is followed");
    }

    #[test]
    fn late_and_repeated_frames_are_told_apart() {
        assert_eq!(seen(&[1, 3, 2, 2]).faults(1, 3), Faults { lost: 0, twice: 1, disordered: 1 });
    }

    #[test]
    fn a_resuming_client_expects_the_next_number() {
        let mut witness = Witness::resuming_after(1);
        assert_eq!(witness.faults(2, 3).lost, 2);
        witness.see(3);
        assert_eq!(witness.faults(2, 3).lost, 1);
        witness.see(1);
        assert_eq!(witness.faults(2, 3).twice, 1);
    }
}
