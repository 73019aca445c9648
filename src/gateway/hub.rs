//! Who listens to what on this instance, and telling the relay about it.
//!
//! A room is everybody here who listens to one topic. A room is registered with the relay before anybody may rely on
//! it, and withdrawn a while after its last listener left. One task does both, one after the other, so a withdrawal
//! can never overtake a registration.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use everpost_core::{
    log::LogError,
    name::{ConversationId, InstanceId, UserId},
    position::Position,
    relay::{Relay, Topic},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    error::ApiError,
    frame::Run,
    session::{Item, Session},
};

/// Registrations in one call to the relay.
const MAX_BATCH: usize = 1_024;

#[derive(Default)]
struct Room {
    listeners: Vec<Arc<Session>>,
    registered: bool,
    /// Sweeps it has been empty for.
    empty_for: u32,
    /// The last number that arrived here; 0 while none has, or none since something may have been missed.
    arrived: u64,
    /// Where it stands in its partition.
    arrived_at: Position,
}

impl Room {
    /// Everything after the last event that arrived is to be read by those who listen.
    fn make_up(&self, conversation: &ConversationId) {
        let missed = || Item::Missed(conversation.clone(), self.arrived_at);
        self.listeners.iter().for_each(|session| session.push(missed()));
    }
}

enum Request {
    Join(Vec<Topic>, oneshot::Sender<Result<(), LogError>>),
    Leave(Vec<Topic>),
}

/// The rooms of one gateway.
pub(crate) struct Hub {
    rooms: Mutex<HashMap<Topic, Room>>,
    sessions: Mutex<HashMap<uuid::Uuid, Arc<Session>>>,
    requests: mpsc::UnboundedSender<Request>,
}

impl Hub {
    /// A hub without rooms, and the task that registers them until the hub is gone.
    pub(crate) fn new(
        instance: InstanceId,
        relay: Arc<dyn Relay>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (requests, inbox) = mpsc::unbounded_channel();
        let hub = Arc::new(Self { rooms: Mutex::default(), sessions: Mutex::default(), requests });
        let registrar = register(Arc::downgrade(&hub), instance, relay, inbox);
        (hub, registrar)
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Topic, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<uuid::Uuid, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every open session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    pub(crate) fn add(&self, session: &Arc<Session>) {
        self.sessions().insert(session.id, session.clone());
    }

    /// Takes a session out of the given rooms and forgets it.
    pub(crate) fn remove<'a>(&self, session: &Session, conversations: impl Iterator<Item = &'a ConversationId>) {
        self.sessions().remove(&session.id);
        let mut rooms = self.rooms();
        let topics = conversations.cloned().map(Topic::Conversation).chain([Topic::User(session.user.clone())]);
        topics.for_each(|topic| drop_listener(&mut rooms, &topic, session));
    }

    /// Adds a session to rooms. When it returns, every event after the present end of the log will arrive.
    pub(crate) async fn join(&self, session: &Arc<Session>, topics: Vec<Topic>) -> Result<(), ApiError> {
        let unregistered: Vec<Topic> = {
            let mut rooms = self.rooms();
            topics.into_iter().filter(|topic| !enter(&mut rooms, topic, session)).collect()
        };
        if unregistered.is_empty() {
            return Ok(());
        }
        let (done, registered) = oneshot::channel();
        let stopping = || ApiError::Unavailable("the service is stopping");
        self.requests.send(Request::Join(unregistered, done)).map_err(|_| stopping())?;
        Ok(registered.await.map_err(|_| stopping())??)
    }

    /// Takes a session out of one conversation.
    pub(crate) fn leave(&self, session: &Session, conversation: &ConversationId) {
        drop_listener(&mut self.rooms(), &Topic::Conversation(conversation.clone()), session);
    }

    /// Hands an item to every listener of a topic; `make` is called for each.
    pub(crate) fn tell(&self, topic: &Topic, make: impl Fn() -> Item) {
        if let Some(room) = self.rooms().get(topic) {
            room.listeners.iter().for_each(|session| session.push(make()));
        }
    }

    /// Hands a run to everybody in its conversation. Numbers follow one upon the other, so a run that does not follow
    /// upon the last one shows that something got lost on the way here: `true`, and it is read before the run.
    pub(crate) fn deliver(&self, run: &Arc<Run>) -> bool {
        let (Some(first), Some(last)) = (run.frames.first(), run.frames.last()) else { return false };
        let mut rooms = self.rooms();
        let Some(room) = rooms.get_mut(&Topic::Conversation(run.conversation.clone())) else { return false };
        let gap = room.arrived > 0 && first.seq > room.arrived + 1;
        if gap {
            room.make_up(&run.conversation);
        }
        room.listeners.iter().for_each(|session| session.push(Item::Run(run.clone())));
        if last.position > room.arrived_at {
            (room.arrived, room.arrived_at) = (last.seq, last.position);
        }
        gap
    }

    /// By now everything up to this number should have arrived. If it has not, it is lost: `true`, and whoever listens
    /// reads it.
    pub(crate) fn expect(&self, conversation: &ConversationId, seq: u64) -> bool {
        let mut rooms = self.rooms();
        let Some(room) = rooms.get_mut(&Topic::Conversation(conversation.clone())) else { return false };
        let missed = room.arrived > 0 && room.arrived < seq;
        if missed {
            room.make_up(conversation);
        }
        if missed {
            room.arrived = 0; // where that number stands is not known here; the next event tells
        }
        missed
    }

    /// The conversations somebody listens to here.
    pub(crate) fn conversations(&self) -> Vec<ConversationId> {
        let rooms = self.rooms();
        let listened = rooms.iter().filter(|(_, room)| room.registered && !room.listeners.is_empty());
        let conversation = |(topic, _): (&Topic, &Room)| match topic {
            Topic::Conversation(conversation) => Some(conversation.clone()),
            Topic::User(_) => None,
        };
        listened.filter_map(conversation).collect()
    }

    /// Hands an item to every listener of topics who is wanted, once to each. Rooms with more than `most` listeners are
    /// passed over.
    pub(crate) fn tell_once(
        &self,
        topics: impl IntoIterator<Item = Topic>,
        most: usize,
        wanted: impl Fn(&Session) -> bool,
        make: impl Fn() -> Item,
    ) {
        let (rooms, mut told) = (self.rooms(), HashSet::new());
        let rooms = topics.into_iter().filter_map(|topic| rooms.get(&topic));
        for session in rooms.filter(|room| room.listeners.len() <= most).flat_map(|room| &room.listeners) {
            if wanted(session) && told.insert(session.id) {
                session.push(make());
            }
        }
    }

    /// Withdraws rooms that have been empty since the sweep before.
    pub(crate) fn sweep(&self) {
        let mut gone = Vec::new();
        self.rooms().retain(|topic, room| {
            room.empty_for = if room.listeners.is_empty() { room.empty_for + 1 } else { 0 };
            if room.empty_for > 1 {
                gone.push(topic.clone());
            }
            room.empty_for <= 1
        });
        if !gone.is_empty() {
            let _ = self.requests.send(Request::Leave(gone)); // without a registrar nothing is registered
        }
    }

    /// Some rooms that have listeners and are registered.
    pub(crate) fn some_rooms(&self, count: usize) -> Vec<Topic> {
        let rooms = self.rooms();
        let listened = rooms.iter().filter(|(_, room)| room.registered && !room.listeners.is_empty());
        listened.take(count).map(|(topic, _)| topic.clone()).collect()
    }

    /// What arrived before says nothing about what comes next: something was missed, or the log counts anew.
    pub(crate) fn start_counting_anew(&self) {
        self.rooms().values_mut().for_each(|room| room.arrived = 0);
    }

    /// Registers every room anew, after the relay forgot this gateway.
    pub(crate) async fn register_all(&self) -> Result<(), ApiError> {
        self.start_counting_anew(); // everybody is about to read what they missed
        let topics: Vec<Topic> = self.rooms().keys().cloned().collect();
        let (done, registered) = oneshot::channel();
        let stopping = || ApiError::Unavailable("the service is stopping");
        self.requests.send(Request::Join(topics, done)).map_err(|_| stopping())?;
        Ok(registered.await.map_err(|_| stopping())??)
    }

    /// Which of the user's sessions are here.
    pub(crate) fn of_user(&self, user: &UserId) -> Vec<Arc<Session>> {
        self.rooms().get(&Topic::User(user.clone())).map(|room| room.listeners.clone()).unwrap_or_default()
    }

    fn mark_registered(&self, topics: &[Topic]) {
        let mut rooms = self.rooms();
        for topic in topics {
            if let Some(room) = rooms.get_mut(topic) {
                room.registered = true;
            }
        }
    }
}

/// Adds the session; says whether the room is registered already.
fn enter(rooms: &mut HashMap<Topic, Room>, topic: &Topic, session: &Arc<Session>) -> bool {
    let room = rooms.entry(topic.clone()).or_default();
    room.empty_for = 0;
    if !room.listeners.iter().any(|listener| listener.id == session.id) {
        room.listeners.push(session.clone());
    }
    room.registered
}

fn drop_listener(rooms: &mut HashMap<Topic, Room>, topic: &Topic, session: &Session) {
    if let Some(room) = rooms.get_mut(topic)
        && let Some(at) = room.listeners.iter().position(|listener| listener.id == session.id)
    {
        room.listeners.swap_remove(at);
    }
}

/// Serves requests in their order, joins that follow each other in one call.
async fn register(
    hub: std::sync::Weak<Hub>,
    instance: InstanceId,
    relay: Arc<dyn Relay>,
    mut inbox: mpsc::UnboundedReceiver<Request>,
) {
    let mut requests = Vec::new();
    while inbox.recv_many(&mut requests, MAX_BATCH).await > 0 {
        let (mut topics, mut waiting) = (Vec::new(), Vec::new());
        for request in requests.drain(..) {
            match request {
                Request::Join(wanted, done) => {
                    topics.extend(wanted);
                    waiting.push(done);
                }
                Request::Leave(gone) => {
                    join(&hub, &relay, &instance, std::mem::take(&mut topics), std::mem::take(&mut waiting)).await;
                    leave(&hub, &relay, &instance, gone).await;
                }
            }
        }
        join(&hub, &relay, &instance, topics, waiting).await;
    }
}

async fn join(
    hub: &std::sync::Weak<Hub>,
    relay: &Arc<dyn Relay>,
    instance: &InstanceId,
    topics: Vec<Topic>,
    waiting: Vec<oneshot::Sender<Result<(), LogError>>>,
) {
    let mut distinct = topics;
    distinct.sort_by_cached_key(Topic::key);
    distinct.dedup();
    let outcome = if distinct.is_empty() { Ok(()) } else { relay.join(instance, &distinct).await };
    if let (Ok(()), Some(hub)) = (&outcome, hub.upgrade()) {
        hub.mark_registered(&distinct);
    }
    waiting.into_iter().for_each(|done| drop(done.send(outcome.clone())));
}

/// Leaves what is still without listeners.
async fn leave(hub: &std::sync::Weak<Hub>, relay: &Arc<dyn Relay>, instance: &InstanceId, gone: Vec<Topic>) {
    let Some(hub) = hub.upgrade() else { return };
    let gone: Vec<Topic> = {
        let rooms = hub.rooms();
        gone.into_iter().filter(|topic| !rooms.contains_key(topic)).collect()
    };
    if let Err(error) = relay.leave(instance, &gone).await {
        tracing::debug!(%error, "topics nobody listens to stay registered for now");
    }
}

#[cfg(test)]
mod tests {
    use everpost_core::relay::local::LocalRelay;

    use super::{super::claims::Grant, *};

    fn listening(hub: &Hub, name: &str, rooms: &[&str]) -> Arc<Session> {
        let session = Session::new(UserId::new(name).expect("a name"), Grant::FOREVER, 1_024, 0);
        let session = Arc::new(session);
        for room in rooms {
            enter(&mut hub.rooms(), &topic(room), &session);
        }
        session
    }

    fn topic(room: &str) -> Topic {
        Topic::Conversation(ConversationId::new(room).expect("a name"))
    }

    #[test]
    fn each_is_told_once_and_a_crowd_is_not() {
        let (hub, _registrar) = Hub::new(InstanceId::random(), Arc::new(LocalRelay::new()));
        let (both, other) = (listening(&hub, "a", &["x", "y", "z"]), listening(&hub, "b", &["y", "z"]));
        let alone_in_crowd = listening(&hub, "c", &["z"]);
        let told = |session: &Session| session.take().items.len();
        hub.tell_once(["x", "y", "z", "nowhere"].map(topic), 2, |_| true, || Item::Heartbeat);
        assert_eq!((told(&both), told(&other), told(&alone_in_crowd)), (1, 1, 0));
        hub.tell_once([topic("z")], usize::MAX, |session| session.id != both.id, || Item::Heartbeat);
        assert_eq!((told(&both), told(&other), told(&alone_in_crowd)), (0, 1, 1));
    }
}
