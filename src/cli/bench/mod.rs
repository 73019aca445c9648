//! `everpost bench`: puts load on running servers and reports what they take.
//!
//! The generator speaks the public interface only, so it measures any deployment. It shares the machine with what it
//! measures more often than not, which is why it scans frames instead of parsing them and counts in batches. Absolute
//! rates depend on the machine and the minute; the ratio to a reference measured in the same run is what to compare.
//!
//! ```text
//! target ── makes conversations and tokens        reference ── an in-memory server as the ceiling
//!    │                                            raw ── what Redis, SQLite and Postgres take by themselves
//! load ── room ── member ── client ── wire          (publish, fanout, rooms, persist)
//!    │              └ voice, witness, tally       replay, idle, storm, slow ── loads of their own
//! outcome ── report
//! ```

mod child;
mod client;
mod fanout;
mod frame;
mod idle;
mod load;
mod member;
mod outcome;
mod persist;
mod process;
mod publish;
mod raw;
mod reference;
mod replay;
mod report;
mod room;
mod rooms;
mod scan;
mod slow;
mod storm;
mod tally;
mod target;
mod voice;
mod wire;
mod witness;

use anyhow::Result;
use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use target::{Socket, Target};

use crate::open_files;

/// What to measure and where.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Address of a server; clients spread over all that are given.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8080")]
    url: Vec<Url>,
    /// Length of the measured part, after a second of warm-up.
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Which socket clients open.
    #[arg(long, global = true, value_enum, default_value_t = Socket::User)]
    socket: Socket,
    /// Processes whose processor time and memory are reported.
    #[arg(long, global = true, value_delimiter = ',')]
    pids: Vec<u32>,
    /// One JSON object a line instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Many publishers, each in its own conversation: acknowledged messages a second.
    Publish(publish::PublishArgs),
    /// One conversation with many listeners: deliveries a second, latency, loss.
    Fanout(fanout::FanoutArgs),
    /// Many small conversations: deliveries a second, latency, loss.
    Rooms(rooms::RoomsArgs),
    /// Everybody reconnects at once and catches up.
    Replay(replay::ReplayArgs),
    /// Connections that do nothing: how fast they open and what memory they take.
    Idle(idle::IdleArgs),
    /// How fast published messages reach the database.
    Persist(persist::PersistArgs),
    /// A gateway is killed and everybody comes back to another one at once.
    Storm(storm::StormArgs),
    /// What others notice of clients that do not read, and what memory those take.
    Slow(slow::SlowArgs),
    /// The in-memory server the others compare with; prints its address and runs until its standard input closes.
    #[command(hide = true)]
    ReferenceServer,
}

/// What every bench is told.
struct Settings {
    target: Target,
    pids: Vec<u32>,
    seconds: u64,
}

/// What the generator presents to the servers it measures: the same settings the servers run with.
pub(super) struct Credentials {
    pub(super) api_key: SecretString,
    pub(super) token_secret: SecretString,
    /// Where the servers store events, if the bench is to look there.
    pub(super) database_url: Option<SecretString>,
}

/// Runs one bench and prints its report.
pub(super) async fn run(args: BenchArgs, credentials: Credentials) -> Result<()> {
    open_files::raise();
    let target = Target {
        name: "everpost",
        urls: args.url,
        api_key: Some(credentials.api_key.expose_secret().to_owned()),
        token_secret: Some(credentials.token_secret.expose_secret().to_owned()),
        socket: args.socket,
    };
    let settings = Settings { target, pids: args.pids, seconds: args.seconds };
    let reports = match args.bench {
        Bench::Publish(args) => publish::run(&settings, &args).await?,
        Bench::Fanout(args) => fanout::run(&settings, &args).await?,
        Bench::Rooms(args) => rooms::run(&settings, &args).await?,
        Bench::Replay(args) => replay::run(&settings, &args).await?,
        Bench::Idle(args) => idle::run(&settings, &args).await?,
        Bench::Persist(args) => persist::run(&settings, &args, credentials.database_url.as_ref()).await?,
        Bench::Storm(args) => storm::run(&settings, &args).await?,
        Bench::Slow(args) => slow::run(&settings, &args).await?,
        Bench::ReferenceServer => return reference::serve().await,
    };
    report::print(&reports, args.json);
    Ok(())
}
