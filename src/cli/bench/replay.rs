//! Everybody reconnects at once and catches up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Settings, child,
    client::Client,
    load::CONNECTING,
    outcome, process,
    report::{Progress, Report},
    room::Room,
    scan::{Event, Scanner},
    target::{self, Conversation, Socket, Target},
    voice::Voice,
    witness::{Faults, Witness},
};

/// What is compared with the reference.
const COMPARED: [&str; 3] = ["last_client_ms", "client_p50_ms", "cpu_seconds"];
/// A client that has not caught up by then has lost what it lacks.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client that has everything listens on, in case something comes twice.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Until the servers have noticed that everybody left.
const ABSENCE: Duration = Duration::from_secs(1);
/// Unanswered messages of a publisher.
const DEPTH: usize = 64;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Clients that leave and come back.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Conversations they spread over.
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Messages published to each conversation meanwhile.
    #[arg(long, default_value_t = 100)]
    missed: u64,
    /// Does the same with the built-in in-memory server first.
    #[arg(long)]
    reference: bool,
}

pub(super) async fn run(settings: &Settings, args: &ReplayArgs) -> Result<Vec<Report>> {
    child::compare(settings, args.reference, &COMPARED, async |settings| one(settings, args).await).await
}

/// A client that went away: where it will resume, and what it will find.
struct Absent {
    index: usize,
    user: String,
    room: String,
    resume: String,
    last: u64,
    goal: u64,
}

async fn one(settings: &Settings, args: &ReplayArgs) -> Result<Report> {
    let progress = Progress::new(format!("replay {}", settings.target.name))?;
    settings.target.check()?;
    let scanner = Arc::new(Scanner::new());
    let members = args.clients.div_ceil(args.rooms.max(1));
    let conversations = target::conversations(args.rooms.max(1), members + 1);
    settings.target.create(&conversations).await?;
    progress.say("connecting");
    let mut absent = visit(&settings.target, &scanner, &conversations).await?;
    progress.say("publishing what they miss");
    publish(&settings.target, &scanner, &conversations, args.missed, &mut absent).await?;
    sleep(ABSENCE).await;
    progress.say("reconnecting");
    let cpu = process::cpu_seconds(&settings.pids)?;
    let storm = storm(&settings.target, &scanner, absent).await?;
    let cpu = process::cpu_seconds(&settings.pids)? - cpu;
    let report = storm.report(Report::new("replay", settings.target.name).count("conversations", args.rooms as u64));
    Ok(if settings.pids.is_empty() { report } else { report.number("cpu_seconds", cpu, 2) })
}

/// Connects every client, lets it see one message, and notes where it stands.
async fn visit(target: &Target, scanner: &Scanner, rooms: &[Conversation]) -> Result<Vec<Absent>> {
    let seats = rooms.iter().flat_map(|room| room.users.iter().skip(1).map(move |user| (user, room)));
    let connecting = seats.enumerate().map(|(index, (user, room))| async move {
        let client = Client::connect(&target.endpoint(index, user, &room.id, None)?, scanner).await?;
        let (user, room, resume) = (user.clone(), room.id.clone(), String::new());
        Ok::<_, anyhow::Error>((client, Absent { index, user, room, resume, last: 0, goal: 0 }))
    });
    let clients: Vec<_> = stream::iter(connecting).buffered(CONNECTING).try_collect().await?;
    for room in rooms {
        say(target, scanner, room, 1).await?;
    }
    let seeing = clients.into_iter().map(|(client, absent)| see_one(target.socket, scanner, client, absent));
    stream::iter(seeing).buffer_unordered(CONNECTING).try_collect().await
}

async fn see_one(socket: Socket, scanner: &Scanner, mut client: Client, mut absent: Absent) -> Result<Absent> {
    let seeing = async {
        while absent.last == 0 {
            client.drain(scanner, |event, frame| {
                if event == Event::NewMessage && absent.last == 0 {
                    absent.last = scanner.seq(frame).unwrap_or_default();
                    absent.resume = String::from_utf8_lossy(scanner.cursor(frame).unwrap_or_default()).into_owned();
                }
            })?;
            if absent.last == 0 {
                client.turn().await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(PATIENCE, seeing).await.context("the first message never came")??;
    if socket == Socket::Conversation {
        absent.resume = absent.last.to_string();
    }
    Ok(absent)
}

/// Publishes to every conversation while nobody is there.
async fn publish(
    target: &Target,
    scanner: &Scanner,
    rooms: &[Conversation],
    missed: u64,
    absent: &mut [Absent],
) -> Result<()> {
    for room in rooms {
        let goal = say(target, scanner, room, missed).await?;
        absent.iter_mut().filter(|client| client.room == room.id).for_each(|client| client.goal = goal);
    }
    Ok(())
}

/// Publishes `count` messages as the first user of a conversation and returns the last one's number.
pub(super) async fn say(target: &Target, scanner: &Scanner, room: &Conversation, count: u64) -> Result<u64> {
    let user = room.users.first().context("a conversation without users")?;
    let mut client = Client::connect(&target.endpoint(0, user, &room.id, None)?, scanner).await?;
    let mut voice = Voice::new(&room.id, target.socket, DEPTH, None);
    let window = Room::new(room.id.clone(), 0, DEPTH as u64);
    let (mut sent, mut answered, mut last, mut refusal) = (0, 0, 0, None);
    let saying = async {
        while answered < count && refusal.is_none() {
            while sent < count && voice.may_speak(&window, 0) {
                client.push(voice.speak(0));
                sent += 1;
            }
            client.turn().await?;
            client.drain(scanner, |event, frame| match event {
                Event::Ack => {
                    voice.answered(scanner.id(frame).unwrap_or_default());
                    (answered, last) = (answered + 1, last.max(scanner.seq(frame).unwrap_or_default()));
                }
                Event::Error => refusal = Some(String::from_utf8_lossy(frame).into_owned()),
                _ => {}
            })?;
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(PATIENCE, saying).await.context("the messages were not acknowledged")??;
    match refusal {
        Some(refusal) => bail!("a message was refused: {refusal}"),
        None => Ok(last),
    }
}

/// How the reconnecting went.
struct Storm {
    clients: u64,
    times: Histogram<u64>,
    faults: Faults,
    failed: u64,
    first_failure: Option<String>,
}

impl Storm {
    fn report(&self, report: Report) -> Report {
        let names = ["client_p50_ms", "client_p99_ms", "last_client_ms"];
        outcome::latencies(report.count("clients", self.clients), names, &self.times)
            .count("lost", self.faults.lost)
            .count("twice", self.faults.twice)
            .count("out_of_order", self.faults.disordered)
            .count("failed", self.failed)
            .note("first_failure", self.first_failure.as_deref())
    }

    fn count(&mut self, comeback: Comeback) {
        self.times.saturating_record(comeback.time.as_nanos() as u64);
        self.faults += comeback.faults;
        if let Some(failure) = comeback.failure {
            self.failed += 1;
            self.first_failure.get_or_insert(failure);
        }
    }
}

struct Comeback {
    time: Duration,
    faults: Faults,
    failure: Option<String>,
}

async fn storm(target: &Target, scanner: &Arc<Scanner>, absent: Vec<Absent>) -> Result<Storm> {
    let times = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?;
    let (faults, first_failure) = (Faults::default(), None);
    let mut storm = Storm { clients: absent.len() as u64, times, faults, failed: 0, first_failure };
    let mut tasks = JoinSet::new();
    let resumes = absent.into_iter().map(|client| {
        let endpoint = target.endpoint(client.index, &client.user, &client.room, Some(&client.resume))?;
        Ok((endpoint, client))
    });
    let resumes = resumes.collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    for (endpoint, client) in resumes {
        let scanner = Arc::clone(scanner);
        tasks.spawn(async move {
            let mut witness = Witness::resuming_after(client.last);
            let mut time = None;
            let back = come_back(&endpoint, &scanner, client.goal, &mut witness, || time = Some(started.elapsed()));
            let failure = match timeout(PATIENCE, back).await {
                Ok(back) => back.err().map(|error| format!("{error:#}")),
                Err(_) => Some("did not catch up in time".to_owned()),
            };
            let faults = witness.faults(client.last + 1, client.goal);
            Comeback { time: time.unwrap_or(started.elapsed()), faults, failure }
        });
    }
    while let Some(comeback) = tasks.join_next().await {
        storm.count(comeback?);
    }
    Ok(storm)
}

/// Reads until everything missed is there, says so, and listens on for a moment.
async fn come_back(
    endpoint: &target::Endpoint,
    scanner: &Scanner,
    goal: u64,
    witness: &mut Witness,
    complete: impl FnOnce(),
) -> Result<()> {
    let mut client = Client::connect(endpoint, scanner).await?;
    while !witness.has_everything(goal) {
        client.drain(scanner, |_, frame| scanner.seq(frame).into_iter().for_each(|seq| witness.see(seq)))?;
        if !witness.has_everything(goal) {
            client.turn().await?;
        }
    }
    complete();
    let listening = async {
        loop {
            client.turn().await?;
            client.drain(scanner, |_, frame| scanner.seq(frame).into_iter().for_each(|seq| witness.see(seq)))?;
        }
    };
    timeout(AFTERWARDS, listening).await.unwrap_or(Ok(()))
}
