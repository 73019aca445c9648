//! The gateway: HTTP and WebSocket for clients.
//!
//! Publishes go through [`publish`] into the log; deliveries come back through [`pump`] and [`hub`] to connections;
//! [`replay`] fills whatever lies between a client and the present. A gateway keeps nothing that is not elsewhere: kill
//! it, and its clients go on at another one with their cursors.

pub mod auth;
mod body;
mod client_address;
mod close;
mod connection;
mod conversations;
mod devices;
pub(crate) mod error;
mod event_stream;
pub(crate) mod extract;
mod fallback;
mod frame;
mod hub;
mod limits;
mod listener;
mod messages;
mod metrics;
mod origin;
mod page;
mod publish;
mod pump;
mod reads;
mod receive;
mod replay;
mod router;
mod session;
mod sse;
mod start;
mod stored;
mod tls;
mod transport;
mod wire;
mod ws;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use axum_server::Handle;
use everpost_core::{
    generation::History,
    log::{Log, LogError},
    name::{ConversationId, InstanceId, UserId},
    partition::Partitions,
    position::Position,
    pressure::Level,
    recovery::Recovery,
    relay::{Inbox, Parcel, Relay, Signal, Topic},
    store::{Standing, Store},
};
use everpost_workers::{Ports, Pressure};
use ipnet::IpNet;
use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    auth::{Authenticator, Principal},
    close::Close,
    devices::Devices,
    error::ApiError,
    hub::Hub,
    limits::Admission,
    publish::Publisher,
    pump::Pump,
    reads::Reads,
    session::Item,
    stored::Stored,
};
pub use self::{
    limits::Limits,
    listener::Listener,
    metrics::GatewayMetrics,
    tls::{Tls, TlsError},
};

/// How long a closing connection may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long requests under way may take when the process stops.
const DRAIN: Duration = Duration::from_secs(8);
/// How long a connection waits for this gateway to learn of a new generation.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_secs(1);
const TIDY_EVERY_TICKS: u64 = 30;

/// What a gateway is made from.
pub struct GatewayConfig {
    /// Checks tokens.
    pub token_secret: SecretString,
    /// What backends authenticate with; without one nobody is a backend.
    pub api_key: Option<SecretString>,
    /// Whether `?token=` is taken.
    pub query_tokens: bool,
    /// Origins of pages, other than the server's own, that may connect.
    pub allowed_origins: Vec<String>,
    /// Networks of proxies whose word about a client's address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// How much clients may ask for.
    pub limits: Limits,
    /// Clients are told to come back spread over this time when the process stops.
    pub drain_spread: Duration,
}

/// One gateway, shared by its tasks.
pub struct Gateway {
    instance: InstanceId,
    partitions: Partitions,
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    relay: Arc<dyn Relay>,
    recovery: Arc<Recovery>,
    reads: Reads,
    publisher: Publisher,
    hub: Arc<Hub>,
    stored: Arc<Stored>,
    devices: Devices,
    admission: Arc<Admission>,
    auth: Authenticator,
    allowed_origins: Vec<String>,
    trusted_proxies: Vec<IpNet>,
    limits: Limits,
    drain_spread: Duration,
    started: Instant,
    pressure: Pressure,
    metrics: GatewayMetrics,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Gateway {
    /// Starts a gateway's tasks; it takes no connections until [`Gateway::serve`].
    pub async fn start(
        config: GatewayConfig,
        ports: Ports,
        pressure: Pressure,
        metrics: GatewayMetrics,
        stopping: CancellationToken,
    ) -> Result<Arc<Self>, LogError> {
        let (instance, tasks) = (InstanceId::random(), TaskTracker::new());
        let Ports { log, store, relay, recovery, .. } = ports;
        let inbox = relay.open(&instance).await?;
        let (hub, registrar) = Hub::new(instance.clone(), relay.clone());
        tasks.spawn(registrar);
        let reads = Reads::start(&log, &store, &tasks);
        let publisher = Publisher::start(&log, &recovery, &reads, &tasks);
        let gateway = Arc::new(Self {
            auth: Authenticator::new(&config.token_secret, config.api_key, config.query_tokens),
            admission: Arc::new(Admission::new(&config.limits)),
            stored: Arc::new(Stored::new(log.partitions())),
            devices: Devices::default(),
            partitions: log.partitions(),
            allowed_origins: config.allowed_origins,
            trusted_proxies: config.trusted_proxies,
            limits: config.limits,
            drain_spread: config.drain_spread,
            started: Instant::now(),
            instance,
            log,
            store,
            relay,
            recovery,
            reads,
            publisher,
            hub,
            pressure,
            metrics,
            tasks,
            stopping,
        });
        gateway.spawn_loops(inbox);
        Ok(gateway)
    }

    fn spawn_loops(self: &Arc<Self>, inbox: Box<dyn Inbox>) {
        let pump = Pump::new(self);
        self.tasks.spawn(pump.run(inbox, self.stopping.clone()));
        let (gateway, stopping) = (self.clone(), self.stopping.clone());
        self.tasks.spawn(async move {
            stopping.run_until_cancelled(gateway.watch_generations()).await;
        });
        let (gateway, stopping) = (self.clone(), self.stopping.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = gateway.stored.watch(&gateway.log, &gateway.recovery) => {}
            }
        });
        self.tasks.spawn(self.clone().tick());
    }

    /// When the log goes on in a new generation, every session makes sure that it stands on what survived.
    async fn watch_generations(&self) {
        let mut generations = self.recovery.watch();
        while generations.changed().await.is_ok() {
            let history = generations.borrow_and_update().clone();
            self.hub.all().iter().for_each(|session| session.mark_lagging());
            self.stored.disown(&history);
        }
    }

    /// Serves clients on a bound listener until the gateway is told to stop, then says farewell to each.
    pub async fn serve(self: Arc<Self>, listener: Listener) -> std::io::Result<()> {
        let (handle, routes) = (Handle::new(), router::router(self.clone()));
        let (gateway, closing) = (self.clone(), handle.clone());
        let draining = tokio::spawn(async move { gateway.drain(&closing).await });
        listener.serve(routes, &self.limits, handle, self.stopping.clone()).await?;
        let _ = draining.await; // it ends with the server
        Ok(())
    }

    async fn drain(&self, handle: &Handle<SocketAddr>) {
        self.stopping.cancelled().await;
        self.close_all(u64::try_from(self.drain_spread.as_millis()).unwrap_or(u64::MAX));
        handle.graceful_shutdown(Some(DRAIN));
        let until = Instant::now() + DRAIN;
        while self.admission.connections() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.devices.save(&self.store).await;
        if let Err(error) = self.relay.close(&self.instance).await {
            tracing::debug!(%error, "the registrations will be swept by others");
        }
    }

    /// Once a second: heartbeats, tokens that ran out, cursors to be remembered.
    async fn tick(self: Arc<Self>) {
        while !self.stopping.is_cancelled() {
            let _ = tokio::time::timeout(TICK, self.stopping.cancelled()).await; // whichever comes first
            let (now, wall) = (self.seconds(), everpost_core::clock::now_ms() / 1_000);
            let limit = self.limits.heartbeat_timeout.as_secs();
            for session in self.hub.all() {
                if session.expires < wall {
                    session.close(Close::Unauthenticated("the token has expired"));
                } else if !session.only_listens && now.saturating_sub(session.last_heard()) > limit {
                    session.close(Close::Silent);
                } else if (now + u64::from(session.id.as_fields().0 % 64))
                    .is_multiple_of(self.heartbeat_seconds(&session))
                {
                    if !session.only_listens {
                        session.push(Item::Text(frame::plain("ping", None, None, serde_json::json!({}))));
                    }
                    session.push(Item::Ping);
                }
            }
            self.devices.save(&self.store).await;
            self.metrics.connections(self.admission.connections());
            if now.is_multiple_of(TIDY_EVERY_TICKS) {
                self.admission.tidy();
            }
        }
    }

    /// Seconds since this gateway started.
    fn seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Where the log ends, and the generations that lead there.
    async fn present(&self) -> Result<(Arc<[Position]>, Arc<History>), ApiError> {
        let ends = self.reads.ends().await?;
        let is_known = |history: &History| {
            let mut ends = self.partitions.iter().zip(ends.iter());
            ends.all(|(partition, end)| end.generation() <= history.current(partition).number)
        };
        let history = self.recovery.history();
        if is_known(&history) {
            return Ok((ends, history));
        }
        self.recovery.settle(PATIENCE).await;
        let history = self.recovery.history();
        if is_known(&history) { Ok((ends, history)) } else { Err(LogError::Renewing.into()) }
    }

    /// Where a client is, as far as those say whom we believe.
    fn client_address(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        client_address::client_address(peer.ip(), headers, &self.trusted_proxies)
    }

    /// Whether somebody may read and write a conversation.
    async fn authorise(&self, principal: &Principal, conversation: &ConversationId) -> Result<(), ApiError> {
        match self.reads.standing(conversation, &principal.user).await? {
            Standing::Participant => Ok(()),
            Standing::Stranger if principal.is_backend => Ok(()),
            Standing::Stranger => Err(ApiError::Forbidden("you do not take part in this conversation")),
            Standing::Unknown => Err(ApiError::NotFound("conversation")),
        }
    }

    /// Whether the log has room for a publish of this sender. What is refused here costs it nothing.
    fn has_room_for(&self, sender: &UserId) -> Result<(), ApiError> {
        if self.admission.is_taken(self.pressure.level(), sender) {
            return Ok(());
        }
        self.metrics.publish_refused();
        Err(ApiError::overloaded())
    }

    /// Tells a conversation something ephemeral, unless the service has better things to do.
    async fn whisper(
        &self,
        conversation: ConversationId,
        event: &str,
        data: &serde_json::Value,
    ) -> Result<(), ApiError> {
        if self.pressure.level() == Level::Green {
            return self.signal(conversation, event, data).await;
        }
        self.metrics.ephemeral_dropped();
        Ok(())
    }

    /// Which conversations of a page of a replay somebody may no longer read. All their connections here are told.
    async fn withdrawn(
        &self,
        principal: &Principal,
        conversations: HashSet<&str>,
    ) -> Result<Vec<ConversationId>, ApiError> {
        let mut withdrawn = Vec::new();
        if principal.is_backend {
            return Ok(withdrawn);
        }
        let names = conversations.into_iter().filter_map(|name| ConversationId::new(name).ok());
        let standings = names.map(|name| async move { (self.reads.standing(&name, &principal.user).await, name) });
        for (standing, name) in futures_util::future::join_all(standings).await {
            if standing? != Standing::Participant {
                self.hub.of_user(&principal.user).iter().for_each(|session| session.push(Item::Left(name.clone())));
                withdrawn.push(name);
            }
        }
        Ok(withdrawn)
    }

    /// Sends a signal to every instance that listens to a topic.
    async fn tell(&self, topic: Topic, signal: Signal) -> Result<(), ApiError> {
        let listeners = self.relay.listeners(&[topic]).await?;
        let parcels = listeners.into_iter().flatten().map(|instance| (instance, Parcel::Signal(signal.clone())));
        Ok(self.relay.send(parcels.collect()).await?)
    }
}
