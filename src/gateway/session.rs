//! One connection's outbox: what is waiting to be sent, bounded in bytes.
//!
//! The gateway writes into it without waiting; the connection's own task takes out and sends. When sequenced frames
//! would exceed the bound they are dropped, because the log has them: the session is then lagging, and reads them in
//! pages at its own pace. Only answers and control frames cannot be read again; a client that does not take even those
//! is closed.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use axum::extract::ws::Utf8Bytes;
use everpost_core::{
    name::{ConversationId, UserId},
    position::Position,
};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{close::Close, frame::Run};

/// What the connection's task has to do.
#[derive(Debug)]
pub(crate) enum Item {
    /// Sequenced frames, shared with other sessions.
    Run(Arc<Run>),
    /// A frame for this connection, or an ephemeral one.
    Text(Utf8Bytes),
    /// Send a protocol ping.
    Ping,
    /// The user takes part in a conversation from this position on.
    Joined(ConversationId, Position),
    /// The user no longer takes part in a conversation.
    Left(ConversationId),
    /// What this connection published at a position was accepted and is lost.
    Lost(ConversationId, Position),
    /// It is time to try a replay again.
    Lagging,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Run(run) => run.bytes,
            Self::Text(text) => text.len(),
            Self::Ping | Self::Joined(..) | Self::Left(_) | Self::Lost(..) | Self::Lagging => 64,
        }
    }
}

#[derive(Default)]
struct Outbox {
    items: VecDeque<Item>,
    bytes: usize,
    lagging: bool,
    close: Option<Close>,
}

/// What was waiting.
pub(crate) struct Taken {
    pub(crate) items: VecDeque<Item>,
    /// Sequenced frames were dropped since the last time.
    pub(crate) lagging: bool,
    pub(crate) close: Option<Close>,
}

/// One connection, as the rest of the gateway sees it.
pub(crate) struct Session {
    pub(crate) id: Uuid,
    pub(crate) user: UserId,
    pub(crate) ready: Notify,
    outbox: Mutex<Outbox>,
    max_bytes: usize,
    /// Publishes whose answer is outstanding.
    pub(crate) in_flight: AtomicUsize,
    /// When the token runs out, seconds since the epoch.
    pub(crate) expires: u64,
    /// When the client was last heard of, in the gateway's seconds.
    heard: AtomicU64,
    /// Its client cannot say anything, so silence means nothing.
    pub(crate) only_listens: bool,
}

impl Session {
    pub(crate) fn new(user: UserId, expires: u64, max_bytes: usize, now: u64) -> Self {
        Self {
            id: Uuid::now_v7(),
            user,
            ready: Notify::new(),
            outbox: Mutex::default(),
            max_bytes,
            in_flight: AtomicUsize::new(0),
            expires,
            heard: AtomicU64::new(now),
            only_listens: false,
        }
    }

    /// The same with a client that cannot say anything.
    pub(crate) fn that_only_listens(self) -> Self {
        Self { only_listens: true, ..self }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the outbox; never waits.
    pub(crate) fn push(&self, item: Item) {
        let mut outbox = self.outbox();
        let bytes = item.bytes();
        if outbox.bytes + bytes > self.max_bytes && !make_room(&mut outbox, &item, self.max_bytes) {
            drop(outbox);
            self.ready.notify_one(); // the outbox may be empty now, and lagging is news as well
            return;
        }
        outbox.bytes += bytes;
        outbox.items.push_back(item);
        let first = outbox.items.len() == 1;
        drop(outbox);
        if first {
            self.ready.notify_one();
        }
    }

    /// Asks the connection to close.
    pub(crate) fn close(&self, close: Close) {
        self.outbox().close.get_or_insert(close);
        self.ready.notify_one();
    }

    /// Tells the connection that sequenced frames may have been missed.
    pub(crate) fn mark_lagging(&self) {
        self.outbox().lagging = true;
        self.ready.notify_one();
    }

    /// Empties the outbox.
    pub(crate) fn take(&self) -> Taken {
        let mut outbox = self.outbox();
        outbox.bytes = 0;
        Taken {
            items: mem::take(&mut outbox.items),
            lagging: mem::take(&mut outbox.lagging),
            close: outbox.close.clone(),
        }
    }

    pub(crate) fn hear(&self, now: u64) {
        self.heard.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

/// Drops sequenced frames so that the item fits; `false` if the item itself is to be dropped.
fn make_room(outbox: &mut Outbox, item: &Item, max_bytes: usize) -> bool {
    outbox.items.retain(|waiting| !matches!(waiting, Item::Run(_)));
    outbox.bytes = outbox.items.iter().map(Item::bytes).sum();
    outbox.lagging = true;
    if matches!(item, Item::Run(_)) {
        return false;
    }
    if outbox.bytes + item.bytes() > max_bytes {
        outbox.close.get_or_insert(Close::TooSlow);
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use everpost_core::{
        cursor::Cursor,
        partition::{Partition, Partitions},
    };

    use super::*;

    fn session(max_bytes: usize) -> Session {
        Session::new(UserId::new("alice").expect("a name"), u64::MAX, max_bytes, 0)
    }

    fn run() -> Item {
        Item::Run(Arc::new(Run {
            conversation: ConversationId::new("general").expect("a name"),
            partition: Partition(0),
            base: Arc::new(Cursor::start(1, Partitions::ONE)),
            frames: Vec::new(),
            bytes: 20,
        }))
    }

    #[test]
    fn sequenced_frames_give_way_and_the_session_lags() {
        let session = session(24);
        session.push(run());
        session.push(Item::Text("12345".into()));
        session.push(Item::Text("x".repeat(20).into()));
        let taken = session.take();
        assert!(taken.lagging && taken.close == Some(Close::TooSlow));
        assert_eq!(taken.items.len(), 1, "the answer that fitted is still there");
    }

    #[test]
    fn within_the_bound_nothing_is_dropped() {
        let session = session(100);
        session.push(run());
        session.push(Item::Text("12345".into()));
        let taken = session.take();
        assert!(!taken.lagging && taken.close.is_none() && taken.items.len() == 2);
        assert!(session.take().items.is_empty());
    }
}
