//! Many publishers, each in a conversation of its own: how fast messages are accepted.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{
    Settings,
    child::Reference,
    load::{Load, Shape},
    raw,
    report::{Progress, Report},
    voice::DEEPEST,
};

/// What is compared with the in-memory server.
const COMPARED: [&str; 4] = ["acks_per_second", "ack_p50_ms", "ack_p99_ms", "cpu_seconds_per_million_acks"];

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// Clients that publish.
    #[arg(long, default_value_t = 16)]
    publishers: usize,
    /// Conversations they share; one each by default.
    #[arg(long)]
    conversations: Option<usize>,
    /// Unanswered messages of each.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=DEEPEST as i64))]
    depth: u16,
    /// Lets the publishers listen as well; without it they unsubscribe and only their publishing is measured.
    #[arg(long)]
    echo: bool,
    /// Measures pipelined XADD on this Redis before and after, in a scratch stream that is deleted.
    #[arg(long, value_name = "URL")]
    reference_redis: Option<String>,
    /// Measures appending to an embedded database in this folder before and after, in a scratch file that is deleted.
    #[arg(long, value_name = "DIR")]
    reference_sqlite: Option<PathBuf>,
    /// Puts the same load on the built-in in-memory server first.
    #[arg(long)]
    reference: bool,
}

impl PublishArgs {
    fn shape(&self) -> Shape {
        let rooms = self.conversations.unwrap_or(self.publishers).clamp(1, self.publishers.max(1));
        let depth = usize::from(self.depth);
        let publishers = self.publishers.div_ceil(rooms);
        Shape { rooms, listeners: 0, publishers, echo: self.echo, window: depth, depth, rate: None }
    }

    /// What the stores take by themselves, in appended rows a second.
    async fn stores(&self, seconds: u64) -> Result<Vec<(&'static str, f64)>> {
        let mut rates = Vec::new();
        if let Some(url) = &self.reference_redis {
            let _progress = Progress::new("publish redis")?;
            rates.push(("redis XADD", raw::redis(url, usize::from(self.depth), seconds).await?));
        }
        if let Some(folder) = &self.reference_sqlite {
            let _progress = Progress::new("publish sqlite")?;
            rates.push(("sqlite append", raw::sqlite(folder, seconds).await?));
        }
        Ok(rates)
    }
}

pub(super) async fn run(settings: &Settings, args: &PublishArgs) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    if args.reference {
        let server = Reference::start().await?;
        reports.push(one(&server.settings(settings), &args.shape()).await?);
    }
    let before = args.stores(settings.seconds).await?;
    let mine = one(settings, &args.shape()).await?;
    let after = args.stores(settings.seconds).await?;
    let ratios = reports.first().map(|ceiling| mine.ratio(ceiling, &COMPARED));
    let stores: Vec<_> =
        before.into_iter().zip(after).map(|((name, before), (_, after))| store(name, before, after)).collect();
    reports.push(mine.clone());
    reports.extend(ratios);
    for store in stores {
        let ratio = mine.ratio(&store, &["acks_per_second"]);
        reports.extend([store, ratio]);
    }
    Ok(reports)
}

async fn one(settings: &Settings, shape: &Shape) -> Result<Report> {
    let progress = Progress::new(format!("publish {}", settings.target.name))?;
    let load = Load::open(&settings.target, shape).await?;
    let outcome = load.measure(settings.seconds, &settings.pids, &progress).await?;
    let report = Report::new("publish", settings.target.name).count("conversations", shape.rooms as u64);
    Ok(outcome.of_publishing(report))
}

/// The machine's mood changes within a run: the mean of both sides, and both to see how much.
fn store(name: &'static str, before: f64, after: f64) -> Report {
    Report::new("publish", name)
        .number("acks_per_second", f64::midpoint(before, after), 0)
        .number("before_per_second", before, 0)
        .number("after_per_second", after, 0)
}
