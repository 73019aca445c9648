//! The command line: which commands there are, and what their exit codes mean.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "commands talk to people and to pipes")]

mod bench;
mod client;
mod dead_letters;
mod doctor;
mod flags;
mod migrate;
mod publish;
mod run;
mod show_config;
mod status;
mod tail;
mod token;
mod welcome;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::flags::Flags;
use crate::config::ConfigError;

/// Exit code for settings that cannot be used, as `sysexits.h` has it.
const BAD_CONFIGURATION: u8 = 78;

/// A durable event processor for real-time applications.
///
/// Without a command it runs everything in one process, with its data in ./everpost-data.
#[derive(Debug, Parser)]
#[command(name = "everpost", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "Examples:
  everpost                                        everything in one process, nothing else to install
  everpost token --user alice                     a token for a client
  everpost publish demo 'hello'                   a message from the command line
  everpost gateway --redis-url redis://r --database-url postgres://p --token-secret …
  everpost worker --roles persist,fanout --redis-url redis://r --database-url postgres://p

Every flag can be set in the environment (EVERPOST_REDIS_URL) or in a file (--config); `everpost config` shows all.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every role in one process (the default)
    Serve,
    /// Serve clients: HTTP and WebSocket
    Gateway,
    /// Run worker roles: persist, fanout
    Worker(run::WorkerArgs),
    /// Bring the database schema up to date
    Migrate,
    /// Mint a token for a client
    Token(token::TokenArgs),
    /// Publish a message to a running server
    Publish(publish::PublishArgs),
    /// Follow what happens, one JSON frame a line
    Tail(tail::TailArgs),
    /// Look through events that were given up, put them back, or give them up for good
    DeadLetters(dead_letters::DeadLetterArgs),
    /// Show what is running and how far behind it is
    Status(status::StatusArgs),
    /// Print the settings in force, secrets masked
    Config,
    /// Put load on running servers and report what they take
    Bench(bench::BenchArgs),
    /// Check Redis, the database and the limits of this machine, and say what to change
    Doctor,
}

/// Runs the command of the process and returns its exit code.
pub fn main() -> ExitCode {
    let Cli { flags, command } = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("starting the runtime")),
    };
    let outcome = runtime.block_on(obey(&flags, command.unwrap_or(Command::Serve)));
    // Tasks that did not drain in time must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match outcome {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

async fn obey(flags: &Flags, command: Command) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Serve => run::serve(flags).await.map(done),
        Command::Gateway => run::gateway(flags).await.map(done),
        Command::Worker(args) => run::worker(flags, args).await.map(done),
        Command::Migrate => migrate::run(flags).await.map(done),
        Command::Token(args) => token::run(flags, &args).map(done),
        Command::Publish(args) => publish::run(flags, args).await.map(done),
        Command::Tail(args) => tail::run(flags, args).await.map(done),
        Command::DeadLetters(args) => dead_letters::run(flags, args).await.map(done),
        Command::Status(args) => status::run(flags, args).await.map(done),
        Command::Config => show_config::run(flags).map(done),
        Command::Bench(args) => {
            let settings = flags.settings()?;
            let (api_key, token_secret) = (settings.api_key()?, settings.token_secret()?);
            let credentials = bench::Credentials { api_key, token_secret, database_url: settings.database_url };
            bench::run(args, credentials).await.map(done)
        }
        Command::Doctor => doctor::run(flags).await,
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("everpost: {}", explain(error));
    let is_configuration = error.chain().any(|cause| cause.is::<ConfigError>());
    if is_configuration { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::FAILURE }
}

/// The error and its causes in one line. Many libraries say of an error what its cause says; once is enough.
fn explain(error: &anyhow::Error) -> String {
    let mut words: Vec<String> = error.chain().map(ToString::to_string).collect();
    words.dedup_by(|cause, effect| effect.ends_with(cause.as_str()));
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn a_cause_that_says_nothing_new_is_left_out() {
        let refused = || std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        let error = anyhow::Error::from(refused()).context("trying: refused").context("opening");
        assert_eq!(super::explain(&error), "opening: trying: refused");
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
