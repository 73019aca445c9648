//! Disks that are full or slow.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    harness::{eventually::within, postgres::PostgresServer, redis::RedisServer},
    scenario::{Outcome, Plan},
    stage::{Setup, Stage},
    storage::STEADY,
};

/// Delays every flush while the file it is told of says for how many milliseconds.
const SLOW_DISK: &str = include_str!("slow_disk.c");

/// A small file system of its own, gone with this value.
pub(crate) struct Volume {
    folder: PathBuf,
}

impl Volume {
    pub(crate) fn mount(mebibytes: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("everpost-volume").tempdir().expect("a folder").keep();
        let size = format!("size={mebibytes}m,mode=0777");
        let path = folder.to_str().expect("a plain name");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs", path]).status();
        assert!(mounted.expect("mount is there").success(), "a small file system needs root");
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves no room, until the file is removed.
    pub(crate) fn fill(&self) {
        // It ends with an error when the disk is full, which is what it is for.
        let of = format!("of={}", self.filler().display());
        let _ = Command::new("dd").args(["if=/dev/zero", &of, "bs=4k"]).output().expect("dd is there");
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let path = self.folder.to_str().expect("a plain name");
        let _ = Command::new("umount").args(["-l", path]).status(); // it is in memory; the next boot forgets it
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A flush takes half a second, then nothing out of the ordinary again.
pub(crate) async fn disk_under_redis_is_slow(plan: Plan) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let delay = folder.path().join("delay");
    let library = compile(folder.path());
    let prefix = ["env".to_owned(), format!("LD_PRELOAD={}", library.display()), delay_from(&delay)];
    let redis = RedisServer::start_in(redis_folder, &prefix).await;
    let mut stage = Stage::start(Setup { redis: Some(redis), ..Setup::default() }).await;
    let rate = |stage: &Stage, since: Instant, acked: usize| {
        (stage.witness.acked() - acked) as f64 / since.elapsed().as_secs_f64()
    };
    for _ in 0..plan.rounds {
        fs::write(&delay, "500").expect("the folder is writable");
        let (moment, acked) = (Instant::now(), stage.witness.acked());
        sleep(plan.seconds(10, 30)).await;
        let slow = rate(&stage, moment, acked);
        let now = Instant::now();
        let latency = stage.witness.pulse().latency(moment, now, 0.5);
        stage.outcome.notes.push(format!("{slow:.0} acks/s, p50 {latency:.1?} while each flush took 500 ms"));
        stage.outcome.expect("publishing goes on with each flush", slow > 5.0);
        fs::remove_file(&delay).expect("it was written");
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(15))).await;
    }
    let moved =
        stage.cluster.workers.iter().map(|worker| worker.log().matches("were taken over").count()).sum::<usize>();
    stage.outcome.at_most("times a lease was lost", moved as u64, 2 * plan.rounds as u64);
    stage.finish().await
}

fn redis_folder() -> PathBuf {
    tempfile::Builder::new().prefix("everpost-redis").tempdir().expect("a folder").keep()
}

fn delay_from(file: &Path) -> String {
    format!("SLOW_DISK={}", file.display())
}

fn compile(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("slow_disk.c"), folder.join("slow_disk.so"));
    fs::write(&source, SLOW_DISK).expect("the folder is writable");
    let words = [Path::new("-shared"), Path::new("-fPIC"), Path::new("-o"), &library, &source, Path::new("-ldl")];
    let compiled = Command::new("cc").args(words).status().expect("a C compiler is there");
    assert!(compiled.success(), "it compiles");
    library
}

/// With `appendfsync always` Redis ends when it cannot write; it is started again when there is room.
pub(crate) async fn disk_under_redis_is_full(plan: Plan) -> Outcome {
    let volume = Volume::mount(64);
    let redis = RedisServer::start_in(|| subfolder(&volume, "redis"), &[]).await;
    let mut stage = Stage::start(Setup { redis: Some(redis), ..Setup::default() }).await;
    for _ in 0..plan.rounds {
        let before = stage.witness.deferred("unavailable");
        volume.fill();
        within(Duration::from_secs(30), "Redis gives up", async || stage.cluster.redis.has_ended()).await;
        within(Duration::from_secs(30), "publishers are told", async || stage.witness.deferred("unavailable") > before)
            .await;
        volume.free();
        stage.cluster.redis.restart().await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(10))).await;
    }
    stage.finish().await
}

/// Postgres cannot write; publishing and delivery go on.
pub(crate) async fn disk_under_postgres_is_full(plan: Plan) -> Outcome {
    let volume = Volume::mount(256);
    let postgres = PostgresServer::start_in(|| subfolder(&volume, "postgres")).await;
    let mut stage = Stage::start(Setup { load: STEADY, postgres: Some(postgres), ..Setup::default() }).await;
    for _ in 0..plan.rounds {
        volume.fill();
        // Until the room it had set aside is used up, it goes on.
        sleep(plan.seconds(5, 20)).await;
        let served = stage.witness.serves(Instant::now(), Duration::from_secs(15)).await;
        stage.outcome.bound("publishing and delivery", served, plan.within(Duration::from_secs(3)));
        volume.free();
        stage.postgres.as_mut().expect("its own").revive().await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(30))).await;
    }
    stage.finish().await
}

fn subfolder(volume: &Volume, name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(name).tempdir_in(volume.folder()).expect("there is room").keep()
}
