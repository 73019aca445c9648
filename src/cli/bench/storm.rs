//! A gateway is killed, and everybody who was connected to it comes back at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Settings,
    client::Client,
    load::CONNECTING,
    outcome, process,
    replay::say,
    report::{Progress, Report},
    scan::Scanner,
    target::{self, Conversation, Target},
    witness::{Faults, Witness},
};

/// A client that has not caught up by then has lost what it lacks.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a client that has everything listens on, in case something comes twice.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// Members of each conversation.
const MEMBERS: usize = 50;
/// Publishers at work at a time.
const PUBLISHERS: usize = 8;
/// The ceilings of a client's random delays, as the client of the chat page has them.
const DELAYS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(5));

#[derive(Debug, Args)]
pub(super) struct StormArgs {
    /// Clients that are cut off and come back.
    #[arg(long, default_value_t = 5_000)]
    clients: usize,
    /// Messages published to each conversation while they are away.
    #[arg(long, default_value_t = 20)]
    missed: u64,
    /// The process to end with SIGKILL: the gateway at the last `--url`, where everybody is connected. They come back to
    /// the others. Without it the clients hang up by themselves.
    #[arg(long)]
    kill: Option<i32>,
}

pub(super) async fn run(settings: &Settings, args: &StormArgs) -> Result<Vec<Report>> {
    let progress = Progress::new(format!("storm {}", settings.target.name))?;
    settings.target.check()?;
    let (doomed, refuge) = sides(&settings.target, args.kill)?;
    let scanner = Arc::new(Scanner::new());
    let conversations = target::conversations(args.clients.div_ceil(MEMBERS), MEMBERS + 1);
    settings.target.create(&conversations).await?;
    progress.say("connecting");
    let crowd = gather(&doomed, &scanner, &conversations, args.clients).await?;
    for room in &conversations {
        say(&refuge, &scanner, room, 1).await?;
    }
    progress.say("waiting until everybody has seen something");
    let goal = 1 + args.missed;
    let crowd = stream::iter(crowd.into_iter().map(|client| client.settle(&scanner)));
    let crowd: Vec<Member> = crowd.buffer_unordered(CONNECTING).try_collect().await?;
    progress.say("everybody comes back");
    let survivors = settings.pids.iter().copied().filter(|pid| args.kill.is_none_or(|killed| *pid as i32 != killed));
    let survivors: Vec<u32> = survivors.collect();
    let cpu = process::cpu_seconds(&survivors)?;
    let publish = async || {
        let saying = conversations.iter().map(|room| say(&refuge, &scanner, room, args.missed));
        stream::iter(saying).buffer_unordered(PUBLISHERS).try_for_each(|_| async { Ok(()) }).await
    };
    let storm = storm(&refuge, &scanner, crowd, goal, args.kill, publish).await?;
    let cpu = process::cpu_seconds(&survivors)? - cpu;
    let report = storm.report(Report::new("storm", settings.target.name));
    Ok(vec![if survivors.is_empty() { report } else { report.number("cpu_seconds", cpu, 2) }])
}

/// Where everybody is at first, and where they come back to.
fn sides(target: &Target, kill: Option<i32>) -> Result<(Target, Target)> {
    let (mut doomed, mut refuge) = (target.clone(), target.clone());
    if kill.is_some() {
        let last = refuge.urls.pop().context("no address")?;
        if refuge.urls.is_empty() {
            bail!("--kill needs a second --url for the clients to come back to");
        }
        doomed.urls = vec![last];
    }
    Ok((doomed, refuge))
}

/// One client: where it listens, and what it has.
struct Member {
    index: usize,
    user: String,
    room: String,
    client: Option<Client>,
    cursor: String,
    witness: Witness,
    /// How often it was sent away or cut off since the storm began.
    turned_away: u64,
}

async fn gather(
    target: &Target,
    scanner: &Scanner,
    conversations: &[Conversation],
    clients: usize,
) -> Result<Vec<Member>> {
    let seats = conversations.iter().flat_map(|room| room.users.iter().skip(1).map(move |user| (user, room)));
    let connecting = seats.take(clients).enumerate().map(|(index, (user, room))| async move {
        let client = Client::connect(&target.endpoint(index, user, &room.id, None)?, scanner).await?;
        let (user, room) = (user.clone(), room.id.clone());
        let (cursor, witness) = (String::new(), Witness::default());
        Ok::<_, anyhow::Error>(Member { index, user, room, client: Some(client), cursor, witness, turned_away: 0 })
    });
    stream::iter(connecting).buffered(CONNECTING).try_collect().await
}

impl Member {
    /// Sees the first message, from whose cursor it will go on.
    async fn settle(mut self, scanner: &Scanner) -> Result<Self> {
        timeout(PATIENCE, self.read(scanner, 1)).await.context("the first message never came")??;
        Ok(self)
    }

    /// Reads until everything up to `goal` is there.
    async fn read(&mut self, scanner: &Scanner, goal: u64) -> Result<()> {
        let Self { client, cursor, witness, .. } = self;
        let client = client.as_mut().context("not connected")?;
        loop {
            client.drain(scanner, |_, frame| {
                if let Some(seq) = scanner.seq(frame) {
                    witness.see(seq);
                    let at = scanner.cursor(frame).unwrap_or_default();
                    *cursor = String::from_utf8_lossy(at).into_owned();
                }
            })?;
            if witness.has_everything(goal) {
                return Ok(());
            }
            client.turn().await?;
        }
    }

    /// Comes back as often as it takes.
    async fn come_back(&mut self, target: &Target, scanner: &Scanner, goal: u64) -> Result<()> {
        for attempt in 0.. {
            match self.read(scanner, goal).await {
                Ok(()) => return Ok(()),
                Err(_) => self.client = None,
            }
            self.turned_away += u64::from(attempt > 0);
            sleep(delay(attempt)).await;
            let resume = Some(self.cursor.as_str());
            let endpoint = target.endpoint(self.index + attempt as usize, &self.user, &self.room, resume)?;
            self.client = Client::connect(&endpoint, scanner).await.ok();
        }
        Ok(())
    }
}

/// Full jitter under a ceiling that doubles.
fn delay(attempt: u32) -> Duration {
    let ceiling = DELAYS.0.saturating_mul(2_u32.saturating_pow(attempt)).min(DELAYS.1);
    ceiling.mul_f64(uuid::Uuid::new_v4().as_u128() as u32 as f64 / f64::from(u32::MAX))
}

/// How the reconnecting went.
struct Storm {
    clients: u64,
    times: Histogram<u64>,
    faults: Faults,
    failed: u64,
    turned_away: u64,
    first_failure: Option<String>,
}

impl Storm {
    fn report(&self, report: Report) -> Report {
        let names = ["client_p50_ms", "client_p99_ms", "last_client_ms"];
        outcome::latencies(report.count("clients", self.clients), names, &self.times)
            .count("turned_away", self.turned_away)
            .count("lost", self.faults.lost)
            .count("twice", self.faults.twice)
            .count("out_of_order", self.faults.disordered)
            .count("failed", self.failed)
            .note("first_failure", self.first_failure.as_deref())
    }
}

/// Cuts everybody off, publishes meanwhile, and waits until the last one has everything.
async fn storm(
    target: &Target,
    scanner: &Arc<Scanner>,
    crowd: Vec<Member>,
    goal: u64,
    kill: Option<i32>,
    publish: impl AsyncFnOnce() -> Result<()>,
) -> Result<Storm> {
    let times = Histogram::new_with_bounds(1_000, 300_000_000_000, 3)?;
    let (clients, faults) = (crowd.len() as u64, Faults::default());
    let mut storm = Storm { clients, times, faults, failed: 0, turned_away: 0, first_failure: None };
    let began = Instant::now();
    if let Some(pid) = kill {
        kill_process(Pid::from_raw(pid).context("not a process")?, Signal::KILL).context("killing the gateway")?;
    }
    let mut tasks = JoinSet::new();
    for mut member in crowd {
        if kill.is_none() {
            member.client = None;
        }
        let (target, scanner) = (target.clone(), Arc::clone(scanner));
        tasks.spawn(async move {
            let back = timeout(PATIENCE, member.come_back(&target, &scanner, goal)).await;
            let (time, back) = (began.elapsed(), back.context("did not catch up in time").and_then(|back| back));
            let _ = timeout(AFTERWARDS, member.read(&scanner, u64::MAX)).await; // whatever comes is counted
            (time, member.witness.faults(1, goal), member.turned_away, back)
        });
    }
    publish().await.context("publishing what they miss")?;
    while let Some(member) = tasks.join_next().await {
        let (time, faults, turned_away, back) = member?;
        storm.times.saturating_record(time.as_nanos() as u64);
        storm.faults += faults;
        storm.turned_away += turned_away;
        if let Err(failure) = back {
            storm.failed += 1;
            storm.first_failure.get_or_insert(format!("{failure:#}"));
        }
    }
    Ok(storm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_ceiling() {
        for (attempt, ceiling) in [(0, 300), (1, 600), (4, 4_800), (5, 5_000), (40, 5_000)] {
            assert!((0..100).all(|_| delay(attempt) <= Duration::from_millis(ceiling)));
        }
    }
}
