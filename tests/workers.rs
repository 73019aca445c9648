//! Persist and fan-out, step by step, on the embedded engine.

use std::{sync::Arc, time::Duration};

use everpost_core::{
    lease::{LeaseView, Leases},
    log::{Durability, Log, sqlite::SqliteLog},
    name::{ConversationId, InstanceId},
    partition::Partition,
    position::Position,
    recovery::Recovery,
    relay::{Parcel, Relay, Topic, local::LocalRelay},
    role::Role,
    roster::local::LocalRoster,
    store::{Messages, sqlite::SqliteStore},
};
use everpost_workers::{Fanout, Held, Ownership, Persist, Ports, Step, Worker};
use tempfile::TempDir;

use crate::conformance::log::drafts::{append, begin, draft, drafts};

const ONLY: Partition = Partition(0);

struct Stage {
    ports: Ports,
    log: SqliteLog,
    store: Arc<SqliteStore>,
    relay: LocalRelay,
    _folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = SqliteLog::open(&folder.path().join("log.db"), Durability::Fsync).await.expect("the file opens");
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db")).await.expect("the file opens"));
        let relay = LocalRelay::new();
        let port = Arc::new(log.clone());
        let recovery = Recovery::open(port.clone(), store.clone()).await.expect("nothing to mend");
        let (relay_port, roster) = (Arc::new(relay.clone()), Arc::new(LocalRoster::new()));
        let ports =
            Ports { log: port.clone(), leases: port, relay: relay_port, roster, store: store.clone(), recovery };
        begin(&log, &["general"]).await;
        Self { ports, log, store, relay, _folder: folder }
    }

    /// The lease of the one partition, kept by a worker of the role.
    async fn own(&self, role: Role) -> (Ownership, Held) {
        let (mut ownership, held) = Ownership::new(role, self.ports.leases.clone(), self.log.partitions());
        ownership.step().await.expect("the log answers");
        (ownership, held)
    }

    async fn persist(&self) -> (Ownership, Persist) {
        let (ownership, held) = self.own(Role::Persist).await;
        let follower = self.log.follow(Role::Persist).await.expect("the log answers");
        (ownership, Persist::new(follower, held, self.ports.clone()))
    }

    async fn fanout(&self) -> (Ownership, Fanout) {
        let (ownership, held) = self.own(Role::Fanout).await;
        let follower = self.log.follow(Role::Fanout).await.expect("the log answers");
        (ownership, Fanout::new(follower, held, self.ports.clone()))
    }

    async fn stored(&self) -> Position {
        self.store.stored(1).await.expect("readable")[0]
    }

    async fn progress(&self, role: Role) -> Position {
        self.log.progress(role).await.expect("readable")[0]
    }

    /// Takes the lease away from whoever has it.
    async fn seize(&self, role: Role) {
        let seen: LeaseView = self.log.view(role).await.expect("readable")[0].clone();
        self.log.acquire(role, ONLY, "thief", &seen).await.expect("the log answers").expect("nobody was faster");
    }
}

async fn drain(worker: &mut impl Worker) -> usize {
    let mut worked = 0;
    while let Step::Worked(records) = worker.step().await.expect("it succeeds") {
        worked += records;
    }
    worked
}

#[tokio::test]
async fn persist_stores_what_there_is_and_then_acknowledges() {
    let stage = Stage::new().await;
    let (_ownership, mut persist) = stage.persist().await;
    append(&stage.log, &drafts("general", 250)).await;
    assert_eq!(drain(&mut persist).await, 250);
    let end = stage.log.ends().await.expect("readable")[0];
    assert_eq!((stage.stored().await, stage.progress(Role::Persist).await), (end, end));
    let general = ConversationId::new("general").expect("a name");
    assert_eq!(stage.store.tops(&[general]).await.expect("readable")[0].seq, 250);
}

#[tokio::test]
async fn a_worker_without_leases_touches_nothing() {
    let stage = Stage::new().await;
    let (_owner, _) = stage.own(Role::Persist).await;
    let (_ownership, mut other) = stage.persist().await;
    append(&stage.log, &[draft("general")]).await;
    assert_eq!(other.step().await.expect("it succeeds"), Step::Idle);
    assert_eq!(stage.stored().await, Position::ZERO);
}

/// It read the window while the lease was its own; by the time it stores, a newer owner has stored already.
#[tokio::test]
async fn a_worker_that_lost_its_partition_changes_nothing() {
    let stage = Stage::new().await;
    let (_ownership, mut stale) = stage.persist().await;
    append(&stage.log, &[draft("general")]).await;
    assert_eq!(drain(&mut stale).await, 1);
    stage.seize(Role::Persist).await;
    let newer = everpost_core::lease::Lease { role: Role::Persist, partition: ONLY, token: 1_000 };
    stage.store.persist(&[(newer, stage.stored().await)], &[]).await.expect("the newer one may");
    append(&stage.log, &[draft("general")]).await;
    let before = (stage.stored().await, stage.progress(Role::Persist).await);
    stale.step().await.expect("losing a partition is no failure");
    assert_eq!((stage.stored().await, stage.progress(Role::Persist).await), before);
}

#[tokio::test]
async fn fanout_hands_over_in_order_and_only_to_who_listens() {
    let stage = Stage::new().await;
    begin(&stage.log, &["quiet"]).await;
    let (near, far) = (InstanceId::random(), InstanceId::random());
    let mut inbox = stage.relay.open(&near).await.expect("in process");
    let mut other = stage.relay.open(&far).await.expect("in process");
    let general = Topic::Conversation(ConversationId::new("general").expect("a name"));
    stage.relay.join(&near, &[general]).await.expect("in process");
    let (_ownership, mut fanout) = stage.fanout().await;
    for room in ["general", "quiet", "general"] {
        append(&stage.log, &drafts(room, 3)).await;
    }
    assert_eq!(drain(&mut fanout).await, 9);
    let received = inbox.receive(Duration::from_secs(1)).await.expect("readable");
    let records = received.iter().flat_map(|parcel| match parcel {
        Parcel::Records { records, .. } => records.as_slice(),
        Parcel::Signal(_) => &[],
    });
    let offsets: Vec<u64> = records.map(|record| record.position.offset()).collect();
    assert_eq!(offsets, [1, 2, 3, 7, 8, 9]);
    assert_eq!(other.receive(Duration::from_millis(10)).await.expect("readable"), []);
    assert_eq!(stage.progress(Role::Fanout).await.offset(), 9, "what was handed over is acknowledged when it rests");
}

#[tokio::test]
async fn what_was_read_and_not_acknowledged_is_handed_over_by_the_next_owner() {
    let stage = Stage::new().await;
    let (ownership, mut first) = stage.fanout().await;
    append(&stage.log, &drafts("general", 5)).await;
    assert_eq!(first.step().await.expect("it succeeds"), Step::Worked(5));
    drop((ownership, first));
    stage.seize(Role::Fanout).await;
    let thief = stage.log.view(Role::Fanout).await.expect("readable")[0].clone();
    let lease = everpost_core::lease::Lease { role: Role::Fanout, partition: ONLY, token: thief.token };
    let mut next = stage.log.follow(Role::Fanout).await.expect("the log answers");
    let again = next.read(&[lease], 100, Duration::from_secs(1)).await.expect("readable");
    assert_eq!(again[0].records.first().map(|record| record.position.offset()), Some(1));
}

#[tokio::test]
async fn a_partition_given_back_is_taken_at_once() {
    let stage = Stage::new().await;
    let (mut first, held) = stage.own(Role::Persist).await;
    let (mut second, waiting) = stage.own(Role::Persist).await;
    assert_eq!((held.leases().len(), waiting.leases().len()), (1, 0));
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    first.keep(stop).await;
    second.step().await.expect("the log answers");
    assert_eq!((held.leases().len(), waiting.leases().len()), (0, 1));
}
