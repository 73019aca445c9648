//! The long-running commands: serve, gateway, worker.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use everpost_core::role::Role;
use tokio_util::sync::CancellationToken;

use super::{flags::Flags, welcome};
use crate::{
    app::{App, Plan},
    open_files, shutdown, telemetry,
};

/// Where `serve` has its admin listener unless it is told otherwise.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// Which roles this process runs, comma-separated [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ROLES")]
    roles: Vec<Role>,
}

pub(super) async fn serve(flags: &Flags) -> anyhow::Result<()> {
    let admin = flags.settings()?.admin_listen.or(Some(ADMIN));
    run(flags, Plan { gateway: true, roles: Role::ALL.to_vec(), admin }, true).await
}

pub(super) async fn gateway(flags: &Flags) -> anyhow::Result<()> {
    let admin = flags.settings()?.admin_listen;
    run(flags, Plan { gateway: true, roles: Vec::new(), admin }, false).await
}

pub(super) async fn worker(flags: &Flags, args: WorkerArgs) -> anyhow::Result<()> {
    let settings = flags.settings()?;
    if settings.redis_url.is_none() {
        anyhow::bail!(crate::config::ConfigError::Unsound(
            "separate workers need the distributed engine: give --redis-url and --database-url, or run `everpost serve`"
                .to_owned()
        ));
    }
    let roles = if args.roles.is_empty() { Role::ALL.to_vec() } else { args.roles };
    run(flags, Plan { gateway: false, roles, admin: settings.admin_listen }, false).await
}

async fn run(flags: &Flags, plan: Plan, welcomes: bool) -> anyhow::Result<()> {
    let settings = flags.settings()?;
    telemetry::start(settings.log_format, &settings.log)?;
    open_files::raise();
    if let Some(shortage) = open_files::shortage(settings.limits().max_connections).filter(|_| plan.gateway) {
        tracing::warn!("{shortage}");
    }
    let stop = CancellationToken::new();
    shutdown::on_signals(stop.clone())?;
    tracing::debug!(filter = settings.log, "log lines are written");
    let roles: Vec<String> = plan.roles.iter().map(ToString::to_string).collect();
    let app = App::open(&settings, plan.clone()).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        engine = app.engine(),
        clients = app.address().map(|address| address.to_string()),
        admin = app.admin_address().map(|address| address.to_string()),
        roles = roles.join(","),
        durability = %app.ports().log.durability(),
        pid = std::process::id(),
        "everpost is starting"
    );
    if plan.gateway && settings.redis_url.is_some() && settings.is_development() {
        let data_dir = settings.data_dir.display();
        tracing::warn!(%data_dir, "the token secret is this gateway's own; set token_secret and api_key to share them");
    }
    if welcomes && settings.is_development() {
        welcome::print(&settings, &app).await?;
    }
    app.run(stop).await?;
    tracing::info!("everpost has drained");
    Ok(())
}
