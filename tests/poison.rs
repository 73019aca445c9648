//! One bad event among many: it is found, given up and kept, and everything else is stored as if it had not been there.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use everpost_core::{
    event::{Draft, Record},
    lease::{Lease, Leases},
    log::{Batch, Durability, Follower, Log, LogError, sqlite::SqliteLog},
    position::Position,
    recovery::Recovery,
    relay::local::LocalRelay,
    role::Role,
    roster::local::LocalRoster,
    store::{DeadLetter, DeadLetters, Decision, Redriven, Sieve},
};
use everpost_workers::{Held, Ownership, Persist, Ports, Step, StepError, Worker, WorkerMetrics, drive};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    conformance::{
        log::drafts::{append, begin, draft, drafts, record},
        store::{on_every_store, records::all, stage::Stage},
    },
    harness::{
        eventually::{eventually, within},
        troubled::{Trouble, Troubled},
    },
};

/// A log with one room, a store that can have trouble, and what works between them.
struct Scene {
    stage: Stage,
    store: Arc<Troubled>,
    log: SqliteLog,
    ports: Ports,
    _folder: TempDir,
}

impl Scene {
    async fn new(stage: Stage) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = SqliteLog::open(&folder.path().join("log.db"), Durability::Fsync).await.expect("the file opens");
        let store = Troubled::new(stage.shared());
        let port = Arc::new(log.clone());
        let (relay, roster) = (Arc::new(LocalRelay::new()), Arc::new(LocalRoster::new()));
        let recovery = Recovery::open(port.clone(), store.clone()).await.expect("nothing to mend");
        let ports = Ports { log: port.clone(), leases: port, relay, roster, store: store.clone(), recovery };
        begin(&log, &["general"]).await;
        Self { stage, store, log, ports, _folder: folder }
    }

    async fn own(&self) -> (Ownership, Held) {
        let (mut ownership, held) = Ownership::new(Role::Persist, self.ports.leases.clone(), self.log.partitions());
        ownership.step().await.expect("the log answers");
        (ownership, held)
    }

    /// A worker that keeps its lease until the guard is dropped, as if its process was gone.
    async fn worker(&self) -> (AbortOnDropHandle<()>, Persist) {
        let (mut ownership, held) = self.own().await;
        let keeping = tokio::spawn(async move { ownership.keep(CancellationToken::new()).await });
        let follower = self.log.follow(Role::Persist).await.expect("the log answers");
        (AbortOnDropHandle::new(keeping), Persist::new(follower, held, self.ports.clone()))
    }

    /// Appends drafts and returns the records that must be stored in the end.
    async fn publish(&self, drafts: &[Draft]) -> Vec<Record> {
        let answers = append(&self.log, drafts).await;
        drafts.iter().zip(&answers).map(|(draft, answer)| record(draft, answer)).collect()
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        self.store.dead_letters(&Sieve::default(), None, 100).await.expect("readable")
    }

    /// What is stored, and for each tombstone the letter it names.
    async fn stored(&self) -> Vec<Record> {
        all(&*self.stage, "general").await
    }

    /// Makes the lease free, without the worker's knowledge, as a log does after long silence.
    async fn free_the_lease(&self) {
        let view = self.log.view(Role::Persist).await.expect("readable")[0].clone();
        let partition = everpost_core::partition::Partition(0);
        self.log.release(&Lease { role: Role::Persist, partition, token: view.token }).await.expect("it answers");
    }
}

/// A message with a text the case can look for.
fn saying(text: &str) -> Draft {
    Draft { data: format!(r#"{{"content":{{"text":"{text}"}}}}"#).into(), ..draft("general") }
}

fn decision() -> Decision {
    Decision { by: "ann".to_owned(), why: String::new(), at_ms: 1 }
}

async fn drain(worker: &mut Persist) {
    while worker.step().await.expect("it succeeds") != Step::Idle {}
}

async fn bad_rows_anywhere_in_a_window_are_found_and_the_rest_is_stored(stage: Stage) {
    let scene = Scene::new(stage).await;
    let bad = [0, 1, 2].map(|third: usize| third * 333 + usize::from(uuid::Uuid::new_v4().as_fields().1) % 333);
    let mut drafts = drafts("general", 1_000);
    bad.iter().for_each(|&at| drafts[at] = saying("poison"));
    let records = scene.publish(&drafts).await;
    scene.stage.refuse("data", "poison").await;
    let (_ownership, mut persist) = scene.worker().await;
    drain(&mut persist).await;
    let (stored, letters) = (scene.stored().await, scene.letters().await);
    assert_eq!((stored.len(), letters.len()), (1_000, 3), "{bad:?}");
    let transactions = scene.store.persists.load(Ordering::Relaxed);
    assert!(transactions <= 1 + 3 * (10 + 4), "halving, not trying each: {transactions}");
    for (at, (stored, published)) in stored.iter().zip(&records).enumerate() {
        assert_eq!((stored == published, stored.position), (!bad.contains(&at), published.position), "{at} of {bad:?}");
    }
    for (letter, at) in letters.iter().zip(bad) {
        assert_eq!((letter.seq, letter.reason.as_str()), (Some(at as u64 + 1), "refused"));
        assert!(String::from_utf8_lossy(&stored[at].data).contains(&letter.id.to_string()), "its tombstone names it");
    }
    scene.stage.forgive().await;
    for letter in &letters {
        assert_eq!(scene.store.redrive(letter.id, &decision()).await.expect("writable"), Redriven::Done);
    }
    assert_eq!(scene.stored().await, records, "history as it should have been");
}

async fn a_window_of_nothing_but_bad_rows_is_given_up_row_by_row(stage: Stage) {
    let scene = Scene::new(stage).await;
    scene.publish(&[(); 90].map(|()| saying("poison"))).await;
    scene.stage.refuse("data", "poison").await;
    let (_ownership, mut persist) = scene.worker().await;
    drain(&mut persist).await;
    assert_eq!((scene.stored().await.len(), scene.letters().await.len()), (90, 90));
    let transactions = scene.store.persists.load(Ordering::Relaxed);
    assert!(transactions <= 90 + 20, "one try each, once it is clear how bad it is: {transactions}");
    let end = scene.log.ends().await.expect("readable")[0];
    assert_eq!(scene.log.progress(Role::Persist).await.expect("readable")[0], end, "and acknowledged");
}

/// A follower that counts how often it is asked to read.
struct Counting(Box<dyn Follower>, Arc<AtomicUsize>);

#[async_trait]
impl Follower for Counting {
    async fn read(&mut self, leases: &[Lease], max: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(leases, max, wait).await
    }

    async fn ack(&mut self, done: &[(Lease, Position)]) -> Result<(), LogError> {
        self.0.ack(done).await
    }
}

async fn an_outage_gives_nothing_up_and_reads_no_more(stage: Stage) {
    let scene = Scene::new(stage).await;
    let mut records = scene.publish(&drafts("general", 200)).await;
    scene.store.has(Trouble::Away);
    let ((mut ownership, held), reads) = (scene.own().await, Arc::new(AtomicUsize::new(0)));
    let follower = scene.log.follow(Role::Persist).await.expect("the log answers");
    let mut persist = Persist::new(Box::new(Counting(follower, reads.clone())), held, scene.ports.clone());
    persist.step().await.expect_err("nobody answers");
    records.extend(scene.publish(&drafts("general", 200)).await);
    let mut rested = 0;
    for _ in 0..8 {
        ownership.step().await.expect("the log answers");
        match persist.step().await {
            Ok(step) => rested += usize::from(step == Step::Idle),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    assert!(rested >= 3, "it gives the database time between one look and the next: {rested}");
    assert_eq!(reads.load(Ordering::Relaxed), 1, "what is in hand is enough");
    scene.store.has(Trouble::Nothing);
    eventually("everything is stored", async || {
        ownership.step().await.expect("the log answers");
        let _ = persist.step().await; // idle until the next probe is due
        scene.stored().await == records
    })
    .await;
    assert_eq!(scene.letters().await, []);
}

/// A follower that hands out what a test has prepared.
struct Prepared(VecDeque<Batch>);

#[async_trait]
impl Follower for Prepared {
    async fn read(&mut self, _: &[Lease], _: usize, _: Duration) -> Result<Vec<Batch>, LogError> {
        Ok(self.0.pop_front().into_iter().collect())
    }

    async fn ack(&mut self, _: &[(Lease, Position)]) -> Result<(), LogError> {
        Ok(())
    }
}

async fn records_that_cannot_be_read_are_given_up_with_their_bytes(stage: Stage) {
    let scene = Scene::new(stage).await;
    let mut records = scene.publish(&drafts("general", 50)).await;
    for (at, header) in [(7, "garbage"), (8, "1 9 ? ? ? ? general ? ?"), (30, "1 31")] {
        records[at] = Record { header: header.into(), data: Bytes::from_static(b"\xff"), ..records[at].clone() };
    }
    let (_ownership, held) = scene.own().await;
    let batch = Batch { lease: held.leases()[0], records, redelivered: false };
    let mut persist = Persist::new(Box::new(Prepared([batch].into())), held, scene.ports.clone());
    drain(&mut persist).await;
    let letters = scene.letters().await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.position.offset(), letter.reason.as_str())).collect();
    assert_eq!(found, [(8, "unreadable"), (9, "unreadable"), (31, "unreadable")]);
    assert_eq!(scene.store.dead_letter_payload(letters[0].id).await.expect("readable").as_deref(), Some(&b"\xff"[..]));
    assert_eq!(scene.stored().await.len(), 48, "47 events and one tombstone where the place was legible");
}

/// A schema that refuses everything is not the events' fault.
async fn a_tombstone_refused_as_well_holds_the_worker_up(stage: Stage) {
    let scene = Scene::new(stage).await;
    let records = scene.publish(&drafts("general", 20)).await;
    scene.stage.refuse("conversation_id", "general").await;
    let (_ownership, mut persist) = scene.worker().await;
    let held_up = persist.step().await.expect_err("somebody has to look");
    assert!(matches!(&held_up, StepError::Store(_)) && !held_up.is_retryable(), "{held_up:?}");
    assert_eq!(scene.letters().await, []);
    scene.stage.forgive().await;
    drain(&mut persist).await;
    assert_eq!(scene.stored().await, records);
}

/// The process is gone in the middle of it: nothing is handed back, nothing is said.
async fn crash_over(scene: &Scene) {
    let (ownership, mut persist) = scene.worker().await;
    tokio::select! {
        stepped = async { loop { persist.step().await.expect("it goes well until then"); } } => stepped,
        () = scene.store.stuck.notified() => {}
    }
    drop((ownership, persist));
    scene.free_the_lease().await;
}

async fn an_event_over_which_workers_crash_is_given_up_at_the_third_crash(stage: Stage) {
    let scene = Scene::new(stage).await;
    let mut drafts = drafts("general", 30);
    drafts[17] = saying("poison");
    let records = scene.publish(&drafts).await;
    scene.store.has(Trouble::Stuck("poison"));
    for crash in 1..=3 {
        crash_over(&scene).await;
        let stored = scene.stored().await.len();
        assert_eq!(stored, if crash < 2 { 0 } else { 17 }, "from the second on each record goes by itself");
        assert_eq!(scene.letters().await, []);
    }
    let (_ownership, mut persist) = scene.worker().await;
    drain(&mut persist).await;
    let letters = scene.letters().await;
    let told = letters.iter().map(|letter| (letter.seq, letter.reason.as_str(), letter.attempts));
    assert_eq!(told.collect::<Vec<_>>(), [(Some(18), "crash", 3)]);
    scene.store.has(Trouble::Nothing);
    assert_eq!(scene.store.redrive(letters[0].id, &decision()).await.expect("writable"), Redriven::Done);
    assert_eq!(scene.stored().await, records);
}

/// Nobody can have crashed over what nobody had been handed.
async fn after_crashes_what_is_new_is_not_tried_one_by_one(stage: Stage) {
    let scene = Scene::new(stage).await;
    scene.publish(&[saying("poison")]).await;
    scene.store.has(Trouble::Stuck("poison"));
    for _ in 0..2 {
        crash_over(&scene).await;
    }
    scene.store.has(Trouble::Nothing);
    let (_ownership, mut persist) = scene.worker().await;
    persist.step().await.expect("it was not this record after all");
    let before = scene.store.persists.load(Ordering::Relaxed);
    scene.publish(&drafts("general", 200)).await;
    drain(&mut persist).await;
    let transactions = scene.store.persists.load(Ordering::Relaxed) - before;
    assert!(transactions <= 4, "{transactions} for 200 records");
    assert_eq!(scene.stored().await.len(), 201);
}

async fn crashes_with_progress_in_between_blame_nobody(stage: Stage) {
    let scene = Scene::new(stage).await;
    for _ in 0..5 {
        scene.publish(&[saying("fine")]).await;
        let (_ownership, mut persist) = scene.worker().await;
        drain(&mut persist).await;
        scene.publish(&[saying("poison")]).await;
        scene.store.has(Trouble::Stuck("poison"));
        drop(persist);
        scene.free_the_lease().await;
        crash_over(&scene).await;
        scene.store.has(Trouble::Nothing);
    }
    let (_ownership, mut persist) = scene.worker().await;
    drain(&mut persist).await;
    assert_eq!((scene.stored().await.len(), scene.letters().await), (10, vec![]));
}

async fn a_panic_is_a_failure_of_one_record_and_of_nothing_else(stage: Stage) {
    let scene = Scene::new(stage).await;
    let mut drafts = drafts("general", 30);
    drafts[17] = saying("poison");
    scene.publish(&drafts).await;
    scene.store.has(Trouble::Panic("poison"));
    let ((_ownership, persist), stop) = (scene.worker().await, CancellationToken::new());
    let metrics = WorkerMetrics::default();
    let watch = async {
        within(Duration::from_secs(40), "all is stored", async || scene.stored().await.len() == 30).await;
        stop.cancel();
    };
    tokio::join!(drive(persist, &metrics, &stop), watch);
    let letters = scene.letters().await;
    let told = letters.iter().map(|letter| (letter.seq, letter.reason.as_str()));
    assert_eq!(told.collect::<Vec<_>>(), [(Some(18), "crash")]);
}

on_every_store!(
    bad_rows_anywhere_in_a_window_are_found_and_the_rest_is_stored,
    a_window_of_nothing_but_bad_rows_is_given_up_row_by_row,
    an_outage_gives_nothing_up_and_reads_no_more,
    records_that_cannot_be_read_are_given_up_with_their_bytes,
    a_tombstone_refused_as_well_holds_the_worker_up,
    an_event_over_which_workers_crash_is_given_up_at_the_third_crash,
    after_crashes_what_is_new_is_not_tried_one_by_one,
    crashes_with_progress_in_between_blame_nobody,
    a_panic_is_a_failure_of_one_record_and_of_nothing_else,
);
