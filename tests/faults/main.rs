//! The fault suite: real processes, a Redis and a Postgres of their own, load from clients with an outbox, one fault
//! after another, and a checker that reads what everybody saw.
//!
//! Without arguments it runs the short selection; `cargo test --test faults -- --all` runs the whole matrix and writes
//! docs/reliability.md; `--list` shows what there is.

#[allow(dead_code, unused_imports, unused_macros, reason = "the other test executable uses the rest of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod arguments;
mod clients;
mod disks;
mod embedded;
mod network;
mod pressure;
mod processes;
mod recovery;
mod refused;
mod report;
mod scenario;
mod sentry;
mod servers;
mod stage;
mod storage;
mod table;
mod takeover;

use std::process::ExitCode;

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

use self::{
    arguments::{Arguments, Task},
    report::{Line, Verdict},
    scenario::{Outcome, Plan, Scenario},
};

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if arguments.task == Task::List {
        report::list();
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads start");
    let lines = runtime.block_on(run(&arguments));
    report::summarise(&lines);
    if arguments.writes {
        report::write(&lines);
    }
    if lines.iter().any(Line::is_broken) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn run(arguments: &Arguments) -> Vec<Line> {
    let chosen: Vec<&Scenario> = table::SCENARIOS.iter().filter(|scenario| arguments.wants(scenario)).collect();
    let progress = ProgressBar::new(chosen.len() as u64);
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {msg}").expect("a sound template");
    progress.set_style(style);
    let playing = chosen.into_iter().map(|scenario| {
        let (plan, progress) = (arguments.plan(scenario), progress.clone());
        async move {
            progress.set_message(format!("{} (seed {})", scenario.name, plan.seed));
            let line = Line { scenario, seed: plan.seed, verdict: play(scenario, plan, arguments).await };
            progress.suspend(|| eprintln!("{line}"));
            progress.inc(1);
            line
        }
    });
    let lines = futures_util::stream::iter(playing).buffer_unordered(arguments.jobs()).collect().await;
    progress.finish_and_clear();
    lines
}

async fn play(scenario: &'static Scenario, plan: Plan, arguments: &Arguments) -> Verdict {
    if let Some(reason) = scenario.pending.filter(|_| !arguments.includes_pending(scenario)) {
        return Verdict::Pending(reason);
    }
    Verdict::Played(alone(scenario, plan).await.unwrap_or_else(Outcome::broken))
}

/// Plays on a thread of its own: whatever breaks there is a result, and what a scenario does without awaiting, such as
/// setting up a database, does not keep the clocks of the others from running.
async fn alone(scenario: &'static Scenario, plan: Plan) -> Result<Outcome, String> {
    let (told, outcome) = oneshot::channel();
    let stage = std::thread::Builder::new().name(scenario.name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("threads start");
        let played = LocalSet::new().block_on(&runtime, async { spawn_local((scenario.run)(plan)).await });
        runtime.shutdown_background();
        let _ = told.send(played.map_err(stage::message_of)); // whoever asked waits for it
    });
    stage.expect("threads start");
    outcome.await.unwrap_or_else(|_| Err("its thread ended before it".to_owned()))
}
