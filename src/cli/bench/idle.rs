//! Connections that do nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Settings, child,
    client::Client,
    load::CONNECTING,
    member::Course,
    process,
    report::{Progress, Report},
    target::{self, Conversation},
};

/// What is compared with the reference.
const COMPARED: [&str; 3] = ["connections_per_second", "kib_per_connection", "idle_cpu_percent"];
/// Members of each conversation, so that the connections are subscribed to something.
const MEMBERS: usize = 10;
/// Until what opening the connections has stirred up is done.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    /// How many.
    #[arg(long, default_value_t = 5_000)]
    connections: usize,
    /// Opens as many on the built-in in-memory server first.
    #[arg(long)]
    reference: bool,
}

pub(super) async fn run(settings: &Settings, args: &IdleArgs) -> Result<Vec<Report>> {
    child::compare(settings, args.reference, &COMPARED, async |settings| one(settings, args.connections).await).await
}

async fn one(settings: &Settings, connections: usize) -> Result<Report> {
    let progress = Progress::new(format!("idle {}", settings.target.name))?;
    settings.target.check()?;
    let conversations = target::conversations(connections.div_ceil(MEMBERS), MEMBERS);
    settings.target.create(&conversations).await?;
    let before = process::resident_kib(&settings.pids)?;
    let (clients, time) = open(settings, &conversations, connections).await?;
    let mut held = JoinSet::new();
    clients.into_iter().for_each(|client| drop(held.spawn(hold(client))));
    progress.say("settling");
    sleep(SETTLE).await;
    let cpu = process::cpu_seconds(&settings.pids)?;
    sleep(Duration::from_secs(settings.seconds)).await;
    let cpu = process::cpu_seconds(&settings.pids)? - cpu;
    let grown = process::resident_kib(&settings.pids)?.saturating_sub(before);
    let closed = std::iter::from_fn(|| held.try_join_next()).count();
    let report = Report::new("idle", settings.target.name)
        .count("connections", connections as u64)
        .number("connections_per_second", connections as f64 / time.as_secs_f64(), 0)
        .count("closed", closed as u64);
    Ok(if settings.pids.is_empty() { report } else { weighed(report, grown, cpu, connections, settings.seconds) })
}

fn weighed(report: Report, grown: u64, cpu: f64, connections: usize, seconds: u64) -> Report {
    report.number("kib_per_connection", grown as f64 / connections.max(1) as f64, 1).number(
        "idle_cpu_percent",
        cpu * 100.0 / seconds as f64,
        1,
    )
}

async fn open(
    settings: &Settings,
    conversations: &[Conversation],
    connections: usize,
) -> Result<(Vec<Client>, Duration)> {
    let course = &Course::new()?;
    let seats = conversations.iter().flat_map(|room| room.users.iter().map(|user| (user, room.id.as_str())));
    let seats = seats.take(connections).enumerate();
    // Tokens are made before the clock starts: signing is the generator's work, not the server's.
    let endpoints = seats.map(|(index, (user, room))| settings.target.endpoint(index, user, room, None));
    let endpoints = endpoints.collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    let connecting = endpoints.iter().map(|endpoint| Client::connect(endpoint, &course.scanner));
    let clients = stream::iter(connecting).buffer_unordered(CONNECTING).try_collect().await?;
    Ok((clients, started.elapsed()))
}

/// Answers pings until the server or the run ends the connection.
async fn hold(mut client: Client) -> Result<()> {
    let course = super::scan::Scanner::new();
    loop {
        client.drain(&course, |_, _| {})?;
        client.turn().await?;
    }
}
