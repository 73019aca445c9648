//! Publishing: a message becomes a draft, drafts become batches, and each sender gets its answer.
//!
//! There is one lane for each partition. A lane appends whatever has gathered while its last append was under way, so
//! batches are as large as the log is slow, and an idle service answers at once. Publishes whose conversation the log
//! does not know yet, or whose key it cannot judge, step aside together with all later ones of their conversation while
//! the store is asked; other conversations do not wait for them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use everpost_core::{
    clock::{now_ms, rfc3339},
    event::Draft,
    identity::{Digest, Key},
    log::{Appended, Durability, Log, LogError, Prior},
    name::{ConversationId, EventName, UserId},
    partition::{Partition, Partitions},
    position::Position,
    recovery::Recovery,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{error::ApiError, reads::Reads, wire::Body};

/// Publishes waiting for one lane.
const LANE_CAPACITY: usize = 4_096;
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Tries while the log begins a new generation, and how long each of them waits for it.
const MAX_TRIES: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(1);

/// What a sender is told.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    pub(crate) message_id: Uuid,
    pub(crate) seq: u64,
    pub(crate) position: Position,
    pub(crate) duplicate: bool,
    pub(crate) durability: Durability,
}

pub(crate) type Answer = Box<dyn FnOnce(Result<Receipt, ApiError>) + Send + Sync>;

struct Publish {
    draft: Draft,
    answer: Answer,
}

/// Who sends, as the message will say.
pub(crate) struct Sender<'a> {
    pub(crate) id: &'a UserId,
    pub(crate) kind: &'a str,
}

/// The way into the log for everything a gateway accepts. Clones share the lanes.
#[derive(Clone)]
pub(crate) struct Publisher {
    partitions: Partitions,
    lanes: Arc<[mpsc::Sender<Publish>]>,
}

impl Publisher {
    /// Starts the lanes; they end with the last clone.
    pub(crate) fn start(log: &Arc<dyn Log>, recovery: &Arc<Recovery>, reads: &Reads, tasks: &TaskTracker) -> Self {
        let lane = |partition| {
            let (sender, inbox) = mpsc::channel(LANE_CAPACITY);
            let (resolved, back) = mpsc::unbounded_channel();
            let (log, recovery) = (log.clone(), recovery.clone());
            let (reads, tasks_of_lane, aside) = (reads.clone(), tasks.clone(), HashMap::new());
            let lane = Lane { partition, log, recovery, reads, tasks: tasks_of_lane, aside, resolved };
            tasks.spawn(lane.run(inbox, back));
            sender
        };
        Self { partitions: log.partitions(), lanes: log.partitions().iter().map(lane).collect() }
    }

    /// Accepts a draft; the answer is called when the log has it or has refused it.
    pub(crate) async fn publish(&self, draft: Draft, answer: Answer) {
        let lane = &self.lanes[self.partitions.of(draft.conversation.as_str()).index()];
        if let Err(mpsc::error::SendError(publish)) = lane.send(Publish { draft, answer }).await {
            (publish.answer)(Err(ApiError::Unavailable("the service is stopping")));
        }
    }
}

/// The draft of a chat message.
pub(crate) fn message_draft(
    conversation: ConversationId,
    sender: &Sender<'_>,
    key: Option<Key>,
    body: &Body,
) -> Result<Draft, ApiError> {
    let (message_id, created_ms) = (Uuid::now_v7(), now_ms());
    let data = message_data(message_id, created_ms, sender, body).into();
    let name = EventName::new(EventName::NEW_MESSAGE).map_err(|_| ApiError::Internal)?;
    let (sender, body) = (sender.id.clone(), body.digest());
    Ok(Draft { conversation, name, message_id, sender, key, body, created_ms, data, verified: None })
}

/// The message as clients see it, put together from parts that are JSON already: names are safe by their rules, content
/// and metadata were parsed when they came in.
fn message_data(message_id: Uuid, created_ms: u64, sender: &Sender<'_>, body: &Body) -> String {
    let Body { kind, content, is_important, reply_to_message_id, extra_metadata } = body;
    let kind = kind.as_str();
    let sender_type = serde_json::to_string(sender.kind).unwrap_or_default();
    let reply = reply_to_message_id.as_ref().map_or("null".to_owned(), |id| format!("\"{id}\""));
    let extra = extra_metadata.as_deref().unwrap_or("null");
    let (sender_id, created_at) = (sender.id, rfc3339(created_ms));
    format!(
        r#"{{"message_id":"{message_id}","type":"{kind}","content":{content},"sender_id":"{sender_id}","sender_type":{sender_type},"is_important":{is_important},"reply_to_message_id":{reply},"extra_metadata":{extra},"created_at":"{created_at}"}}"#
    )
}

/// The draft of any other event.
pub(crate) fn event_draft(
    conversation: ConversationId,
    name: EventName,
    sender: &Sender<'_>,
    key: Option<Key>,
    data: &RawValue,
) -> Draft {
    let body = Digest::of_body(&[name.as_str(), data.get()]);
    let (message_id, created_ms, sender) = (Uuid::now_v7(), now_ms(), sender.id.clone());
    let data = data.get().into();
    Draft { conversation, name, message_id, sender, key, body, created_ms, data, verified: None }
}

/// The publishes of one conversation that stepped aside, in order.
struct Resolved {
    conversation: ConversationId,
    publishes: Vec<Publish>,
}

struct Lane {
    partition: Partition,
    log: Arc<dyn Log>,
    recovery: Arc<Recovery>,
    reads: Reads,
    tasks: TaskTracker,
    /// Conversations the store is being asked about, with what arrived for them meanwhile.
    aside: HashMap<ConversationId, Vec<Publish>>,
    resolved: mpsc::UnboundedSender<Resolved>,
}

impl Lane {
    async fn run(mut self, mut inbox: mpsc::Receiver<Publish>, mut back: mpsc::UnboundedReceiver<Resolved>) {
        let mut batch = Vec::new();
        loop {
            let max = self.log.max_batch();
            tokio::select! {
                biased;
                Some(Resolved { conversation, publishes }) = back.recv() => {
                    batch.extend(publishes);
                    batch.extend(self.aside.remove(&conversation).unwrap_or_default());
                }
                received = inbox.recv_many(&mut batch, max) => if received == 0 { return },
            }
            let ready = batch.drain(..).filter_map(|publish| self.unless_aside(publish)).collect::<Vec<_>>();
            let mut ready = ready.into_iter().peekable();
            while ready.peek().is_some() {
                self.append(ready.by_ref().take(max).collect()).await;
            }
        }
    }

    fn unless_aside(&mut self, publish: Publish) -> Option<Publish> {
        match self.aside.get_mut(&publish.draft.conversation) {
            Some(waiting) => {
                waiting.push(publish);
                None
            }
            None => Some(publish),
        }
    }

    async fn append(&mut self, publishes: Vec<Publish>) {
        let (drafts, answers): (Vec<_>, Vec<_>) = publishes.into_iter().map(|p| (p.draft, p.answer)).unzip();
        match self.append_or_retry(&drafts).await {
            Ok(outcomes) => {
                let mut deferred: HashMap<ConversationId, (bool, Vec<Publish>)> = HashMap::new();
                for ((draft, answer), outcome) in drafts.into_iter().zip(answers).zip(outcomes) {
                    if let Some((draft, answer, unknown)) = settle(draft, answer, outcome, self.log.durability()) {
                        let entry = deferred.entry(draft.conversation.clone()).or_default();
                        entry.0 |= unknown;
                        entry.1.push(Publish { draft, answer });
                    }
                }
                deferred.into_iter().for_each(|(name, (unknown, publishes))| self.step_aside(name, unknown, publishes));
            }
            Err(error) => {
                let error = ApiError::from(error);
                answers.into_iter().for_each(|answer| answer(Err(error.clone())));
            }
        }
    }

    /// Another try costs nothing: whatever the first one did is recognised by its identity.
    async fn append_or_retry(&self, drafts: &[Draft]) -> Result<Vec<Appended>, LogError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.log.append(self.partition, drafts).await {
                Err(LogError::Renewing) if tries < MAX_TRIES => self.recovery.settle(PATIENCE).await,
                Err(LogError::Unavailable(_)) if tries == 1 => tokio::time::sleep(RETRY_AFTER).await,
                outcome => return outcome,
            }
        }
    }

    fn step_aside(&mut self, conversation: ConversationId, unknown: bool, publishes: Vec<Publish>) {
        self.aside.insert(conversation.clone(), Vec::new());
        let (partition, log, reads, resolved) =
            (self.partition, self.log.clone(), self.reads.clone(), self.resolved.clone());
        self.tasks.spawn(async move {
            // Before the store is asked: in a later generation its answer would count for nothing.
            let generation = log.generation(partition);
            let known =
                if unknown { hydrate(partition, generation, &*log, &reads, &conversation).await } else { Ok(()) };
            let publishes = match known {
                Ok(()) => verify(&reads, generation, publishes, log.durability()).await,
                Err(Unhydrated::Outdated) => publishes,
                Err(Unhydrated::Failed(error)) => refuse(publishes, &error),
            };
            let _ = resolved.send(Resolved { conversation, publishes }); // a lane that ended answers nobody
        });
    }
}

/// Why the log was not told how far a conversation has come.
enum Unhydrated {
    /// The store was asked in an earlier generation: once more.
    Outdated,
    Failed(ApiError),
}

async fn hydrate(
    partition: Partition,
    generation: u16,
    log: &dyn Log,
    reads: &Reads,
    conversation: &ConversationId,
) -> Result<(), Unhydrated> {
    let top = reads.top(conversation).await.map_err(Unhydrated::Failed)?;
    match log.hydrate(partition, generation, &[top]).await {
        Err(LogError::Renewing) => Err(Unhydrated::Outdated),
        outcome => outcome.map_err(|error| Unhydrated::Failed(error.into())),
    }
}

fn refuse(publishes: Vec<Publish>, error: &ApiError) -> Vec<Publish> {
    publishes.into_iter().for_each(|publish| (publish.answer)(Err(error.clone())));
    Vec::new()
}

/// Answers the sender, or gives the draft back when the store has to be asked; `true` with it if about the
/// conversation.
fn settle(draft: Draft, answer: Answer, outcome: Appended, durability: Durability) -> Option<(Draft, Answer, bool)> {
    match outcome {
        Appended::Accepted { seq, position } => {
            let message_id = draft.message_id;
            answer(Ok(Receipt { message_id, seq, position, duplicate: false, durability }));
            None
        }
        Appended::Duplicate(prior) => {
            answer(repeat(&draft, prior, durability));
            None
        }
        Appended::Unverified => Some((draft, answer, false)),
        Appended::Unhydrated => Some((draft, answer, true)),
    }
}

fn repeat(draft: &Draft, prior: Prior, durability: Durability) -> Result<Receipt, ApiError> {
    let Prior { seq, position, message_id, body } = prior;
    if body != draft.body {
        let why = format!("this key was used for another message, seq {seq}");
        return Err(ApiError::Conflict("idempotency_conflict", why));
    }
    Ok(Receipt { message_id, seq, position, duplicate: true, durability })
}

/// Asks the store about every key the log could not judge; answers those it knows and gives back the others.
async fn verify(reads: &Reads, generation: u16, publishes: Vec<Publish>, durability: Durability) -> Vec<Publish> {
    let asks = publishes.iter().map(|Publish { draft, .. }| async {
        match &draft.key {
            Some(key) if draft.verified != Some(generation) => {
                reads.prior(draft.conversation.clone(), draft.sender.clone(), key.clone()).await
            }
            _ => Ok(None),
        }
    });
    let priors = futures_util::future::join_all(asks).await;
    let mut unused = Vec::with_capacity(publishes.len());
    for (mut publish, prior) in publishes.into_iter().zip(priors) {
        match prior {
            Ok(None) => {
                publish.draft.verified = Some(generation);
                unused.push(publish);
            }
            Ok(Some(prior)) => (publish.answer)(repeat(&publish.draft, prior, durability)),
            Err(error) => (publish.answer)(Err(error)),
        }
    }
    unused
}
