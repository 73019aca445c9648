//! Everything a gateway asks the log and the store, with equal and simultaneous questions asked once.

use std::sync::Arc;

use everpost_core::event::Record;
use everpost_core::{
    coalesce::Coalesce,
    identity::Key,
    log::{Log, LogError, Prior, Tail, Top},
    name::{ConversationId, UserId},
    partition::Partition,
    position::Position,
    store::{Ask, Standing, Store, StoreError, Want},
};
use tokio_util::task::TaskTracker;

use super::error::ApiError;

/// Records in one page of the store.
pub(crate) const PAGE: usize = 200;
/// Records in one read of the log, about.
const TAIL: usize = 500;

type FromStore<K, V> = Coalesce<K, V, StoreError>;
type FromLog<K, V> = Coalesce<K, V, LogError>;

/// Shared reads; clones share them.
#[derive(Clone)]
pub(crate) struct Reads {
    tails: FromLog<(Partition, Position), Arc<Tail>>,
    ends: FromLog<(), Arc<[Position]>>,
    stored: FromStore<(), Arc<[Position]>>,
    pages: FromStore<Want, Arc<[Record]>>,
    places: FromStore<(ConversationId, Position), u64>,
    tops: FromStore<ConversationId, Top>,
    priors: FromStore<Ask, Option<Prior>>,
    memberships: FromStore<UserId, Arc<[ConversationId]>>,
    standings: FromStore<(ConversationId, UserId), Standing>,
}

/// Starts a coalescer whose loader gets the port by itself.
macro_rules! shared {
    ($tasks:expr, $port:expr, |$p:ident, $keys:ident| $load:expr) => {{
        let port = $port.clone();
        let (coalesce, serve) = Coalesce::new(move |$keys: Vec<_>| {
            let $p = port.clone();
            async move { $load }
        });
        $tasks.spawn(serve);
        coalesce
    }};
}

impl Reads {
    /// Starts the loaders; they end with the last clone.
    pub(crate) fn start(log: &Arc<dyn Log>, store: &Arc<dyn Store>, tasks: &TaskTracker) -> Self {
        let partitions = log.partitions().count();
        let each = |rows: Vec<Vec<Record>>| rows.into_iter().map(Arc::from).collect();
        Self {
            tails: shared!(tasks, log, |log, keys| tails(&*log, keys).await),
            ends: shared!(tasks, log, |log, keys| log.ends().await.map(|ends| vec![Arc::from(ends); keys.len()])),
            stored: shared!(tasks, store, |store, keys| {
                store.stored(partitions).await.map(|stored| vec![Arc::from(stored); keys.len()])
            }),
            pages: shared!(tasks, store, |store, wants| store.after(&wants, PAGE).await.map(each)),
            places: shared!(tasks, store, |store, at| store.locate(&at).await),
            tops: shared!(tasks, store, |store, names| store.tops(&names).await),
            priors: shared!(tasks, store, |store, asks| store.priors(&asks).await),
            memberships: shared!(tasks, store, |store, users| {
                store.conversations_of(&users).await.map(|lists| lists.into_iter().map(Arc::from).collect())
            }),
            standings: shared!(tasks, store, |store, of| store.standings(&of).await),
        }
    }

    /// What follows a position in the log.
    pub(crate) async fn tail(&self, partition: Partition, after: Position) -> Result<Arc<Tail>, ApiError> {
        Ok(self.tails.get((partition, after)).await?)
    }

    /// The ends of all partitions, as of now or later.
    pub(crate) async fn ends(&self) -> Result<Arc<[Position]>, ApiError> {
        Ok(self.ends.get(()).await?)
    }

    /// Up to where everything is stored.
    pub(crate) async fn stored(&self) -> Result<Arc<[Position]>, ApiError> {
        Ok(self.stored.get(()).await?)
    }

    /// A page of the store, at most [`PAGE`] records.
    pub(crate) async fn page(&self, conversation: ConversationId, after: u64) -> Result<Arc<[Record]>, ApiError> {
        Ok(self.pages.get(Want { conversation, after }).await?)
    }

    /// The last stored number at or before a position.
    pub(crate) async fn place(&self, conversation: ConversationId, at: Position) -> Result<u64, ApiError> {
        Ok(self.places.get((conversation, at)).await?)
    }

    pub(crate) async fn top(&self, conversation: &ConversationId) -> Result<Top, ApiError> {
        Ok(self.tops.get(conversation.clone()).await?)
    }

    pub(crate) async fn prior(
        &self,
        conversation: ConversationId,
        sender: UserId,
        key: Key,
    ) -> Result<Option<Prior>, ApiError> {
        Ok(self.priors.get((conversation, sender, key)).await?)
    }

    pub(crate) async fn conversations_of(&self, user: &UserId) -> Result<Arc<[ConversationId]>, ApiError> {
        Ok(self.memberships.get(user.clone()).await?)
    }

    pub(crate) async fn standing(&self, conversation: &ConversationId, user: &UserId) -> Result<Standing, ApiError> {
        Ok(self.standings.get((conversation.clone(), user.clone())).await?)
    }
}

async fn tails(log: &dyn Log, keys: Vec<(Partition, Position)>) -> Result<Vec<Arc<Tail>>, LogError> {
    let reads = keys.into_iter().map(|(partition, after)| log.read_after(partition, after, TAIL));
    Ok(futures_util::future::try_join_all(reads).await?.into_iter().map(Arc::new).collect())
}
