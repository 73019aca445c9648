//! The progress of one conversation under load: how far the slowest listener is, and whether there is room to publish.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::Notify;

/// Progress is counted in blocks of a window's eighth, so that listeners touch shared memory rarely.
const BLOCKS_PER_WINDOW: u64 = 8;
/// More blocks than can be under way at once.
const BLOCKS: usize = 64;

/// A conversation whose messages are "in flight" until its slowest listener has them.
pub(super) struct Room {
    pub(super) id: String,
    listeners: u32,
    window: u64,
    block: u64,
    passed: Vec<AtomicU32>,
    completed: AtomicU64,
    published: AtomicU64,
    settled: AtomicU64,
    first_acked: AtomicU64,
    last_acked: AtomicU64,
    stored: AtomicU64,
    voices: OnceLock<Vec<Arc<Notify>>>,
}

impl Room {
    /// A room with `window` messages in flight at most; without listeners only acknowledgements hold publishers back.
    pub(super) fn new(id: String, listeners: u32, window: u64) -> Self {
        Self {
            id,
            listeners,
            window,
            block: (window / BLOCKS_PER_WINDOW).max(1),
            passed: (0..BLOCKS).map(|_| AtomicU32::new(0)).collect(),
            completed: AtomicU64::new(0),
            published: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            first_acked: AtomicU64::new(u64::MAX),
            last_acked: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            voices: OnceLock::new(),
        }
    }

    /// Who is woken when the slowest listener has moved on.
    pub(super) fn wakes(&self, voices: Vec<Arc<Notify>>) {
        // A room is given its publishers once, right after it is made.
        let _ = self.voices.set(voices);
    }

    /// How many publishers there are.
    pub(super) fn publishers(&self) -> usize {
        self.voices.get().map_or(0, Vec::len)
    }

    /// Wakes every publisher.
    pub(super) fn wake(&self) {
        self.voices.get().into_iter().flatten().for_each(|voice| voice.notify_one());
    }

    /// Takes a place in the window, if there is one.
    pub(super) fn reserve(&self) -> bool {
        let free = |published: u64| {
            let full = self.listeners > 0 && published - self.completed.load(Relaxed).min(published) >= self.window;
            (!full).then_some(published + 1)
        };
        self.published.fetch_update(Relaxed, Relaxed, free).is_ok()
    }

    /// Counts a message that is sent whatever the window says.
    pub(super) fn publish(&self) {
        self.published.fetch_add(1, Relaxed);
    }

    /// A listener that had `before` messages now has `after`.
    pub(super) fn advance(&self, before: u64, after: u64) {
        for block in before / self.block..after / self.block {
            let passed = &self.passed[block as usize % BLOCKS];
            if passed.fetch_add(1, Relaxed) + 1 == self.listeners {
                passed.store(0, Relaxed);
                self.completed.fetch_max((block + 1) * self.block, Relaxed);
                self.wake();
            }
        }
    }

    /// A publish was acknowledged with this sequence number.
    pub(super) fn acked(&self, seq: u64) {
        self.first_acked.fetch_min(seq, Relaxed);
        self.last_acked.fetch_max(seq, Relaxed);
        self.settled.fetch_add(1, Relaxed);
    }

    /// A publish was refused.
    pub(super) fn refused(&self) {
        self.settled.fetch_add(1, Relaxed);
    }

    /// The database has everything up to this sequence number.
    pub(super) fn stored(&self, up_to: u64) {
        self.stored.fetch_max(up_to, Relaxed);
    }

    /// How far the server said the database is.
    pub(super) fn stored_up_to(&self) -> u64 {
        self.stored.load(Relaxed)
    }

    /// Publishes that have no answer yet.
    pub(super) fn unsettled(&self) -> u64 {
        self.published.load(Relaxed).saturating_sub(self.settled.load(Relaxed))
    }

    /// The first and the last acknowledged sequence number, if anything was.
    pub(super) fn acked_range(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.first_acked.load(Relaxed), self.last_acked.load(Relaxed));
        (first <= last).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_listener_holds_the_window() {
        let room = Room::new("r".to_owned(), 2, 8);
        assert_eq!((0..20).filter(|_| room.reserve()).count(), 8);
        room.advance(0, 8);
        assert!(!room.reserve(), "one listener is still behind");
        room.advance(0, 3);
        assert_eq!((0..20).filter(|_| room.reserve()).count(), 3);
    }

    #[test]
    fn blocks_are_used_again() {
        let room = Room::new("r".to_owned(), 1, 4);
        for done in 0..1_000 {
            assert!(room.reserve());
            room.advance(done, done + 1);
        }
        assert_eq!((0..20).filter(|_| room.reserve()).count(), 4);
    }

    #[test]
    fn without_listeners_nothing_holds_it() {
        let room = Room::new("r".to_owned(), 0, 1);
        assert_eq!((0..20).filter(|_| room.reserve()).count(), 20);
        room.acked(7);
        room.acked(9);
        room.refused();
        assert_eq!((room.unsettled(), room.acked_range()), (17, Some((7, 9))));
    }
}
