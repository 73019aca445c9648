//! How fast accepted messages reach the database.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::sleep;

use super::{
    Settings,
    load::{Load, Shape},
    raw::Postgres,
    report::{Progress, Report},
};

/// A backlog that takes longer than this is reported as it is.
const PATIENCE: Duration = Duration::from_secs(120);
/// So is one that has not become smaller for this long.
const STALLED: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct PersistArgs {
    /// Clients that publish, each in a conversation of its own.
    #[arg(long, default_value_t = 16)]
    publishers: usize,
    /// Unanswered messages of each.
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// Measures inserts of 1,000 rows into a scratch table of the same shape afterwards.
    #[arg(long)]
    reference: bool,
}

pub(super) async fn run(
    settings: &Settings,
    args: &PersistArgs,
    database_url: Option<&SecretString>,
) -> Result<Vec<Report>> {
    let database_url = database_url.context("say where the servers store events: --redis-url and --database-url")?;
    let database = Postgres::connect(database_url.expose_secret()).await?;
    let progress = Progress::new("persist everpost")?;
    let shape = Shape {
        echo: true,
        rooms: args.publishers,
        listeners: 0,
        publishers: 1,
        window: args.depth,
        depth: args.depth,
        rate: None,
    };
    let load = Load::open(&settings.target, &shape).await?;
    let conversations: Vec<_> = load.rooms().iter().map(|room| room.id.clone()).collect();
    let mine = drain(settings, &load, &database, &conversations, &progress).await?;
    if !args.reference {
        return Ok(vec![mine]);
    }
    progress.say("reference");
    let sizes = database.sizes(conversations.first().map_or("", String::as_str)).await?;
    let rate = database.inserts(sizes, settings.seconds).await?;
    let ceiling = Report::new("persist", "postgres UNNEST").number("stored_per_second", rate, 0);
    let ratio = mine.ratio(&ceiling, &["stored_per_second"]);
    Ok(vec![ceiling, mine, ratio])
}

/// Publishes for the given time and waits until the database has everything.
async fn drain(
    settings: &Settings,
    load: &Load,
    database: &Postgres,
    conversations: &[String],
    progress: &Progress,
) -> Result<Report> {
    let started = Instant::now();
    load.begin();
    sleep(Duration::from_secs(settings.seconds)).await;
    load.finish().await;
    let (published_in, published) = (started.elapsed(), acknowledged(load));
    let early = database.reached(conversations).await?;
    let backlog = published.saturating_sub(early);
    let draining = Instant::now();
    let reached = wait(database, conversations, published, progress).await?;
    let (drained_in, stored_in) = (draining.elapsed(), started.elapsed());
    let rows = database.rows(conversations).await?;
    let per_second = |count: u64, time: Duration| count as f64 / time.as_secs_f64();
    Ok(Report::new("persist", settings.target.name)
        .number("stored_per_second", per_second(reached, stored_in), 0)
        .number("acks_per_second", per_second(published, published_in), 0)
        .count("backlog_when_publishing_ended", backlog)
        .number("drained_per_second", per_second(reached.saturating_sub(early), drained_in), 0)
        .number("drained_in_ms", drained_in.as_secs_f64() * 1e3, 0)
        .count("acknowledged", published)
        .count("rows", rows)
        .count("missing", published.saturating_sub(rows))
        .count("announced_as_stored", load.rooms().iter().map(|room| room.stored_up_to()).sum()))
}

/// The highest acknowledged number of every conversation; they are new, so that is a count.
fn acknowledged(load: &Load) -> u64 {
    load.rooms().iter().filter_map(|room| room.acked_range()).map(|(_, last)| last).sum()
}

async fn wait(database: &Postgres, conversations: &[String], goal: u64, progress: &Progress) -> Result<u64> {
    let until = Instant::now() + PATIENCE;
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let reached = database.reached(conversations).await?;
        progress.say(format!("{reached} of {goal} stored"));
        if reached > last {
            (last, moved) = (reached, Instant::now());
        }
        if reached >= goal || Instant::now() > until || moved.elapsed() > STALLED {
            return Ok(reached);
        }
        sleep(Duration::from_millis(50)).await;
    }
}
