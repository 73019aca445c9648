//! Attendance: the connections of this gateway, entered into the roster when they begin and taken out when they end.
//!
//! What is here is remembered, so that the roster can be put right whenever it has something else: after Redis was
//! emptied, after this gateway was given up for dead, after a call of which nobody knows whether it was carried out.
//! The same loop takes out the connections of gateways that are gone, and collects users whose grace is over.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use everpost_core::{
    log::LogError,
    name::{InstanceId, UserId},
    relay::Relay,
    retry::Policy,
    roster::{Arrival, Departure, Entry, Leave, Quotas, RETRY_AFTER, Refusal, Removed, Roster},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::metrics::GatewayMetrics;

/// How often the roster is compared with what is here.
const EVERY: Duration = Duration::from_secs(1);
/// About how long a gateway has been silent when its connections are taken out.
const SILENCE: Duration = Duration::from_secs(6);
/// News that wait to be told; what comes on top of them is dropped.
const MAX_NEWS: usize = 8_192;
/// Users who left and whose last moment waits to be saved; while the database is away, more are forgotten.
const MAX_SEEN: usize = 100_000;
const PAGE: usize = 500;
/// Failures of the roster after which a connection that wants in is told to come back.
const MAX_FAILURES: u32 = 5;

/// What others may want to know.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// A user was offline and is not any more; since when, milliseconds since the epoch.
    Online(UserId, u64),
    /// A user did not come back in time.
    Offline(Departure),
    /// A user has another connection.
    Connected(Arc<Entry>),
    /// A user has one connection less, and still others.
    Disconnected(Entry),
}

/// The connections of one gateway.
pub(crate) struct Attendance {
    instance: InstanceId,
    roster: Arc<dyn Roster>,
    relay: Arc<dyn Relay>,
    quotas: Quotas,
    grace: Duration,
    state: Mutex<State>,
    /// The roster is told by one task at a time, so that what ended cannot be put back by who looked before.
    turn: tokio::sync::Mutex<()>,
    ended: Notify,
    news: mpsc::Sender<News>,
    metrics: GatewayMetrics,
    closed: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Entered, or being entered.
    here: HashMap<Uuid, Arc<Entry>>,
    /// Ended, and the roster does not know yet.
    ended: Vec<Arc<Entry>>,
    /// Users whose last connection ended here a moment ago.
    departing: HashMap<UserId, Instant>,
    /// When users were last here who are gone, to be saved.
    seen: HashMap<UserId, u64>,
    /// Gateways that were unknown to the relay at the last look.
    suspects: HashSet<InstanceId>,
    /// Whether the roster had something else than what is here at the last look.
    differed: bool,
    /// Whether the roster is to be put right in any case.
    doubtful: bool,
}

/// One connection in the roster; it is taken out when this is dropped.
pub(crate) struct Attending {
    attendance: Arc<Attendance>,
    connection: Uuid,
}

impl Drop for Attending {
    fn drop(&mut self) {
        let mut state = self.attendance.state();
        if let Some(entry) = state.here.remove(&self.connection) {
            state.ended.push(entry);
            drop(state);
            self.attendance.ended.notify_one();
        }
    }
}

impl Attendance {
    /// Nobody is here yet. What happens comes out at the other end.
    pub(crate) fn new(
        instance: InstanceId,
        roster: Arc<dyn Roster>,
        relay: Arc<dyn Relay>,
        quotas: Quotas,
        grace: Duration,
        metrics: GatewayMetrics,
    ) -> (Self, mpsc::Receiver<News>) {
        let (news, told) = mpsc::channel(MAX_NEWS);
        let (state, turn, ended) = (Mutex::default(), tokio::sync::Mutex::default(), Notify::new());
        let closed = CancellationToken::new();
        (Self { instance, roster, relay, quotas, grace, state, turn, ended, news, metrics, closed }, told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: impl IntoIterator<Item = News>) {
        for news in news {
            if self.news.try_send(news).is_err() {
                self.metrics.ephemeral_dropped();
            }
        }
    }

    fn leave(&self, ago: Duration) -> Leave {
        Leave { ago, grace: self.grace }
    }

    /// Enters a connection, unless its user or its address has too many. Backends may have any number.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        entry: Entry,
        is_backend: bool,
    ) -> Result<Result<Attending, Refusal>, LogError> {
        let quotas = if is_backend { Quotas::NONE } else { self.quotas };
        let entry = Arc::new(entry);
        self.state().here.insert(entry.connection_id, entry.clone());
        let attending = Attending { attendance: self.clone(), connection: entry.connection_id };
        match self.insist(&entry, quotas).await? {
            Ok(arrival) => {
                self.state().departing.remove(&entry.user_id);
                if arrival.is_online() {
                    self.tell([News::Online(entry.user_id.clone(), entry.connected_ms)]);
                } else if arrival.others > 0 {
                    self.tell([News::Connected(entry)]);
                }
                Ok(Ok(attending))
            }
            Err(refusal) => {
                self.state().here.remove(&entry.connection_id); // it is not in the roster either
                Ok(Err(refusal))
            }
        }
    }

    /// A Redis that is being restarted is back in a moment, and entering twice is harmless.
    async fn insist(&self, entry: &Entry, quotas: Quotas) -> Result<Result<Arrival, Refusal>, LogError> {
        let mut failures = 0;
        loop {
            match self.roster.enter(entry, quotas).await {
                Err(error) if error.is_retryable() && failures < MAX_FAILURES => {
                    tokio::time::sleep(Policy::RECONNECT.delay(failures)).await;
                    failures += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Keeps the roster true until it is closed.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut look = tokio::time::interval(EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                () = self.closed.cancelled() => return,
                () = self.ended.notified() => self.flush().await,
                _ = look.tick() => self.look().await,
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "the roster is not up to date; there will be another look");
            }
        }
    }

    /// Takes out what has ended; it stays noted until the roster has answered.
    pub(crate) async fn flush(&self) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        let ended = mem::take(&mut self.state().ended);
        if ended.is_empty() {
            return Ok(());
        }
        let entries: Vec<Entry> = ended.iter().map(|entry| Entry::clone(entry)).collect();
        match self.roster.leave(&entries, self.leave(Duration::ZERO)).await {
            Ok(removed) => {
                self.took_out(removed);
                Ok(())
            }
            Err(error) => {
                self.state().ended.extend(ended);
                Err(error)
            }
        }
    }

    fn took_out(&self, removed: Vec<Removed>) {
        for Removed { entry, others, left_ms } in removed {
            if others > 0 {
                self.tell([News::Disconnected(entry)]);
                continue;
            }
            self.state().departing.insert(entry.user_id.clone(), Instant::now());
            self.keep_seen([(entry.user_id, left_ms)]);
        }
    }

    async fn look(&self) -> Result<(), LogError> {
        self.flush().await?;
        self.compare().await?;
        self.sweep().await?;
        let due = self.roster.due().await?;
        self.tell(due.into_iter().map(News::Offline));
        let keep = self.grace + RETRY_AFTER;
        self.state().departing.retain(|_, since| since.elapsed() < keep);
        Ok(())
    }

    /// Says that the roster may have been lost. Also if nobody is here: it may have forgotten who left a moment ago.
    pub(crate) fn doubt(&self) {
        self.state().doubtful = true;
    }

    /// Puts the roster right if it has something else than what is here, twice in a row: whoever is just being entered
    /// is no difference that stays.
    async fn compare(&self) -> Result<(), LogError> {
        let there = self.roster.count(&self.instance).await?;
        let is_wrong = {
            let mut state = self.state();
            let differs = state.here.len() + state.ended.len() != there;
            let stays = mem::replace(&mut state.differed, differs) && differs;
            state.doubtful || stays
        };
        if is_wrong { self.restore().await } else { Ok(()) }
    }

    /// Makes the roster have what is here, and nothing else of this gateway.
    pub(crate) async fn restore(&self) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        self.take_out_strangers().await?;
        let (here, left): (Vec<Entry>, Vec<(UserId, Duration)>) = {
            let state = self.state();
            let here = state.here.values().map(|entry| Entry::clone(entry));
            let left = state.departing.iter().map(|(user, since)| (user.clone(), since.elapsed()));
            (here.collect(), left.collect())
        };
        let online = self.roster.restore(&self.instance, &here).await?;
        self.roster.depart(&left, self.grace).await?;
        self.tell(online.into_iter().map(|user| News::Online(user, everpost_core::clock::now_ms())));
        let mut state = self.state();
        (state.differed, state.doubtful) = (false, false);
        Ok(())
    }

    async fn take_out_strangers(&self) -> Result<(), LogError> {
        let mut after = None;
        loop {
            let mut page = self.roster.page(&self.instance, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.connection_id);
            {
                let state = self.state();
                page.retain(|entry| !state.here.contains_key(&entry.connection_id));
            }
            let removed = self.roster.leave(&page, self.leave(Duration::ZERO)).await?;
            self.took_out(removed);
        }
    }

    /// Takes out what gateways have entered that the relay does not know, now and at the last look: one that opens anew
    /// is unknown for a moment.
    async fn sweep(&self) -> Result<(), LogError> {
        let entered = self.roster.instances().await?;
        let living = self.relay.instances().await?;
        let missing = entered.into_iter().filter(|instance| *instance != self.instance && !living.contains(instance));
        let missing: HashSet<InstanceId> = missing.collect();
        let before = mem::replace(&mut self.state().suspects, missing.clone());
        for gone in missing.intersection(&before) {
            tracing::warn!(instance = %gone, "a gateway is gone; its connections are taken out of the roster");
            let removed = self.roster.forget(gone, self.leave(SILENCE)).await?;
            self.took_out(removed);
        }
        Ok(())
    }

    /// Withdraws a gateway that stops, with whatever is still open.
    pub(crate) async fn close(&self) -> Result<(), LogError> {
        let flushed = self.flush().await;
        self.closed.cancel();
        let _turn = self.turn.lock().await;
        let removed = self.roster.forget(&self.instance, self.leave(Duration::ZERO)).await?;
        self.took_out(removed);
        flushed
    }

    /// Waits until it is closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// When users were last here who have left since this was asked before.
    pub(crate) fn take_seen(&self) -> HashMap<UserId, u64> {
        mem::take(&mut self.state().seen)
    }

    /// Keeps when users were last here until it is asked for again.
    pub(crate) fn keep_seen(&self, seen: impl IntoIterator<Item = (UserId, u64)>) {
        let mut state = self.state();
        for (user, ms) in seen {
            if state.seen.len() < MAX_SEEN || state.seen.contains_key(&user) {
                let last = state.seen.entry(user).or_default();
                *last = ms.max(*last);
            }
        }
    }
}
