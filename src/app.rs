//! One process: ports bound, engine opened, roles run, everything drained.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use everpost_core::{disk::DiskFailed, role::Role};
use everpost_workers::{Ports, PressureMetrics, Watcher, WorkerMetrics, register_recovery};
use futures_util::FutureExt;
use secrecy::SecretString;
use tokio::{net::TcpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin},
    config::{ConfigError, Settings},
    engine::Engine,
    gateway::{Gateway, GatewayConfig, GatewayMetrics, Listener, Tls},
    telemetry,
};

/// Clients that come back all at once wait here; the system's usual 128 would turn most of them away for a second.
const BACKLOG: u32 = 8_192;

/// What the system may hold for a client that does not read. It would grow to megabytes by itself; beyond this frames
/// wait in the outbox, which knows what to drop.
const SEND_BUFFER: u32 = 256 * 1024;

/// What a process does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whether it serves clients.
    pub gateway: bool,
    /// Which workers it runs.
    pub roles: Vec<Role>,
    /// Where it opens an admin listener, if at all.
    pub admin: Option<SocketAddr>,
}

/// A process that is ready to run; nothing of it runs yet.
pub struct App {
    engine: Engine,
    plan: Plan,
    /// How many unstored events are too many.
    backlog_budget: u64,
    clients: Option<(Listener, GatewayConfig)>,
    admin: Option<(TcpListener, Option<SecretString>)>,
}

impl App {
    /// Binds first, so that a taken port is known at once, then opens the engine.
    pub async fn open(settings: &Settings, plan: Plan) -> anyhow::Result<Self> {
        let clients = plan.gateway.then(|| clients(settings)).transpose()?;
        let admin = plan.admin.map(|address| admin_listener(settings, address)).transpose()?;
        let engine = Engine::open(&settings.engine()?).await?;
        Ok(Self { engine, plan, backlog_budget: settings.backlog_budget.get(), clients, admin })
    }

    /// What the process works with.
    pub fn ports(&self) -> &Ports {
        &self.engine.ports
    }

    /// The engine, for people.
    pub fn engine(&self) -> &str {
        &self.engine.description
    }

    /// Where clients connect.
    pub fn address(&self) -> Option<SocketAddr> {
        self.clients.as_ref().and_then(|(listener, _)| listener.socket.local_addr().ok())
    }

    /// Where metrics and health are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Runs every part until told to stop, or until one of them ends by itself, which ends the others.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { engine, plan, backlog_budget, clients, admin } = self;
        let mut registry = telemetry::registry();
        let (worker_metrics, gateway_metrics) = (WorkerMetrics::default(), GatewayMetrics::default());
        let pressure_metrics = PressureMetrics::default();
        worker_metrics.register(&mut registry);
        gateway_metrics.register(&mut registry);
        pressure_metrics.register(&mut registry);
        register_recovery(engine.ports.recovery.clone(), &mut registry);
        let mut parts = JoinSet::new();
        let (recovery, stopping) = (engine.ports.recovery.clone(), stop.clone());
        parts.spawn(async move {
            stopping.run_until_cancelled(recovery.run()).await;
            Ok(())
        });
        let (watcher, pressure) = Watcher::new(engine.ports.log.clone(), backlog_budget, pressure_metrics);
        parts.spawn(watcher.run(stop.clone()).map(Ok));
        if let Some((listener, key)) = admin {
            let (ports, engine) = (engine.ports.clone(), engine.description.clone());
            let admin = Admin { registry, ports, pressure: pressure.clone(), engine };
            parts.spawn(serve_admin(listener, admin, key, stop.clone()));
        }
        if let Some((listener, gateway)) = clients {
            let (ports, pressure) = (engine.ports.clone(), pressure.clone());
            let gateway = Gateway::start(gateway, ports, pressure, gateway_metrics, stop.clone()).await?;
            parts.spawn(async move { gateway.serve(listener).await.context("serving clients") });
        }
        parts.spawn(end_with(engine.failed(), stop.clone()));
        for role in plan.roles {
            let (ports, metrics, stop) = (engine.ports.clone(), worker_metrics.clone(), stop.clone());
            let pressure = pressure.clone();
            parts.spawn(async move {
                let ran = everpost_workers::run(role, ports, pressure, metrics, stop).await;
                ran.with_context(|| format!("running {role}"))
            });
        }
        join(parts, stop).await
    }
}

/// The client listener and what its gateway needs; only here are secrets made, where they are used.
fn clients(settings: &Settings) -> anyhow::Result<(Listener, GatewayConfig)> {
    let tls = settings.tls_files()?.map(|(cert, key)| Tls::load(cert, key)).transpose();
    let tls = tls.map_err(|error| ConfigError::Unsound(format!("tls_cert and tls_key: {error}")))?;
    let listener = Listener { socket: bind(settings.listen, "listen")?, tls, keep_alive: settings.keep_alive };
    let gateway = GatewayConfig {
        auth: settings.auth()?,
        allowed_origins: settings.allowed_origins.clone(),
        trusted_proxies: settings.trusted_proxies()?,
        limits: settings.limits(),
        presence: settings.presence,
        presence_grace: settings.presence_grace,
        drain_spread: settings.drain_spread,
    };
    Ok((listener, gateway))
}

/// The admin listener, and the key it asks for: always if it has one of its own, and beyond loopback in any case.
fn admin_listener(settings: &Settings, address: SocketAddr) -> anyhow::Result<(TcpListener, Option<SecretString>)> {
    let is_open = address.ip().is_loopback() && !settings.has_admin_key();
    let key = if is_open { None } else { Some(settings.admin_key()?) };
    Ok((bind(address, "admin-listen")?, key))
}

fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?; // accepted connections inherit it
    let listener = socket
        .bind(address)
        .and_then(|()| socket.listen(BACKLOG))
        .with_context(|| format!("cannot listen on {address}; is another program there? choose with --{flag}"))?;
    Ok(listener.into_std()?)
}

async fn serve_admin(
    listener: TcpListener,
    admin: Admin,
    key: Option<SecretString>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    admin::serve(listener, admin, key, stop).await.context("serving the admin listener")
}

/// Ends when the disk has failed: whatever the others do now may be for nothing.
async fn end_with(failed: impl Future<Output = DiskFailed>, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        failed = failed => Err(failed.into()),
        () = stop.cancelled() => Ok(()),
    }
}

/// The first part to end, for whatever reason, stops the others.
async fn join(mut parts: JoinSet<anyhow::Result<()>>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let asked = stop.is_cancelled();
        stop.cancel();
        let ended = ended.context("a part of the process panicked").and_then(|ended| ended);
        if outcome.is_ok() {
            outcome = match ended {
                Ok(()) if !asked => Err(anyhow::anyhow!("a part of the process ended by itself")),
                ended => ended,
            };
        }
    }
    outcome
}
