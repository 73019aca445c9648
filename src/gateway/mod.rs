//! The gateway: HTTP and WebSocket for clients.
//!
//! Publishes go through [`publish`] into the log; deliveries come back through [`pump`] and [`hub`] to connections;
//! [`replay`] fills whatever lies between a client and the present. A gateway keeps nothing that is not elsewhere: kill
//! it, and its clients go on at another one with their cursors.

mod attendance;
pub mod auth;
mod body;
mod claims;
mod client;
mod client_address;
mod close;
mod connection;
mod conversations;
mod devices;
pub(crate) mod error;
mod event_stream;
mod events;
pub(crate) mod extract;
mod fallback;
mod frame;
mod gate;
mod handshake;
mod heartbeat;
mod hub;
pub mod jwks;
mod keys;
mod limits;
mod linger;
mod listener;
mod messages;
mod metrics;
mod origin;
mod overviews;
mod page;
mod patience;
mod presence;
mod publish;
mod pump;
mod reads;
mod receipts;
mod receive;
mod replay;
mod revocations;
mod rights;
mod router;
mod sent;
mod session;
mod sse;
mod start;
mod stored;
mod tickets;
mod tls;
mod transport;
mod typing;
mod vigil;
mod wire;
mod write;
mod ws;

use std::{
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
    roster::Roster,
    store::{Standing, Store},
};
use everpost_workers::{Ports, Pressure};
use ipnet::IpNet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    attendance::Attendance,
    auth::{AuthConfig, Authenticator, Principal},
    close::Close,
    devices::Devices,
    error::ApiError,
    gate::Gate,
    hub::Hub,
    limits::Admission,
    publish::Publisher,
    pump::Pump,
    reads::Reads,
    receipts::Receipts,
    revocations::Revocations,
    session::Item,
    stored::Stored,
    tickets::Tickets,
    typing::Typing,
};
pub use self::{
    limits::Limits,
    listener::Listener,
    metrics::GatewayMetrics,
    presence::Audience,
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
    /// What callers authenticate with.
    pub auth: AuthConfig,
    /// Origins of pages, other than the server's own, that may connect.
    pub allowed_origins: Vec<String>,
    /// Networks of proxies whose word about a client's address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// How much clients may ask for.
    pub limits: Limits,
    /// Who is told that users come and go.
    pub presence: Audience,
    /// How long a user's last connection may have been gone before the user is offline.
    pub presence_grace: Duration,
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
    roster: Arc<dyn Roster>,
    recovery: Arc<Recovery>,
    reads: Reads,
    publisher: Publisher,
    hub: Arc<Hub>,
    stored: Arc<Stored>,
    devices: Devices,
    receipts: Arc<Receipts>,
    typing: Arc<Typing>,
    admission: Arc<Admission>,
    gate: Gate,
    attendance: Arc<Attendance>,
    audience: Audience,
    auth: Authenticator,
    revocations: Arc<Revocations>,
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
        let Ports { log, store, relay, roster, recovery, .. } = ports;
        let inbox = relay.open(&instance).await?;
        let (hub, registrar) = Hub::new(instance.clone(), relay.clone());
        tasks.spawn(registrar);
        let (quotas, grace, counts) = (config.limits.quotas(), config.presence_grace, metrics.clone());
        let (attendance, news) =
            Attendance::new(instance.clone(), roster.clone(), relay.clone(), quotas, grace, counts);
        attendance.restore().await?; // so that whoever finds it dead knows what to take out
        let reads = Reads::start(&log, &store, &tasks);
        let publisher = Publisher::start(&log, &recovery, &reads, &tasks);
        let revocations = Arc::new(Revocations::new(store.clone()));
        revocations.read().await.map_err(LogError::unavailable)?;
        let tickets = Tickets::new(relay.clone(), config.auth.ticket_ttl);
        let gateway = Arc::new(Self {
            auth: Authenticator::new(config.auth, revocations.clone(), tickets),
            revocations,
            admission: Arc::new(Admission::new(&config.limits)),
            gate: Gate::new(config.limits.accept_rate),
            attendance: Arc::new(attendance),
            audience: config.presence,
            stored: Arc::new(Stored::new(log.partitions())),
            devices: Devices::default(),
            receipts: Arc::default(),
            typing: Arc::default(),
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
            roster,
            recovery,
            reads,
            publisher,
            hub,
            pressure,
            metrics,
            tasks,
            stopping,
        });
        gateway.spawn_loops(inbox).await;
        gateway.tasks.spawn(gateway.attendance.clone().run());
        gateway.tasks.spawn(gateway.clone().tell_news(news));
        Ok(gateway)
    }

    async fn spawn_loops(self: &Arc<Self>, inbox: Box<dyn Inbox>) {
        if let Some(keyring) = self.auth.keyring() {
            keyring.refresh().await;
            let stopping = self.stopping.clone();
            self.tasks.spawn(async move { keyring.run(&stopping).await });
        }
        let (gateway, stopping) = (self.clone(), self.stopping.clone());
        self.tasks.spawn(async move {
            stopping.run_until_cancelled(gateway.watch_revocations()).await;
        });
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
        let gateway = self.clone();
        self.tasks.spawn(async move { gateway.watch_receipts().await });
        self.tasks.spawn(self.clone().tick());
    }

    /// When the log goes on in a new generation, every session makes sure that it stands on what survived.
    async fn watch_generations(&self) {
        let mut generations = self.recovery.watch();
        while generations.changed().await.is_ok() {
            let history = generations.borrow_and_update().clone();
            self.hub.start_counting_anew();
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
        self.hub.all().iter().for_each(|session| session.close(self.going_away(session)));
        handle.graceful_shutdown(Some(DRAIN));
        let until = Instant::now() + DRAIN;
        while self.admission.connections() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.devices.save(&self.store).await;
        self.write_marks().await;
        if let Err(error) = self.attendance.close().await {
            tracing::debug!(%error, "the connections will be taken out of the roster by others");
        }
        self.save_last_seen().await;
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
                if session.expires() < wall {
                    session.close(Close::Unauthenticated("the token has expired"));
                } else if !session.only_listens && now.saturating_sub(session.last_heard()) > limit {
                    session.close(Close::Silent);
                } else if (now + u64::from(session.id.as_fields().0 % 64))
                    .is_multiple_of(self.heartbeat_seconds(&session))
                {
                    session.push(Item::Heartbeat);
                }
            }
            self.end_typing(Instant::now());
            self.devices.save(&self.store).await;
            self.save_last_seen().await;
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

    /// Sends a signal to every instance that listens to a topic.
    async fn tell(&self, topic: Topic, signal: Signal) -> Result<(), ApiError> {
        let listeners = self.relay.listeners(&[topic]).await?;
        let parcels = listeners.into_iter().flatten().map(|instance| (instance, Parcel::Signal(signal.clone())));
        Ok(self.relay.send(parcels.collect()).await?)
    }
}
