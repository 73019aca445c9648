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
    log::Log,
    name::ConversationId,
    partition::{Partition, Partitions},
    position::Position,
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
}

#[derive(Default)]
struct State {
    sessions: HashMap<(Uuid, ConversationId), Waiting>,
    requests: Vec<(Partition, Position, oneshot::Sender<()>)>,
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
        let anew = || Waiting { session: Arc::downgrade(session), partition, next: point, latest: point };
        let waiting = state.sessions.entry((session.id, conversation.clone())).or_insert_with(anew);
        if waiting.latest.seq < seq {
            waiting.latest = point;
        }
        drop(state);
        if first {
            self.asked.notify_one();
        }
    }

    /// Returns once the event is stored.
    pub(crate) async fn wait(&self, partition: Partition, position: Position) -> Result<(), ApiError> {
        let (done, stored) = oneshot::channel();
        self.state().requests.push((partition, position, done));
        self.asked.notify_one();
        stored.await.map_err(|_| ApiError::Unavailable("the service is stopping"))
    }

    /// Looks the progress up for as long as somebody waits.
    pub(crate) async fn watch(&self, log: &Arc<dyn Log>) {
        loop {
            while !self.is_idle() {
                tokio::time::sleep(LOOK_EVERY).await;
                match log.progress(Role::Persist).await {
                    Ok(progress) => self.reached(&progress),
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
        let (done, open): (Vec<_>, Vec<_>) = requests.into_iter().partition(|(p, position, _)| *position <= at(*p));
        state.requests = open;
        for (_, _, done) in done {
            let _ = done.send(()); // whoever no longer waits does not want it
        }
        state.sessions.retain(|(_, conversation), waiting| waiting.reached(conversation, at(waiting.partition)));
    }
}

impl Waiting {
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
