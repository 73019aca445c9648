//! A load that remembers everything, and a verdict on it.
//!
//! Publishers and listeners behave as the clients of this service are told to: an outbox with ids of their own, a
//! cursor, and the next gateway when one is gone. [`checker`] then compares what was promised with what everybody saw.

pub(crate) mod checker;
pub(crate) mod client;
mod listener;
pub(crate) mod publisher;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::Connection;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    checker::{Seen, Stream, Transcript, check},
    listener::Listener,
    publisher::Publisher,
};
use super::{eventually::within, process::API_KEY};

const CONVERSATIONS: usize = 8;
const PUBLISHERS: usize = 8;
const LISTENERS: usize = 3;
/// Longer than two takeovers of a lease on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all clients of one run share.
#[derive(Clone)]
struct Scene {
    gateways: Vec<SocketAddr>,
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
        format!("{}-{}", self.name, number % CONVERSATIONS)
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
        let name = Uuid::new_v4().simple().to_string();
        let (transcript, closing) = (Arc::default(), CancellationToken::new());
        let scene = Scene { gateways: gateways.to_vec(), name, transcript, closing };
        for number in 0..CONVERSATIONS {
            create(gateways[0], &scene.conversation(number)).await;
        }
        let mut clients = JoinSet::new();
        for number in 0..LISTENERS {
            let mut listener = Listener::new(scene.clone(), number);
            listener.arrive().await;
            clients.spawn(listener.run());
        }
        for number in 0..PUBLISHERS {
            clients.spawn(Publisher::new(scene.clone(), number).run());
        }
        Self { scene, clients }
    }

    /// Returns when that many more messages than now have been acknowledged.
    pub(crate) async fn more(&self, messages: usize) {
        let goal = self.scene.transcript().acks.len() + messages;
        within(PATIENCE, "publishing goes on", async || self.scene.transcript().acks.len() >= goal).await;
    }

    /// Lets everybody finish, compares everything with the database at that address and panics with what is wrong.
    pub(crate) async fn verdict(mut self, database: &str) -> Transcript {
        self.scene.closing.cancel();
        self.wait("everything is acknowledged", |transcript| transcript.is_acknowledged()).await;
        let sent = self.scene.transcript().sent.len();
        let complete = within_or_give_up(async || stored(database).await.is_ok_and(|stored| stored.seen.len() >= sent));
        complete.await;
        self.wait("everybody has everything", |transcript| transcript.is_delivered()).await;
        self.clients.shutdown().await;
        let mut transcript = self.scene.transcript().clone();
        transcript.streams.push(stored(database).await.expect("the database answers"));
        let violations = check(&transcript);
        let shown: Vec<_> = violations.iter().take(20).collect();
        assert!(violations.is_empty(), "{} violations of {sent} events, such as {shown:#?}", violations.len());
        assert_eq!(transcript.acked(), sent, "everything was acknowledged");
        transcript
    }

    /// Waits for it, and goes on to the verdict all the same if it does not come true: that tells more.
    async fn wait(&mut self, what: &str, reached: impl Fn(&Transcript) -> bool) {
        if !within_or_give_up(async || reached(&self.scene.transcript())).await {
            eprintln!("waited in vain until {what}");
        }
    }
}

impl Transcript {
    fn acked(&self) -> usize {
        self.acks.iter().map(|ack| ack.id).collect::<std::collections::HashSet<_>>().len()
    }

    fn is_acknowledged(&self) -> bool {
        self.acked() >= self.sent.len()
    }

    fn is_delivered(&self) -> bool {
        self.streams.iter().all(|stream| stream.seen.len() >= self.sent.len())
    }
}

async fn within_or_give_up(mut ask: impl AsyncFnMut() -> bool) -> bool {
    let waiting = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.is_ok()
}

/// Creates a conversation in which all clients of a run take part.
async fn create(gateway: SocketAddr, id: &str) {
    let senders = (0..PUBLISHERS).map(|number| format!("sender-{number}"));
    let listeners = (0..LISTENERS).map(|number| format!("listener-{number}"));
    let participants: Vec<_> = senders.chain(listeners).collect();
    let request = reqwest::Client::new().post(format!("http://{gateway}/v1/conversations")).bearer_auth(API_KEY);
    let answer = request.json(&json!({"id": id, "participants": participants})).send().await.expect("a gateway runs");
    assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
}

type Row = (String, i64, String);

/// What the database has, as one more observer.
async fn stored(database: &str) -> Result<Stream, sqlx::Error> {
    let query = "SELECT conversation_id, seq, data FROM messages ORDER BY conversation_id, seq";
    let rows: Vec<Row> = if database.starts_with("postgres") {
        let mut connection = sqlx::PgConnection::connect(database).await?;
        sqlx::query_as(query).fetch_all(&mut connection).await?
    } else {
        let mut connection = sqlx::SqliteConnection::connect(database).await?;
        sqlx::query_as(query).fetch_all(&mut connection).await?
    };
    let seen = rows.into_iter().map(|(conversation, seq, data)| {
        let data: Value = serde_json::from_str(&data).unwrap_or_default();
        Seen { conversation, seq: u64::try_from(seq).unwrap_or_default(), ..listener::of_data(&data) }
    });
    Ok(Stream { observer: "database".to_owned(), seen: seen.collect() })
}
