//! One conversation with many listeners.

use anyhow::Result;
use clap::Args;

use super::{
    Settings, child,
    load::{Load, Shape},
    report::{Progress, Report},
    voice::DEEPEST,
};

/// What is compared with the reference.
const COMPARED: [&str; 4] =
    ["deliveries_per_second", "delivery_p50_ms", "delivery_p99_ms", "cpu_seconds_per_million_deliveries"];

#[derive(Debug, Args)]
pub(super) struct FanoutArgs {
    /// Clients that only listen.
    #[arg(long, default_value_t = 1_000)]
    listeners: usize,
    /// Clients that publish.
    #[arg(long, default_value_t = 2)]
    publishers: usize,
    /// Messages on their way to the slowest listener, without `--rate`.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Messages a second over all publishers, instead of as many as possible.
    #[arg(long)]
    rate: Option<f64>,
    /// Puts the same load on the built-in in-memory server first.
    #[arg(long)]
    reference: bool,
}

pub(super) async fn run(settings: &Settings, args: &FanoutArgs) -> Result<Vec<Report>> {
    let shape = Shape {
        echo: true,
        rooms: 1,
        listeners: args.listeners,
        publishers: args.publishers,
        window: args.window,
        depth: DEEPEST,
        rate: args.rate,
    };
    compare("fanout", settings, &shape, args.reference).await
}

/// The load on the servers, and on the reference before if that is asked for.
pub(super) async fn compare(
    bench: &'static str,
    settings: &Settings,
    shape: &Shape,
    reference: bool,
) -> Result<Vec<Report>> {
    child::compare(settings, reference, &COMPARED, async |settings| one(bench, settings, shape).await).await
}

async fn one(bench: &'static str, settings: &Settings, shape: &Shape) -> Result<Report> {
    let progress = Progress::new(format!("{bench} {}", settings.target.name))?;
    progress.say("connecting");
    let load = Load::open(&settings.target, shape).await?;
    let (clients, time) = load.connected();
    let outcome = load.measure(settings.seconds, &settings.pids, &progress).await?;
    let report = Report::new(bench, settings.target.name).count("clients", clients as u64).number(
        "connections_per_second",
        clients as f64 / time.as_secs_f64(),
        0,
    );
    Ok(outcome.of_delivering(report))
}
