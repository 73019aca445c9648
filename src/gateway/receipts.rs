//! Receipts: how far people have got and read, gathered here and written for everybody at once.
//!
//! An acknowledged cursor and a `read` become marks that only wait in memory, the furthest for each person and
//! conversation. The first one is written a moment later, together with what gathered until then, and whatever comes
//! meanwhile a second after it; so there are about two calls to the database a second, however many are noted. Those that
//! moved are told with one parcel for each instance that has listeners. A crash costs the marks of the last second:
//! clients acknowledge and read again, later and further.
//!
//! Who publishes has read: a publish moves its sender's read mark. Nobody is told of it where only the sender's own event
//! lies in between. What was read need not be delivered any more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use everpost_core::{
    name::{ConversationId, InstanceId, UserId},
    pressure::Level,
    relay::{Moved, Parcel, Signal, Topic},
    store::{Mark, StoreError},
};
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use super::{Gateway, error::ApiError, frame, hub::Hub, replay, session::Item};

/// How long the first mark waits for company.
const GATHER: Duration = Duration::from_millis(20);
/// How long the next ones wait.
const EVERY: Duration = Duration::from_secs(1);
/// Marks in one call to the database.
const MAX_BATCH: usize = 1_000;
/// Marks that wait while the database is away; what is beyond is not taken.
const MAX_WAITING: usize = 20_000;
/// Marks in one parcel.
const MAX_PARCEL: usize = 500;
/// Marks that are remembered to know what lies in between; beyond it some are told that need not be.
const MAX_REMEMBERED: usize = 20_000;
/// Events of the log that are looked through for a number the database does not have yet.
const MAX_UNSTORED: usize = 1_000;

type Advance = (ConversationId, UserId, u64);
type Marks = HashMap<(UserId, ConversationId, Mark), Noted>;
type Asked = oneshot::Sender<Result<(), ApiError>>;

/// How far, and whether others are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    up_to: u64,
    told: bool,
}

#[derive(Default)]
struct Waiting {
    marks: Marks,
    asked: Vec<Asked>,
    /// Read marks as they were noted last.
    last_read: HashMap<(UserId, ConversationId), u64>,
}

/// Marks on their way into the database.
#[derive(Default)]
pub(crate) struct Receipts {
    waiting: Mutex<Waiting>,
    noted: Notify,
    asked: Notify,
    writing: tokio::sync::Mutex<()>,
}

impl Receipts {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device of the user has everything up to a number.
    pub(crate) fn delivered(&self, conversation: ConversationId, user: UserId, up_to: u64) {
        self.note((user, conversation, Mark::Delivered), Noted { up_to, told: true });
    }

    /// The user has read everything up to a number; `false` when too much is waiting to remember it.
    pub(crate) fn read(&self, conversation: ConversationId, user: UserId, up_to: u64) -> bool {
        self.note((user, conversation, Mark::Read), Noted { up_to, told: true })
    }

    /// The user has published this number, and read what was before it.
    pub(crate) fn published(&self, conversation: ConversationId, user: UserId, up_to: u64) {
        let last = self.waiting().last_read.get(&(user.clone(), conversation.clone())).copied().unwrap_or_default();
        let told = last + 1 < up_to;
        self.note((user, conversation, Mark::Read), Noted { up_to, told });
    }

    fn note(&self, of: (UserId, ConversationId, Mark), noted: Noted) -> bool {
        let mut waiting = self.waiting();
        let first = waiting.marks.is_empty();
        if waiting.marks.len() >= MAX_WAITING && !waiting.marks.contains_key(&of) {
            return false;
        }
        if of.2 == Mark::Read {
            waiting.remember(&of, noted.up_to);
        }
        let present = waiting.marks.entry(of).or_insert(noted);
        *present = Noted { up_to: present.up_to.max(noted.up_to), told: present.told || noted.told };
        drop(waiting);
        if first {
            self.noted.notify_one();
        }
        true
    }

    /// Returns when everything that was noted before is in the database.
    pub(crate) async fn written(&self) -> Result<(), ApiError> {
        let (done, written) = oneshot::channel();
        self.waiting().asked.push(done);
        self.noted.notify_one();
        self.asked.notify_one();
        written.await.map_err(|_| ApiError::Unavailable("the service is stopping"))?
    }

    fn take(&self) -> (Marks, Vec<Asked>) {
        let mut waiting = self.waiting();
        (std::mem::take(&mut waiting.marks), std::mem::take(&mut waiting.asked))
    }

    /// Whether something of the user waits to be written.
    fn concerns(&self, user: &UserId) -> bool {
        self.waiting().marks.keys().any(|(whose, ..)| whose == user)
    }
}

impl Waiting {
    fn remember(&mut self, (user, conversation, _): &(UserId, ConversationId, Mark), up_to: u64) {
        if self.last_read.len() >= MAX_REMEMBERED {
            self.last_read.clear();
        }
        let last = self.last_read.entry((user.clone(), conversation.clone())).or_default();
        *last = up_to.max(*last);
    }
}

impl Gateway {
    /// Writes marks until the gateway stops; what is left then is written as it drains.
    pub(super) async fn watch_receipts(&self) {
        while self.stopping.run_until_cancelled(self.receipts.noted.notified()).await.is_some() {
            tokio::time::sleep(GATHER).await;
            self.write_marks().await; // never cancelled: what it took would be lost
            let pause = tokio::time::timeout(EVERY, self.receipts.asked.notified());
            let _ = self.stopping.run_until_cancelled(pause).await; // however it ends, the next round follows
        }
    }

    /// Writes what waits and tells those concerned. What could not be written now waits again.
    pub(super) async fn write_marks(&self) {
        let _one_at_a_time = self.receipts.writing.lock().await;
        let (mut marks, asked) = self.receipts.take();
        let (mut moved, mut outcome) = (Vec::new(), Ok(()));
        for mark in [Mark::Read, Mark::Delivered] {
            let (these, others) = marks.into_iter().partition(|((.., of), _)| *of == mark);
            marks = others;
            match self.advance(mark, these).await {
                Ok(advanced) => moved.extend(advanced),
                Err(error) => outcome = Err(error),
            }
        }
        if let Err(error) = self.tell_moved(moved).await {
            tracing::debug!(%error, "nobody was told of marks that moved");
        }
        asked.into_iter().for_each(|asked| drop(asked.send(outcome.clone()))); // whoever left does not want to know
    }

    /// Moves marks of one kind forward and returns those that moved and are to be told.
    async fn advance(&self, mark: Mark, marks: Marks) -> Result<Vec<Moved>, ApiError> {
        let (mut moved, mut outcome) = (Vec::new(), Ok(()));
        let marks: Vec<(Advance, bool)> =
            marks.into_iter().map(|((user, id, _), noted)| ((id, user, noted.up_to), noted.told)).collect();
        for batch in marks.chunks(MAX_BATCH) {
            let (to, told): (Vec<Advance>, Vec<bool>) = batch.iter().cloned().unzip();
            self.metrics.marks_written();
            match self.store.advance(mark, &to).await {
                Ok(advanced) => moved.extend(these_moved(mark, to, &told, &advanced)),
                Err(error) => {
                    self.wait_again(mark, batch, &error);
                    outcome = Err(error.into());
                }
            }
        }
        outcome.map(|()| moved)
    }

    /// The database is away: the marks wait with the next ones.
    fn wait_again(&self, mark: Mark, batch: &[(Advance, bool)], error: &StoreError) {
        tracing::debug!(%error, marks = batch.len(), "marks were not written this time");
        if error.is_retryable() {
            for ((conversation, user, up_to), told) in batch.iter().cloned() {
                self.receipts.note((user, conversation, mark), Noted { up_to, told });
            }
        }
    }

    /// Tells who listens of marks that moved, with as few parcels as there are instances.
    async fn tell_moved(&self, mut moved: Vec<Moved>) -> Result<(), ApiError> {
        if moved.is_empty() {
            return Ok(());
        }
        if self.pressure.level() != Level::Green {
            self.metrics.ephemeral_dropped();
            return Ok(());
        }
        self.limit_audience(&mut moved).await?;
        let mut by_topic: HashMap<Topic, Vec<Moved>> = HashMap::new();
        moved.into_iter().for_each(|moved| by_topic.entry(audience(&moved)).or_default().push(moved));
        let (topics, groups): (Vec<Topic>, Vec<Vec<Moved>>) = by_topic.into_iter().unzip();
        let mut addressed: HashMap<InstanceId, Vec<Moved>> = HashMap::new();
        for (instances, moved) in self.relay.listeners(&topics).await?.into_iter().zip(groups) {
            for instance in instances {
                addressed.entry(instance).or_default().extend(moved.iter().cloned());
            }
        }
        let parcel = |moved: &[Moved]| Parcel::Signal(Signal::Marks { moved: moved.to_vec() });
        let parcels = addressed
            .iter()
            .flat_map(|(instance, moved)| moved.chunks(MAX_PARCEL).map(|some| (instance.clone(), parcel(some))));
        Ok(self.relay.send(parcels.collect()).await?)
    }

    /// In a large conversation everybody would be told of everybody. There only the reader's own devices are, so that
    /// they agree about what is unread.
    async fn limit_audience(&self, moved: &mut Vec<Moved>) -> Result<(), ApiError> {
        let most = self.limits.max_receipt_participants;
        let mut conversations: Vec<ConversationId> = moved.iter().map(|moved| moved.conversation.clone()).collect();
        conversations.sort();
        conversations.dedup();
        let sizes = self.store.sizes(&conversations, most + 1).await?;
        let large: Vec<&ConversationId> =
            conversations.iter().zip(sizes).filter(|(_, size)| *size > most).map(|(id, _)| id).collect();
        moved.iter_mut().for_each(|moved| moved.to_all = large.binary_search(&&moved.conversation).is_err());
        moved.retain(|moved| moved.to_all || moved.mark == Mark::Read);
        Ok(())
    }

    /// Moves a user's read mark and returns when it is in the database.
    pub(super) async fn mark_read(&self, id: ConversationId, user: &UserId, seq: u64) -> Result<(), ApiError> {
        let up_to = self.existing(&id, seq).await?;
        if !self.receipts.read(id, user.clone(), up_to) {
            return Err(ApiError::overloaded());
        }
        self.receipts.written().await
    }

    /// What a user acknowledged or read here a moment ago counts.
    pub(super) async fn settle_marks(&self, user: &UserId) -> Result<(), ApiError> {
        if self.receipts.concerns(user) { self.receipts.written().await } else { Ok(()) }
    }

    /// A number, or the last one there is if that is lower: nobody has read what does not exist, and a mark does not
    /// go back.
    pub(super) async fn existing(&self, id: &ConversationId, seq: u64) -> Result<u64, ApiError> {
        let stored = self.reads.top(id).await?.seq;
        if seq <= stored {
            return Ok(seq);
        }
        let unstored = replay::after(&self.reads, self.partitions, id, stored, MAX_UNSTORED).await?;
        let last = unstored.last().and_then(|record| record.event().ok());
        Ok(last.map_or(stored, |event| event.seq).min(seq))
    }
}

/// Hands marks that moved to the listeners here.
pub(crate) fn deliver(hub: &Hub, moved: Vec<Moved>) {
    for moved in moved {
        let event = match moved.mark {
            Mark::Delivered => "message_delivered",
            Mark::Read => "message_read",
        };
        let data = json!({"user_id": moved.user, "up_to": moved.up_to});
        let text = frame::plain(event, Some(moved.conversation.as_str()), None, data);
        hub.tell(&audience(&moved), || Item::Text(text.clone()));
    }
}

fn these_moved(mark: Mark, to: Vec<Advance>, told: &[bool], advanced: &[bool]) -> Vec<Moved> {
    let news = to.into_iter().zip(told.iter().zip(advanced)).filter(|(_, (told, moved))| **told && **moved);
    let moved = |((conversation, user, up_to), _)| Moved { mark, conversation, user, up_to, to_all: true };
    news.map(moved).collect()
}

/// Who hears of a mark.
fn audience(moved: &Moved) -> Topic {
    if moved.to_all { Topic::Conversation(moved.conversation.clone()) } else { Topic::User(moved.user.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (ConversationId, UserId) {
        (ConversationId::new("room").expect("a name"), UserId::new("alice").expect("a name"))
    }

    #[test]
    fn only_the_furthest_waits() {
        let (receipts, (room, alice)) = (Receipts::default(), names());
        for up_to in [3, 9, 4] {
            assert!(receipts.read(room.clone(), alice.clone(), up_to));
        }
        let waiting = receipts.waiting();
        assert_eq!(waiting.marks.values().collect::<Vec<_>>(), [&Noted { up_to: 9, told: true }]);
    }

    #[test]
    fn nobody_is_told_of_who_goes_on_talking_but_of_who_answers() {
        let (receipts, (room, alice)) = (Receipts::default(), names());
        let told_after = |up_to| {
            receipts.published(room.clone(), alice.clone(), up_to);
            receipts.take().0.into_values().next()
        };
        assert_eq!(told_after(1), Some(Noted { up_to: 1, told: false }));
        assert_eq!(told_after(5), Some(Noted { up_to: 5, told: true }), "others spoke in between");
        assert_eq!(told_after(6), Some(Noted { up_to: 6, told: false }));
        assert_eq!(told_after(8), Some(Noted { up_to: 8, told: true }), "7 is somebody else's");
        receipts.read(room.clone(), alice.clone(), 9);
        assert_eq!(told_after(10), Some(Noted { up_to: 10, told: true }), "the mark that waited is still told");
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (receipts, (room, _)) = (Receipts::default(), names());
        for n in 0..MAX_REMEMBERED + 9 {
            receipts.published(room.clone(), UserId::new(format!("user-{n}")).expect("a name"), 1);
            receipts.take();
        }
        assert!(receipts.waiting().last_read.len() <= MAX_REMEMBERED);
    }

    #[test]
    fn there_is_an_end_to_what_waits() {
        let (receipts, (room, alice)) = (Receipts::default(), names());
        let another = |n: usize| UserId::new(format!("user-{n}")).expect("a name");
        assert!((0..MAX_WAITING).all(|n| receipts.read(room.clone(), another(n), 1)));
        assert!(!receipts.read(room.clone(), alice, 1));
        assert!(receipts.read(room, another(7), 2), "those who wait can go on");
    }
}
