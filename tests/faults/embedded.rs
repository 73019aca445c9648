//! The one process with its files.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    disks::Volume,
    harness::{
        process::{Everpost, serve_with},
        witness::{Keep, Load, Witness},
    },
    scenario::{Outcome, Plan},
    stage::{SETTINGS, examine, judge},
};

const LOAD: Load = Load { keep: Keep::Either, silence: Duration::from_secs(6), restless: 900, ..Load::SMALL };

/// A process with a load on it.
struct Alone {
    process: Everpost,
    witness: Witness,
    outcome: Outcome,
    database: String,
    began: Instant,
}

impl Alone {
    async fn start(data_dir: Option<&str>) -> Self {
        let mut environment = SETTINGS.to_vec();
        environment.extend(data_dir.map(|folder| ("EVERPOST_DATA_DIR", folder)));
        let process = serve_with(&environment).await;
        let own = process.folder().join("everpost-data");
        let folder = data_dir.map_or_else(|| own.to_str().expect("a plain name").to_owned(), str::to_owned);
        let witness = Witness::start_with(&[process.address()], LOAD).await;
        witness.more(200).await;
        let (outcome, database) = (Outcome::default(), format!("sqlite://{folder}/store.db"));
        Self { process, witness, outcome, database, began: Instant::now() }
    }

    async fn recovers(&mut self, moment: Instant, limit: Duration) {
        self.outcome.rounds += 1;
        let taken = self.witness.recovers(moment, limit * 3).await;
        let what = format!("recovery {}", self.witness.lacking(moment));
        self.outcome.bound(what.trim_end(), taken, limit);
        self.outcome.recoveries.extend(taken);
    }

    async fn finish(self) -> Outcome {
        let Self { process, witness, mut outcome, database, began } = self;
        let (transcript, violations) = witness.finish(&database).await;
        outcome.events = transcript.sent.len();
        outcome.violations.extend(violations);
        examine(&mut outcome, &process, began.elapsed());
        judge(&outcome, std::iter::once(&process));
        outcome
    }
}

/// At any moment, also in the middle of a commit.
pub(crate) async fn process_is_killed(mut plan: Plan) -> Outcome {
    let mut stage = Alone::start(None).await;
    for _ in 0..plan.rounds {
        sleep(plan.millis(20..400)).await;
        stage.process.kill();
        stage.process.restart().await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(10))).await;
    }
    stage.finish().await
}

/// Nothing is accepted that cannot be written.
pub(crate) async fn disk_is_full(plan: Plan) -> Outcome {
    let volume = Volume::mount(48);
    let mut stage = Alone::start(Some(volume.folder().to_str().expect("a plain name"))).await;
    for _ in 0..plan.rounds {
        let before = put_off(&stage.witness);
        volume.fill();
        let full = Instant::now();
        while put_off(&stage.witness) == before && stage.process.runs() && full.elapsed() < Duration::from_secs(30) {
            sleep(Duration::from_millis(50)).await;
        }
        let told = put_off(&stage.witness) > before || !stage.process.runs();
        stage.outcome.expect("publishers are told that nothing can be written", told);
        sleep(plan.seconds(2, 5)).await;
        volume.free();
        if !stage.process.runs() {
            stage.process.restart().await;
        }
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(10))).await;
    }
    stage.finish().await
}

fn put_off(witness: &Witness) -> usize {
    ["unavailable", "overloaded", "internal"].into_iter().map(|code| witness.deferred(code)).sum()
}
