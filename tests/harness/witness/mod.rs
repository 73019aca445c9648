//! A load that remembers everything, and a verdict on it.
//!
//! Publishers and listeners behave as the clients of this service are told to: an outbox with ids of their own, a
//! cursor, and the next gateway when one is gone. [`checker`] then compares what was promised with what everybody saw.

pub(crate) mod checker;
pub(crate) mod client;
pub(crate) mod database;
mod listener;
mod load;
pub(crate) mod publisher;
mod pulse;
pub(crate) mod violation;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use self::load::{Keep, Load};
use self::{
    checker::{Transcript, check},
    listener::Listener,
    publisher::Publisher,
    pulse::Pulse,
    violation::Violation,
};
use super::{eventually::within, process::API_KEY};

/// Longer than two takeovers of a lease on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Conversations created at the same time.
const CREATING: usize = 8;

/// What all clients of one run share.
#[derive(Clone)]
struct Scene {
    gateways: Vec<SocketAddr>,
    load: Load,
    /// Makes the conversations of this run its own.
    name: String,
    transcript: Arc<Mutex<Transcript>>,
    /// Nothing new is written any more; what was sent is still seen to.
    closing: CancellationToken,
}

impl Scene {
    fn transcript(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock().expect("no client panics while it writes")
    }

    fn conversation(&self, number: usize) -> String {
        format!("{}-{}", self.name, number % self.load.conversations)
    }
}

/// A load under way.
pub(crate) struct Witness {
    scene: Scene,
    clients: JoinSet<()>,
}

impl Witness {
    /// Creates the conversations and lets everybody begin; any of these gateways will do for any of the clients.
    pub(crate) async fn start(gateways: &[SocketAddr]) -> Self {
        Self::start_with(gateways, Load::SMALL).await
    }

    /// The same with another load.
    pub(crate) async fn start_with(gateways: &[SocketAddr], load: Load) -> Self {
        let name = Uuid::new_v4().simple().to_string();
        let transcript = Transcript { pulse: Pulse::of(&load), renumbers: load.renumbers, ..Transcript::default() };
        let transcript = Transcript { tombstones: load.tombstones, ..transcript };
        let (transcript, closing) = (Arc::new(Mutex::new(transcript)), CancellationToken::new());
        let scene = Scene { gateways: gateways.to_vec(), load, name, transcript, closing };
        let creating = (0..load.conversations).map(|number| create(&scene, number));
        futures_util::stream::iter(creating).buffer_unordered(CREATING).for_each(async |()| ()).await;
        let mut clients = JoinSet::new();
        for number in 0..load.listeners {
            let mut listener = Listener::new(scene.clone(), number);
            listener.arrive().await;
            clients.spawn(listener.run());
        }
        for number in 0..load.publishers {
            clients.spawn(Publisher::new(scene.clone(), number).run());
        }
        Self { scene, clients }
    }

    /// Returns when that many more messages than now have been acknowledged.
    pub(crate) async fn more(&self, messages: usize) {
        let goal = self.acked() + messages;
        within(PATIENCE, "publishing goes on", async || self.acked() >= goal).await;
    }

    /// How many acknowledgements there were.
    pub(crate) fn acked(&self) -> usize {
        self.scene.transcript().acks.len()
    }

    /// How many messages were written.
    pub(crate) fn sent(&self) -> usize {
        self.scene.transcript().sent.len()
    }

    /// What the names of its conversations begin with.
    pub(crate) fn name(&self) -> String {
        self.scene.name.clone()
    }

    /// What has happened so far.
    pub(crate) fn pulse(&self) -> Pulse {
        self.scene.transcript().pulse.clone()
    }

    /// How many publishes were answered with a retryable error of that code.
    pub(crate) fn deferred(&self, code: &str) -> usize {
        self.scene.transcript().deferrals.get(code).copied().unwrap_or_default()
    }

    /// How often listeners were told to drop what they had.
    pub(crate) fn resets(&self) -> usize {
        self.scene.transcript().resets
    }

    /// Waits until something that every sender wrote after that moment is acknowledged and stored and every listener
    /// has heard something newer; tells how long after the moment that was, or nothing if it took too long.
    pub(crate) async fn recovers(&self, moment: Instant, patience: Duration) -> Option<Duration> {
        let all =
            |pulse: &Pulse| pulse.publishes_since(moment) && pulse.delivers_since(moment) && pulse.stores_since(moment);
        self.reaches(moment, patience, all).await
    }

    /// What did not go on after that moment.
    pub(crate) fn lacking(&self, moment: Instant) -> String {
        let pulse = self.pulse();
        let parts = [
            ("publishing", pulse.publishes_since(moment)),
            ("delivery", pulse.delivers_since(moment)),
            ("storing", pulse.stores_since(moment)),
        ];
        parts.iter().filter(|(_, is)| !is).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// The same for publishing and delivery only: what a client notices.
    pub(crate) async fn serves(&self, moment: Instant, patience: Duration) -> Option<Duration> {
        self.reaches(moment, patience, |pulse| pulse.publishes_since(moment) && pulse.delivers_since(moment)).await
    }

    async fn reaches(&self, moment: Instant, patience: Duration, is: impl Fn(&Pulse) -> bool) -> Option<Duration> {
        while !is(&self.scene.transcript().pulse) {
            if moment.elapsed() > patience {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
        Some(moment.elapsed())
    }

    /// Lets everybody finish, compares everything with the database at that address and panics with what is wrong.
    pub(crate) async fn verdict(self, database: &str) -> Transcript {
        let (transcript, violations) = self.finish(database).await;
        let (sent, shown) = (transcript.sent.len(), violations.iter().take(20).collect::<Vec<_>>());
        assert!(violations.is_empty(), "{} violations of {sent} events, such as {shown:#?}", violations.len());
        transcript
    }

    /// Lets everybody finish, compares everything with the database at that address and tells what is wrong.
    pub(crate) async fn finish(mut self, database: &str) -> (Transcript, Vec<Violation>) {
        {
            let _nobody_writes = self.scene.transcript();
            self.scene.closing.cancel();
        }
        self.settles("something was never acknowledged, or its sender never told that it is stored", async |scene| {
            scene.transcript().is_answered()
        })
        .await;
        self.settles("the database never had everything", async |scene| {
            let sent = scene.transcript().sent.len();
            database::count(database, &scene.name).await.is_ok_and(|stored| stored >= sent)
        })
        .await;
        let stored = database::count(database, &self.scene.name).await.unwrap_or_default();
        self.settles("a listener never had everything", async |scene| scene.transcript().is_delivered(stored)).await;
        self.clients.shutdown().await;
        let mut transcript = self.scene.transcript().clone();
        transcript.streams.push(database::read(database, &self.scene.name).await.expect("the database answers"));
        let violations = check(&transcript);
        (transcript, violations)
    }

    /// Waits for it, and goes on to the verdict all the same if it does not come true: that tells more.
    async fn settles(&self, otherwise: &str, reached: impl AsyncFn(&Scene) -> bool) {
        let waiting = async {
            while !reached(&self.scene).await {
                sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            self.scene.transcript().unsettled.push(otherwise.to_owned());
        }
    }
}

impl Transcript {
    fn is_answered(&self) -> bool {
        self.pulse.outstanding.iter().sum::<usize>() == 0
    }

    fn is_delivered(&self, stored: usize) -> bool {
        self.streams.iter().all(|stream| stream.seen.len() >= stored)
    }
}

/// Creates a conversation in which its senders and all listeners take part.
async fn create(scene: &Scene, number: usize) {
    let senders = scene.load.senders_of(number).map(|number| format!("sender-{number}"));
    let listeners = (0..scene.load.listeners).map(|number| format!("listener-{number}"));
    let participants: Vec<_> = senders.chain(listeners).collect();
    let url = format!("http://{}/v1/conversations", scene.gateways[0]);
    let body = json!({"id": scene.conversation(number), "participants": participants});
    let request = reqwest::Client::new().post(url).bearer_auth(API_KEY).json(&body);
    let answer = request.send().await.expect("a gateway runs");
    assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
}
