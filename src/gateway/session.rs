//! One connection's outbox: what is waiting to be sent, bounded in bytes.
//!
//! The gateway writes into it without waiting; the connection's own task takes out and sends. What gives way first are
//! ephemeral frames: they enter only while half of the outbox is free, and leave it before anything else does. Next are
//! sequenced frames, because the log has them: the session is then lagging, keeps nothing more of them, and reads them
//! in pages at its own pace. Only answers and control frames cannot be read again; a client that does not take even
//! those is closed.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::extract::ws::Utf8Bytes;
use everpost_core::{
    name::{ConversationId, DeviceType, UserId},
    position::Position,
};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{claims::Grant, close::Close, frame::Run};

/// What the connection's task has to do.
#[derive(Debug)]
pub(crate) enum Item {
    /// Sequenced frames, shared with other sessions.
    Run(Arc<Run>),
    /// A frame for this connection alone.
    Text(Utf8Bytes),
    /// A frame that nobody misses: typing, who is there.
    Ephemeral(Utf8Bytes),
    /// Send a heartbeat.
    Heartbeat,
    /// The user takes part in a conversation from this position on.
    Joined(ConversationId, Position),
    /// The user no longer takes part in a conversation.
    Left(ConversationId),
    /// What this connection published at a position was accepted and is lost.
    Lost(ConversationId, Position),
    /// A conversation's events after this position have not all arrived here.
    Missed(ConversationId, Position),
    /// It is time to try a replay again.
    Lagging,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Run(run) => run.bytes,
            Self::Text(text) | Self::Ephemeral(text) => text.len(),
            Self::Heartbeat | Self::Joined(..) | Self::Left(_) | Self::Lost(..) | Self::Missed(..) | Self::Lagging => {
                64
            }
        }
    }
}

#[derive(Default)]
struct Outbox {
    items: VecDeque<Item>,
    bytes: usize,
    lagging: bool,
    close: Option<Close>,
    /// Conversations the user left since the outbox was emptied last.
    left: Vec<ConversationId>,
}

impl Outbox {
    /// The reason to close, if it is that its user may no longer be here.
    fn revoked(&self) -> Option<&Close> {
        self.close.as_ref().filter(|close| matches!(close, Close::Unauthenticated(_) | Close::Forbidden))
    }

    /// Takes back what waits of a conversation that was left.
    fn withdraw(&mut self, conversation: &ConversationId) {
        self.items.retain(|waiting| !matches!(waiting, Item::Run(run) if run.conversation == *conversation));
        self.bytes = self.items.iter().map(Item::bytes).sum();
        if !self.left.contains(conversation) {
            self.left.push(conversation.clone());
        }
    }
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
    /// What kind of device it is, if its token says so.
    pub(crate) device_type: Option<DeviceType>,
    pub(crate) ready: Notify,
    /// Told once the connection is to close.
    closing: Notify,
    outbox: Mutex<Outbox>,
    max_bytes: usize,
    /// Publishes whose answer is outstanding.
    pub(crate) in_flight: AtomicUsize,
    /// What the token granted that was shown last.
    grant: Mutex<Grant>,
    /// Rights have ended that frames on their way must heed.
    interrupted: AtomicBool,
    /// When the client was last heard of, in the gateway's seconds.
    heard: AtomicU64,
    /// Its client cannot say anything, so silence means nothing.
    pub(crate) only_listens: bool,
}

impl Session {
    pub(crate) fn new(user: UserId, grant: Grant, max_bytes: usize, now: u64) -> Self {
        Self {
            id: Uuid::now_v7(),
            user,
            device_type: None,
            ready: Notify::new(),
            closing: Notify::new(),
            outbox: Mutex::default(),
            max_bytes,
            in_flight: AtomicUsize::new(0),
            grant: Mutex::new(grant),
            interrupted: AtomicBool::new(false),
            heard: AtomicU64::new(now),
            only_listens: false,
        }
    }

    /// The same on a device of a kind.
    pub(crate) fn on(self, device_type: Option<DeviceType>) -> Self {
        Self { device_type, ..self }
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
        if let Item::Left(conversation) = &item {
            outbox.withdraw(conversation);
            self.interrupted.store(true, Ordering::Release);
        }
        let bytes = item.bytes();
        if !outbox.wants(&item, self.max_bytes) {
            return;
        }
        if outbox.bytes + bytes > self.max_bytes && !outbox.make_room(&item, self.max_bytes) {
            let closes = outbox.close.is_some();
            drop(outbox);
            self.ready.notify_one(); // the outbox may be empty now, and lagging is news as well
            if closes {
                self.closing.notify_one();
            }
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
        let mut outbox = self.outbox();
        outbox.close.get_or_insert(close);
        if outbox.revoked().is_some() {
            self.interrupted.store(true, Ordering::Release);
        }
        drop(outbox);
        self.ready.notify_one();
        self.closing.notify_one();
    }

    /// Returns when the connection was asked to close and has had its time to do so in order. One that is stuck in the
    /// middle of a write to somebody who does not read would not notice otherwise.
    pub(crate) async fn overdue(&self, grace: Duration) -> Close {
        self.closing.notified().await;
        Box::pin(tokio::time::sleep(grace)).await; // only a connection that ends pays for the timer
        self.outbox().close.clone().unwrap_or(Close::Internal)
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
        outbox.left.clear(); // their items are taken, and heeded in their turn
        self.interrupted.store(outbox.revoked().is_some(), Ordering::Release);
        Taken {
            items: mem::take(&mut outbox.items),
            lagging: mem::take(&mut outbox.lagging),
            close: outbox.close.clone(),
        }
    }

    /// Which rights have ended since the outbox was emptied last: conversations that were left, or all of them. What is
    /// already on its way must not wait for its turn to learn of it.
    pub(crate) fn ended(&self) -> Option<(Vec<ConversationId>, Option<Close>)> {
        if !self.interrupted.load(Ordering::Acquire) {
            return None;
        }
        let mut outbox = self.outbox();
        self.interrupted.store(outbox.revoked().is_some(), Ordering::Release);
        Some((mem::take(&mut outbox.left), outbox.revoked().cloned()))
    }

    pub(crate) fn grant(&self) -> Grant {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the token runs out, seconds since the epoch.
    pub(crate) fn expires(&self) -> u64 {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).expires
    }

    /// Another token was shown, which counts from now on.
    pub(crate) fn renew(&self, grant: Grant) {
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant;
    }

    pub(crate) fn hear(&self, now: u64) {
        self.heard.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Outbox {
    /// Whether there is any point in keeping the item. What a lagging session is given is what it is about to read.
    fn wants(&self, item: &Item, max_bytes: usize) -> bool {
        match item {
            Item::Run(_) => !self.lagging,
            Item::Ephemeral(_) => !self.lagging && self.bytes + item.bytes() <= max_bytes / 2,
            _ => true,
        }
    }

    /// Drops ephemeral frames, then sequenced ones, so that the item fits; `false` if the item itself is to be dropped.
    fn make_room(&mut self, item: &Item, max_bytes: usize) -> bool {
        self.keep(|waiting| !matches!(waiting, Item::Ephemeral(_)));
        if self.bytes + item.bytes() <= max_bytes {
            return true;
        }
        self.keep(|waiting| !matches!(waiting, Item::Run(_)));
        self.lagging = true;
        if matches!(item, Item::Run(_)) {
            return false;
        }
        if self.bytes + item.bytes() > max_bytes {
            self.close.get_or_insert(Close::TooSlow);
            return false;
        }
        true
    }

    fn keep(&mut self, wanted: impl Fn(&Item) -> bool) {
        self.items.retain(wanted);
        self.bytes = self.items.iter().map(Item::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use everpost_core::{
        cursor::Cursor,
        partition::{Partition, Partitions},
    };

    use super::*;

    fn session(max_bytes: usize) -> Session {
        Session::new(UserId::new("alice").expect("a name"), Grant::FOREVER, max_bytes, 0)
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

    fn typing(bytes: usize) -> Item {
        Item::Ephemeral("t".repeat(bytes).into())
    }

    fn waiting(session: &Session) -> usize {
        let outbox = session.outbox();
        assert_eq!(outbox.bytes, outbox.items.iter().map(Item::bytes).sum::<usize>());
        outbox.bytes
    }

    #[test]
    fn ephemeral_frames_give_way_first() {
        let session = session(100);
        session.push(typing(40));
        session.push(run());
        session.push(run());
        session.push(typing(1));
        assert_eq!(waiting(&session), 80, "from half of the bound on they do not enter");
        session.push(run());
        session.push(run());
        let taken = session.take();
        assert!(!taken.lagging && taken.close.is_none(), "no sequenced frame was dropped for them");
        assert_eq!(taken.items.len(), 4);
        assert!(taken.items.iter().all(|item| matches!(item, Item::Run(_))));
    }

    #[test]
    fn a_session_that_lags_keeps_nothing_it_will_read_anyway() {
        let session = session(50);
        (0..3).for_each(|_| session.push(run()));
        assert_eq!(waiting(&session), 0, "the third one did not fit, and the log has all of them");
        for _ in 0..1_000 {
            session.push(run());
            session.push(typing(1));
        }
        session.push(Item::Text("answer".into()));
        assert_eq!(waiting(&session), 6);
        let taken = session.take();
        assert!(taken.lagging && taken.close.is_none());
        session.push(run());
        assert_eq!(waiting(&session), 20, "from then on it is told again");
    }

    #[tokio::test]
    async fn who_does_not_close_in_time_is_overdue() {
        let session = session(10);
        session.push(Item::Text("x".repeat(11).into()));
        assert_eq!(session.overdue(Duration::from_millis(1)).await, Close::TooSlow);
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

    #[test]
    fn what_was_left_is_taken_back_and_what_is_on_its_way_learns_of_it() {
        let session = session(100);
        assert!(session.ended().is_none());
        session.push(run());
        session.push(Item::Left(ConversationId::new("general").expect("a name")));
        let (left, close) = session.ended().expect("something ended");
        assert_eq!((left.len(), close), (1, None));
        assert!(session.ended().is_none(), "it is told once");
        assert!(matches!(session.take().items.make_contiguous(), [Item::Left(_)]), "the frame was taken back");
        session.push(Item::Left(ConversationId::new("general").expect("a name")));
        session.take();
        assert!(session.ended().is_none(), "what was taken is heeded in its turn");
        session.close(Close::Forbidden);
        session.take();
        assert_eq!(session.ended().expect("something ended").1, Some(Close::Forbidden), "until the connection ends");
    }
}
