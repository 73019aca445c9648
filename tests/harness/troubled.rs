//! A store that has trouble when a test wants it to, and otherwise does what the one behind it does.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use everpost_core::{
    event::Record,
    generation::History,
    lease::Lease,
    log::{Prior, Top},
    name::{ConversationId, DeviceId, UserId},
    partition::Partition,
    position::Position,
    store::{
        Activity, Ask, Begun, Conversation, Conversations, Created, DeadLetter, DeadLetters, Death, Decision,
        Generations, Installation, Job, Jobs, Legacy, Mark, Marks, Messages, NewConversation, NewJob, Overview,
        Overviews, Presence, Reach, Redriven, Revocation, Revocations, Revoked, Sieve, Standing, Store, StoreError,
        Stretch, Tenures, Verdict, Want,
    },
};
use tokio::sync::Notify;
use uuid::Uuid;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Nothing,
    /// Nobody answers.
    Away,
    /// Storing a record with this text never ends; whoever waits can be ended there, as a crash would.
    Stuck(&'static str),
    /// Storing a record with this text panics.
    Panic(&'static str),
}

/// The store, its trouble, and how often it was asked to store something.
pub(crate) struct Troubled {
    store: Arc<dyn Store>,
    trouble: Mutex<Trouble>,
    pub(crate) persists: AtomicUsize,
    pub(crate) stuck: Notify,
}

impl Troubled {
    pub(crate) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        let (trouble, persists, stuck) = (Mutex::new(Trouble::Nothing), AtomicUsize::new(0), Notify::new());
        Arc::new(Self { store, trouble, persists, stuck })
    }

    pub(crate) fn has(&self, trouble: Trouble) {
        *self.trouble.lock().expect("nobody panics with it") = trouble;
    }

    fn trouble(&self) -> Trouble {
        *self.trouble.lock().expect("nobody panics with it")
    }

    async fn suffer(&self, records: &[Record]) -> Result<(), StoreError> {
        let holds = |text: &str| records.iter().any(|record| String::from_utf8_lossy(&record.data).contains(text));
        match self.trouble() {
            Trouble::Away => Err(StoreError::unavailable("nobody answers")),
            Trouble::Stuck(text) if holds(text) => {
                self.stuck.notify_one();
                std::future::pending().await
            }
            Trouble::Panic(text) if holds(text) => panic!("trouble was ordered"),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Messages for Troubled {
    async fn persist(&self, done: &[(Lease, Position)], records: &[Record]) -> Result<u64, StoreError> {
        self.persists.fetch_add(1, Ordering::Relaxed);
        self.suffer(records).await?;
        self.store.persist(done, records).await
    }

    async fn stored(&self, partitions: usize) -> Result<Vec<Position>, StoreError> {
        self.suffer(&[]).await?;
        self.store.stored(partitions).await
    }

    async fn count(&self, stretches: &[Stretch]) -> Result<Vec<u64>, StoreError> {
        self.store.count(stretches).await
    }

    async fn after(&self, wants: &[Want], limit: usize) -> Result<Vec<Vec<Record>>, StoreError> {
        self.store.after(wants, limit).await
    }

    async fn before(&self, id: &ConversationId, before: Option<u64>, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.before(id, before, limit).await
    }

    async fn tops(&self, conversations: &[ConversationId]) -> Result<Vec<Top>, StoreError> {
        self.store.tops(conversations).await
    }

    async fn locate(&self, at: &[(ConversationId, Position)]) -> Result<Vec<u64>, StoreError> {
        self.store.locate(at).await
    }

    async fn priors(&self, asks: &[Ask]) -> Result<Vec<Option<Prior>>, StoreError> {
        self.store.priors(asks).await
    }
}

#[async_trait]
impl DeadLetters for Troubled {
    async fn bury(&self, death: &Death<'_>) -> Result<Option<Uuid>, StoreError> {
        self.suffer(&[]).await?;
        self.store.bury(death).await
    }

    async fn dead_letters(
        &self,
        sieve: &Sieve,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(sieve, after, limit).await
    }

    async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError> {
        self.store.dead_letter(id).await
    }

    async fn dead_letter_payload(&self, id: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.dead_letter_payload(id).await
    }

    async fn count_dead_letters(&self, sieve: &Sieve) -> Result<u64, StoreError> {
        self.store.count_dead_letters(sieve).await
    }

    async fn redrive(&self, id: Uuid, decision: &Decision) -> Result<Redriven, StoreError> {
        self.store.redrive(id, decision).await
    }

    async fn delete_dead_letter(&self, id: Uuid, decision: &Decision) -> Result<Option<bool>, StoreError> {
        self.store.delete_dead_letter(id, decision).await
    }
}

#[async_trait]
impl Generations for Troubled {
    async fn installation(&self) -> Result<Option<Installation>, StoreError> {
        self.store.installation().await
    }

    async fn bind(&self, log: Installation) -> Result<Installation, StoreError> {
        self.store.bind(log).await
    }

    async fn generations(&self, partitions: usize) -> Result<History, StoreError> {
        self.store.generations(partitions).await
    }

    async fn begin(
        &self,
        partition: Partition,
        present: u16,
        survived: u64,
        reason: &str,
    ) -> Result<Option<Begun>, StoreError> {
        self.store.begin(partition, present, survived, reason).await
    }
}

#[async_trait]
impl Jobs for Troubled {
    async fn hand_off(&self, lease: &Lease, upto: Position, jobs: &[NewJob]) -> Result<u64, StoreError> {
        self.store.hand_off(lease, upto, jobs).await
    }

    async fn due(&self, lease: &Lease, max: usize) -> Result<Vec<Job>, StoreError> {
        self.store.due(lease, max).await
    }

    async fn settle(&self, lease: &Lease, id: Uuid, verdict: Verdict) -> Result<bool, StoreError> {
        self.store.settle(lease, id, verdict).await
    }

    async fn count_jobs(&self, lease: &Lease) -> Result<u64, StoreError> {
        self.store.count_jobs(lease).await
    }
}

#[async_trait]
impl Tenures for Troubled {
    async fn begin_tenure(&self, lease: &Lease, worker: &str, at: Position) -> Result<Legacy, StoreError> {
        self.suffer(&[]).await?;
        self.store.begin_tenure(lease, worker, at).await
    }

    async fn suspect(&self, lease: &Lease, at: Position) -> Result<(), StoreError> {
        self.suffer(&[]).await?;
        self.store.suspect(lease, at).await
    }

    async fn end_tenure(&self, lease: &Lease) -> Result<(), StoreError> {
        self.store.end_tenure(lease).await
    }
}

#[async_trait]
impl Conversations for Troubled {
    async fn create(&self, conversation: &NewConversation) -> Result<Created, StoreError> {
        self.store.create(conversation).await
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, StoreError> {
        self.store.conversation(id).await
    }

    async fn conversations_of(&self, users: &[UserId]) -> Result<Vec<Vec<ConversationId>>, StoreError> {
        self.store.conversations_of(users).await
    }

    async fn conversations(&self, ids: &[ConversationId]) -> Result<Vec<Conversation>, StoreError> {
        self.store.conversations(ids).await
    }

    async fn sizes(&self, ids: &[ConversationId], most: usize) -> Result<Vec<usize>, StoreError> {
        self.store.sizes(ids, most).await
    }

    async fn standings(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Standing>, StoreError> {
        self.store.standings(of).await
    }

    async fn add_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        self.store.add_participant(id, user).await
    }

    async fn remove_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        self.store.remove_participant(id, user).await
    }
}

#[async_trait]
impl Marks for Troubled {
    async fn advance(&self, mark: Mark, to: &[(ConversationId, UserId, u64)]) -> Result<Vec<bool>, StoreError> {
        self.store.advance(mark, to).await
    }

    async fn reaches(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Reach>, StoreError> {
        self.store.reaches(of).await
    }

    async fn save_cursors(&self, cursors: &[(UserId, DeviceId, String)]) -> Result<(), StoreError> {
        self.store.save_cursors(cursors).await
    }

    async fn cursor(&self, user: &UserId, device: &DeviceId) -> Result<Option<String>, StoreError> {
        self.store.cursor(user, device).await
    }
}

#[async_trait]
impl Overviews for Troubled {
    async fn overviews(
        &self,
        user: &UserId,
        behind: Option<&Activity>,
        limit: usize,
    ) -> Result<Vec<Overview>, StoreError> {
        self.store.overviews(user, behind, limit).await
    }
}

#[async_trait]
impl Revocations for Troubled {
    async fn revoke(&self, what: &Revoked, until_ms: u64) -> Result<bool, StoreError> {
        self.store.revoke(what, until_ms).await
    }

    async fn revocations(&self, after: u64, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.store.revocations(after, limit).await
    }
}

#[async_trait]
impl Presence for Troubled {
    async fn save_last_seen(&self, seen: &[(UserId, u64)]) -> Result<(), StoreError> {
        self.store.save_last_seen(seen).await
    }

    async fn last_seen(&self, user: &UserId) -> Result<Option<u64>, StoreError> {
        self.store.last_seen(user).await
    }
}
