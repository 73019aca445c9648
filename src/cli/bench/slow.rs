//! Some clients stop reading in the middle of a busy conversation; what do the others notice?

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    Settings,
    client::Client,
    load::{CONNECTING, Load, Shape},
    outcome::Outcome,
    process,
    report::{Progress, Report},
    scan::Scanner,
    target::{self, Conversation, Target},
};

/// How large the messages are that those who do not read are sent.
const NOISE_BYTES: usize = 16 * 1_024;
/// Between two of them.
const NOISE_EVERY: Duration = Duration::from_millis(20);
/// Until everything between the server and those who do not read is full.
const FILLING: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct SlowArgs {
    /// Clients that never read.
    #[arg(long, default_value_t = 500)]
    stalled: usize,
    /// Others that do, each in a conversation with nine more.
    #[arg(long, default_value_t = 100)]
    others: usize,
    /// Messages a second among the others.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
}

pub(super) async fn run(settings: &Settings, args: &SlowArgs) -> Result<Vec<Report>> {
    let progress = Progress::new(format!("slow {}", settings.target.name))?;
    let scanner = Scanner::new();
    let noisy = target::conversations(1, args.stalled + 1).remove(0);
    settings.target.create(std::slice::from_ref(&noisy)).await?;
    let noise = make_noise(&settings.target, &scanner, &noisy).await?;
    let before = others(settings, args, &progress).await?;
    let (memory, closed) = (process::resident_kib(&settings.pids)?, noise.is_finished());
    progress.say("stalling");
    let stalled = stall(&settings.target, &scanner, &noisy).await?;
    sleep(FILLING).await;
    let during = others(settings, args, &progress).await?;
    let grown = process::resident_kib(&settings.pids)?.saturating_sub(memory);
    let closed = closed || noise.is_finished();
    noise.abort();
    let reports = [("before", &before), ("with stalled", &during)]
        .map(|(name, outcome)| outcome.of_delivering(Report::new("slow", name).count("others", args.others as u64)));
    let p99 = |report: &Report| report.value("delivery_p99_ms").unwrap_or_default();
    let ratio = p99(&reports[1]) / p99(&reports[0]).max(f64::MIN_POSITIVE);
    let verdict = Report::new("slow", "verdict")
        .count("stalled", stalled.len() as u64)
        .number("delivery_p99_ratio", ratio, 3)
        .number("grown_mib", grown as f64 / 1_024.0, 1)
        .note("noise", closed.then_some("it ended by itself: the figures mean nothing"));
    Ok(reports.into_iter().chain([verdict]).collect())
}

/// What the others do: small conversations at a steady rate.
async fn others(settings: &Settings, args: &SlowArgs, progress: &Progress) -> Result<Outcome> {
    let (listeners, publishers) = (9, 1);
    let rooms = args.others.div_ceil(listeners + publishers).max(1);
    let rate = Some(args.rate);
    let shape = Shape { rooms, listeners, publishers, echo: true, window: 64, depth: 64, rate };
    let load = Load::open(&settings.target, &shape).await?;
    load.measure(settings.seconds, &settings.pids, progress).await
}

/// Connects everybody but the first, who publishes, and leaves them alone.
async fn stall(target: &Target, scanner: &Scanner, noisy: &Conversation) -> Result<Vec<Client>> {
    let connecting = noisy.users.iter().skip(1).enumerate().map(|(index, user)| async move {
        Client::connect_narrow(&target.endpoint(index, user, &noisy.id, None)?, scanner).await
    });
    stream::iter(connecting).buffered(CONNECTING).try_collect().await
}

/// Publishes large messages for as long as it is let.
async fn make_noise(target: &Target, scanner: &Scanner, noisy: &Conversation) -> Result<JoinHandle<Result<()>>> {
    let user = &noisy.users[0];
    let mut client = Client::connect(&target.endpoint(0, user, &noisy.id, None)?, scanner).await?;
    let unsubscribe = format!(r#"{{"type":"unsubscribe","conversation_id":"{}"}}"#, noisy.id);
    let text = "n".repeat(NOISE_BYTES);
    let message = format!(r#"{{"type":"text","conversation_id":"{}","content":"{text}"}}"#, noisy.id);
    client.push(unsubscribe.as_bytes());
    Ok(tokio::spawn(async move {
        let scanner = Scanner::new();
        loop {
            client.push(message.as_bytes());
            client.turn().await?; // at least until it is acknowledged
            client.drain(&scanner, |_, _| {})?;
            sleep(NOISE_EVERY).await;
        }
    }))
}
