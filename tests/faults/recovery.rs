//! Redis comes back with less than it had.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    harness::witness::{Keep, Load},
    scenario::{Outcome, Plan},
    sentry::PARTITIONS,
    stage::{Setup, Stage},
};

const RECOVERED: Duration = Duration::from_secs(5);
/// The log forgets what was not stored; senders keep it until it is.
const FORGETTING: Load = Load { keep: Keep::UntilStored, renumbers: true, tombstones: true, ..Load::WIDE };

async fn forgetting() -> Stage {
    Stage::start(Setup { load: FORGETTING, ..Setup::default() }).await
}

/// Everything is gone under load, and comes back from the database and from those who sent it.
pub(crate) async fn everything_is_flushed(mut plan: Plan) -> Outcome {
    let mut stage = forgetting().await;
    for _ in 0..plan.rounds {
        sleep(plan.millis(500..2_000)).await;
        let moment = Instant::now();
        let _: Option<String> = stage.cluster.redis.ask(&["FLUSHALL"]).await;
        stage.recovers(moment, plan.within(RECOVERED)).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

fn note_resets(stage: &mut Stage) {
    let resets = stage.witness.resets();
    stage.outcome.notes.push(format!("{resets} resets"));
}

/// An empty server answers at the old address.
pub(crate) async fn redis_comes_back_empty(plan: Plan) -> Outcome {
    let mut stage = forgetting().await;
    for _ in 0..plan.rounds {
        stage.cluster.redis.kill();
        let _ = fs::remove_dir_all(files(&stage)); // what is gone already need not be removed
        stage.cluster.redis.restart().await;
        stage.recovers(Instant::now(), plan.within(RECOVERED)).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

/// It is two seconds younger than what was acknowledged.
pub(crate) async fn redis_comes_back_older(plan: Plan) -> Outcome {
    let mut stage = forgetting().await;
    for _ in 0..plan.rounds {
        let copy = files(&stage).with_extension("copy");
        let _ = fs::remove_dir_all(&copy); // there is none in the first round
        copy_files(&files(&stage), &copy);
        sleep(Duration::from_secs(2)).await;
        stage.cluster.redis.kill();
        fs::remove_dir_all(files(&stage)).expect("they are there");
        fs::rename(&copy, files(&stage)).expect("the copy is there");
        stage.cluster.redis.restart().await;
        stage.recovers(Instant::now(), plan.within(RECOVERED)).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

/// The last entries on its disk are garbage, and its own tool cuts them off.
pub(crate) async fn the_tail_is_corrupt(plan: Plan) -> Outcome {
    let mut stage = forgetting().await;
    for _ in 0..plan.rounds {
        stage.cluster.redis.kill();
        flip_the_end(&files(&stage));
        repair(&files(&stage));
        stage.cluster.redis.restart().await;
        stage.recovers(Instant::now(), plan.within(RECOVERED)).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

/// A group forgets where it was.
pub(crate) async fn a_group_is_destroyed(plan: Plan) -> Outcome {
    let mut stage = forgetting().await;
    for role in ["persist", "fanout"].into_iter().cycle().take(plan.rounds) {
        let moment = Instant::now();
        for partition in 0..PARTITIONS {
            let log = format!("everpost:{{{partition}}}:log");
            let _: Option<i64> = stage.cluster.redis.ask(&["XGROUP", "DESTROY", &log, role]).await;
        }
        stage.recovers(moment, plan.within(Duration::from_secs(10))).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

/// Entries that are not stored yet vanish, one of each partition.
pub(crate) async fn entries_are_deleted(plan: Plan) -> Outcome {
    // Everything keeps its number; tombstones stand where something vanished.
    let load = Load { tombstones: true, restless: 0, ..Load::WIDE };
    let mut stage = Stage::start(Setup { load, own_postgres: true, ..Setup::default() }).await;
    for _ in 0..plan.rounds {
        stage.postgres.as_mut().expect("its own").kill();
        sleep(Duration::from_secs(3)).await;
        let mut deleted = 0;
        for partition in 0..PARTITIONS {
            deleted += delete_unstored(&stage, partition).await;
        }
        stage.outcome.expect("there are entries to delete", deleted > 0);
        stage.postgres.as_mut().expect("its own").restart().await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(15))).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

/// Removes the last entry but one.
async fn delete_unstored(stage: &Stage, partition: u16) -> i64 {
    let log = format!("everpost:{{{partition}}}:log");
    type Entries = Vec<(String, Vec<String>)>;
    let last: Entries = stage.cluster.redis.ask(&["XREVRANGE", &log, "+", "-", "COUNT", "2"]).await.unwrap_or_default();
    let Some((id, _)) = last.get(1) else { return 0 };
    stage.cluster.redis.ask(&["XDEL", &log, id]).await.unwrap_or_default()
}

/// Keys vanish one by one while everything else stays.
pub(crate) async fn keys_are_deleted(plan: Plan) -> Outcome {
    let mut stage = forgetting().await;
    let kinds = ["meta", "tops", "identities:new", "log", "lease:persist", "interest"];
    for kind in kinds.into_iter().cycle().skip(plan.seed as usize % kinds.len()).take(plan.rounds * 2) {
        let moment = Instant::now();
        for partition in 0..PARTITIONS {
            let key = format!("everpost:{{{partition}}}:{kind}");
            let _: Option<i64> = stage.cluster.redis.ask(&["DEL", &key]).await;
        }
        stage.recovers(moment, plan.within(Duration::from_secs(12))).await;
    }
    note_resets(&mut stage);
    stage.finish().await
}

/// The folder of the append-only file.
fn files(stage: &Stage) -> PathBuf {
    stage.cluster.redis.folder().join("appendonlydir")
}

/// Each file as far as it goes at that moment; what is cut off at the end is what a crash would have lost.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the folder is writable");
    for entry in fs::read_dir(from).expect("Redis writes there") {
        let entry = entry.expect("it is readable");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("there is room");
    }
}

fn flip_the_end(folder: &Path) {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("Redis wrote there").flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".incr.aof"));
    files.sort();
    let file = files.last().expect("there are increments");
    let mut bytes = fs::read(file).expect("it is readable");
    let from = bytes.len().saturating_sub(2_000);
    bytes[from..].iter_mut().step_by(7).for_each(|byte| *byte ^= 0x5a);
    fs::write(file, bytes).expect("it is writable");
}

fn repair(folder: &Path) {
    let manifest = folder.join("appendonly.aof.manifest");
    let mut command = Command::new("redis-check-aof");
    command.arg("--fix").arg(manifest).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut check = command.spawn().expect("redis-check-aof comes with Redis");
    check.stdin.take().expect("it is piped").write_all(b"y\ny\n").expect("it asks");
    assert!(check.wait().expect("it ends").success(), "the file can be repaired");
}
