//! Tells senders when their events have reached the database.
//!
//! While somebody waits, the progress of `persist` is looked up ten times a second, for everybody at once. Each
//! connection hears of each conversation at most that often, and of the highest number only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use everpost_core::{
    generation::History,
    log::Log,
    name::ConversationId,
    partition::{Partition, Partitions},
    position::Position,
    recovery::Recovery,
    role::Role,
};
use serde_json::json;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::{
    error::ApiError,
    frame,
    session::{Item, Session},
};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A number on its way into the database.
#[derive(Clone, Copy)]
struct Point {
    seq: u64,
    position: Position,
}

/// What one connection waits for in one conversation: the nearest point first, so that a steady stream of publishes
/// does not push the goal ahead of itself for ever.
struct Waiting {
    session: Weak<Session>,
    partition: Partition,
    next: Point,
    latest: Point,
    /// The last ones of former generations of the log, until it is known whether they survived.
    doubtful: Vec<Point>,
}

/// A request that is answered when the database has its event.
struct Request {
    partition: Partition,
    position: Position,
    done: oneshot::Sender<Result<(), ApiError>>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<(Uuid, ConversationId), Waiting>,
    requests: Vec<Request>,
}

/// Everybody who wants to know.
pub(crate) struct Stored {
    partitions: Partitions,
    state: Mutex<State>,
    asked: Notify,
}

impl Stored {
    pub(crate) fn new(partitions: Partitions) -> Self {
        Self { partitions, state: Mutex::default(), asked: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Will tell the session once the event is stored.
    pub(crate) fn tell(&self, session: &Arc<Session>, conversation: &ConversationId, seq: u64, position: Position) {
        let point = Point { seq, position };
        let partition = self.partitions.of(conversation.as_str());
        let mut state = self.state();
        let first = state.sessions.is_empty();
        let anew = || Waiting {
            session: Arc::downgrade(session),
            partition,
            next: point,
            latest: point,
            doubtful: Vec::new(),
        };
        state.sessions.entry((session.id, conversation.clone())).or_insert_with(anew).add(point);
        drop(state);
        if first {
            self.asked.notify_one();
        }
    }

    /// Returns once the event is stored.
    pub(crate) async fn wait(&self, partition: Partition, position: Position) -> Result<(), ApiError> {
        let (done, stored) = oneshot::channel();
        self.state().requests.push(Request { partition, position, done });
        self.asked.notify_one();
        stored.await.map_err(|_| ApiError::Unavailable("the service is stopping"))?
    }

    /// The log went on in a new generation: whoever waits for an event that did not survive is told that it is lost.
    pub(crate) fn disown(&self, history: &History) {
        let is_lost = |partition, position| history.floor(partition, position) != position;
        let mut state = self.state();
        let requests = std::mem::take(&mut state.requests);
        let (lost, open): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|r: &Request| is_lost(r.partition, r.position));
        state.requests = open;
        for Request { done, .. } in lost {
            let _ = done.send(Err(ApiError::Unavailable("the event was lost before it was stored; send it again")));
        }
        state.sessions.retain(|(_, conversation), waiting| {
            let partition = waiting.partition;
            waiting.disown(conversation, |position| is_lost(partition, position))
        });
    }

    /// Looks the progress up for as long as somebody waits.
    pub(crate) async fn watch(&self, log: &Arc<dyn Log>, recovery: &Recovery) {
        loop {
            while !self.is_idle() {
                tokio::time::sleep(LOOK_EVERY).await;
                match log.progress(Role::Persist).await {
                    Ok(progress) => {
                        let history = recovery.history();
                        self.disown(&history);
                        self.reached(&vouched(progress, &history));
                    }
                    Err(error) => tracing::debug!(%error, "the progress of persist could not be read"),
                }
            }
            self.asked.notified().await;
        }
    }

    fn is_idle(&self) -> bool {
        let state = self.state();
        state.sessions.is_empty() && state.requests.is_empty()
    }

    fn reached(&self, progress: &[Position]) {
        let mut state = self.state();
        let at = |partition: Partition| progress.get(partition.index()).copied().unwrap_or_default();
        let requests = std::mem::take(&mut state.requests);
        let (done, open): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|r: &Request| r.position <= at(r.partition));
        state.requests = open;
        for Request { done, .. } in done {
            let _ = done.send(Ok(())); // whoever no longer waits does not want it
        }
        state.sessions.retain(|(_, conversation), waiting| waiting.reached(conversation, at(waiting.partition)));
    }
}

/// The progress as far as the known history tells what it means. One of a generation that was not heard of yet says
/// nothing: what was lost before that generation began lies below it as well.
fn vouched(progress: Vec<Position>, history: &History) -> Vec<Position> {
    let known = |partition| history.current(partition).number;
    let vouch = |(at, position): (usize, Position)| {
        if position.generation() <= known(Partition(at as u16)) { position } else { Position::ZERO }
    };
    progress.into_iter().enumerate().map(vouch).collect()
}

impl Waiting {
    fn add(&mut self, point: Point) {
        if point.position.generation() > self.latest.position.generation() {
            // Numbers may have been given again; whether the former ones are lost is not known here yet.
            self.doubtful.push(self.latest);
        }
        if point.position > self.latest.position {
            self.latest = point;
        }
    }

    /// Tells the session of the first event that is lost, and waits for the others; `false` when there are none.
    fn disown(&mut self, conversation: &ConversationId, is_lost: impl Fn(Position) -> bool) -> bool {
        let doubtful = std::mem::take(&mut self.doubtful);
        let points = doubtful.into_iter().chain([self.next, self.latest]).map(|point| point.position);
        let Some(first) = points.filter(|&position| is_lost(position)).min() else { return true };
        let lost = Item::Lost(conversation.clone(), first);
        self.session.upgrade().inspect(|session| session.push(lost));
        match (is_lost(self.next.position), is_lost(self.latest.position)) {
            (true, true) => return false,
            (true, false) => self.next = self.latest,
            (false, true) => self.latest = self.next,
            (false, false) => {}
        }
        true
    }

    /// Tells the session how far it has come; `false` when there is nothing more to wait for.
    fn reached(&mut self, conversation: &ConversationId, at: Position) -> bool {
        let Some(session) = self.session.upgrade() else { return false };
        if self.next.position > at {
            return true;
        }
        let complete = self.latest.position <= at;
        let seq = if complete { self.latest.seq } else { self.next.seq };
        let data = json!({"conversation_id": conversation, "up_to": seq});
        session.push(Item::Text(frame::plain("stored", Some(conversation.as_str()), None, data)));
        self.next = self.latest;
        !complete
    }
}

#[cfg(test)]
mod tests {
    use everpost_core::generation::Generation;

    use super::{super::claims::Grant, *};

    #[test]
    fn progress_of_an_unknown_generation_does_not_count() {
        let progress = vec![Position::new(2, 9), Position::new(1, 4)];
        let known = |generations: &[Generation]| History::new(vec![generations.to_vec(), Vec::new()]);
        assert_eq!(vouched(progress.clone(), &known(&[])), [Position::ZERO, progress[1]], "1-5 may be lost");
        assert_eq!(vouched(progress.clone(), &known(&[Generation { number: 2, base: 3 }])), progress);
    }

    fn waiting() -> (Arc<Session>, Waiting) {
        let user = everpost_core::name::UserId::new("alice").expect("a name");
        let session = Arc::new(Session::new(user, Grant::FOREVER, 1_000, 0));
        let point = Point { seq: 10, position: Position::new(1, 100) };
        let (weak, partition) = (Arc::downgrade(&session), Partition(0));
        (session, Waiting { session: weak, partition, next: point, latest: point, doubtful: Vec::new() })
    }

    fn lost(session: &Session) -> Vec<Position> {
        let items = session.take().items.into_iter();
        items.filter_map(|item| if let Item::Lost(_, at) = item { Some(at) } else { None }).collect()
    }

    #[test]
    fn a_number_given_again_does_not_hide_the_one_that_is_lost() {
        let ((session, mut waiting), room) = (waiting(), ConversationId::new("room").expect("a name"));
        waiting.add(Point { seq: 15, position: Position::new(1, 105) });
        waiting.add(Point { seq: 11, position: Position::new(2, 101) });
        assert!(waiting.disown(&room, |at| at > Position::new(1, 100) && at.generation() == 1));
        assert_eq!(lost(&session), [Position::new(1, 105)], "although nobody waits for it any more");
        assert_eq!((waiting.next.seq, waiting.latest.seq), (10, 11), "and the new one is not forgotten");
        assert!(waiting.disown(&room, |_| false));
        assert_eq!(lost(&session), [], "once is enough");
    }

    #[test]
    fn who_waits_only_for_what_is_lost_waits_no_longer() {
        let ((session, mut waiting), room) = (waiting(), ConversationId::new("room").expect("a name"));
        assert!(!waiting.disown(&room, |_| true));
        assert_eq!(lost(&session), [Position::new(1, 100)]);
    }
}
