//! Entries that somebody deletes from Redis leave tombstones, wherever they stood.

use std::sync::Arc;

use everpost_core::{
    event::Record,
    lease::Leases,
    log::{Durability, Log, redis::RedisLog},
    partition::Partition,
    recovery::Recovery,
    relay::local::LocalRelay,
    role::Role,
    roster::local::LocalRoster,
    store::{Messages, Want, sqlite::SqliteStore},
};
use everpost_workers::{Ownership, Persist, Ports, Step, Worker};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    conformance::log::{
        drafts::{SOON, append, begin, conversation, draft, siblings, take},
        stage::connect,
    },
    harness::redis::RedisServer,
};

struct Stage {
    server: RedisServer,
    log: Arc<RedisLog>,
    store: Arc<SqliteStore>,
    ports: Ports,
    partition: Partition,
    _folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (server, folder) = (RedisServer::start().await, tempfile::tempdir().expect("a temporary folder"));
        let log = Arc::new(connect(&server, Durability::Fsync).await.expect("Redis runs"));
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db")).await.expect("the file opens"));
        let recovery = Recovery::open(log.clone(), store.clone()).await.expect("nothing to mend");
        let (relay, roster) = (Arc::new(LocalRelay::new()), Arc::new(LocalRoster::new()));
        let ports = Ports { log: log.clone(), leases: log.clone(), relay, roster, store: store.clone(), recovery };
        let partition = log.partitions().of("room-0");
        Self { server, log, store, ports, partition, _folder: folder }
    }

    /// Publishes one event to each conversation, each in an entry of its own.
    async fn publish(&self, rooms: &[&str]) {
        for room in rooms {
            append(&*self.log, &[draft(room)]).await;
        }
    }

    async fn vanish(&self, offset: u64) {
        let key = format!("everpost:{{{}}}:log", self.partition.0);
        self.server.obey(&["XDEL", &key, &format!("1-{offset}")]).await;
    }

    /// Stores all there is, as a new worker.
    async fn persist(&self) {
        let (mut ownership, held) = Ownership::new(Role::Persist, self.ports.leases.clone(), self.log.partitions());
        ownership.step().await.expect("the log answers");
        let follower = self.log.follow(Role::Persist).await.expect("the log answers");
        let mut worker = Persist::new(follower, held, self.ports.clone());
        while let Step::Worked(_) = worker.step().await.expect("it succeeds") {}
        let stopped = CancellationToken::new();
        stopped.cancel();
        ownership.keep(stopped).await; // that is, give everything back
    }

    /// Number and kind of everything stored in a conversation.
    async fn stored(&self, room: &str) -> Vec<(u64, String)> {
        let want = Want { conversation: conversation(room), after: 0 };
        let pages = self.store.after(&[want], 1_000).await.expect("readable");
        let event = |record: &Record| {
            let event = record.event().expect("readable");
            (event.seq, event.name.to_owned())
        };
        pages[0].iter().map(event).collect()
    }
}

fn messages(seqs: impl IntoIterator<Item = u64>, lost: &[u64]) -> Vec<(u64, String)> {
    let name = |seq: &u64| if lost.contains(seq) { "tombstone" } else { "new_message" };
    seqs.into_iter().map(|seq| (seq, name(&seq).to_owned())).collect()
}

/// Two conversations that share a partition with the first one.
fn rooms(log: &RedisLog) -> [String; 2] {
    let names = siblings(log, 2);
    [names[0].clone(), names[1].clone()]
}

#[tokio::test]
async fn what_vanished_before_it_was_read_leaves_a_tombstone() {
    let stage = Stage::new().await;
    let [a, b] = rooms(&stage.log);
    begin(&*stage.log, &[&a, &b]).await;
    stage.publish(&[&a, &b, &a, &b, &a]).await;
    stage.vanish(2).await;
    stage.vanish(3).await;
    stage.persist().await;
    assert_eq!(stage.stored(&a).await, messages(1..=3, &[2]));
    assert_eq!(stage.stored(&b).await, messages(1..=2, &[1]));
    stage.publish(&[&a, &b]).await;
    stage.persist().await;
    assert_eq!(stage.stored(&a).await.len() + stage.stored(&b).await.len(), 7, "and everything goes on");
}

#[tokio::test]
async fn what_vanished_after_it_was_read_leaves_a_tombstone() {
    let stage = Stage::new().await;
    let [a, b] = rooms(&stage.log);
    begin(&*stage.log, &[&a, &b]).await;
    stage.publish(&[&a, &b, &a]).await;
    let lease = take(&*stage.log, Role::Persist, stage.partition, "killed").await;
    let mut follower = stage.log.follow(Role::Persist).await.expect("the log answers");
    follower.read(&[lease], 10, SOON).await.expect("readable");
    stage.log.release(&lease).await.expect("ours");
    stage.vanish(1).await;
    stage.vanish(2).await;
    stage.persist().await;
    assert_eq!(stage.stored(&a).await, messages(1..=2, &[1]));
    assert_eq!(stage.stored(&b).await, messages(1..=1, &[1]), "also where nothing came after it");
}

#[tokio::test]
async fn what_a_group_passed_over_is_stored_all_the_same() {
    let stage = Stage::new().await;
    let [a, b] = rooms(&stage.log);
    begin(&*stage.log, &[&a, &b]).await;
    stage.publish(&[&a, &b, &a]).await;
    let log = format!("everpost:{{{}}}:log", stage.partition.0);
    stage.server.obey(&["XGROUP", "SETID", &log, "persist", "1-3"]).await;
    stage.publish(&[&a]).await;
    stage.persist().await;
    assert_eq!(stage.stored(&a).await, messages(1..=3, &[]));
    assert_eq!(stage.stored(&b).await, messages(1..=1, &[]));
}

/// Nothing new comes that would show the hole.
#[tokio::test]
async fn what_a_deleted_consumer_had_pending_is_handed_out_again() {
    let stage = Stage::new().await;
    let [a, _] = rooms(&stage.log);
    begin(&*stage.log, &[&a]).await;
    stage.publish(&[&a, &a]).await;
    let lease = take(&*stage.log, Role::Persist, stage.partition, "killed").await;
    let mut follower = stage.log.follow(Role::Persist).await.expect("the log answers");
    follower.read(&[lease], 10, SOON).await.expect("readable");
    let log = format!("everpost:{{{}}}:log", stage.partition.0);
    stage.server.obey(&["XGROUP", "DELCONSUMER", &log, "persist", "owner"]).await;
    stage.ports.recovery.check().await.expect("it is mended");
    assert_eq!(stage.ports.recovery.tally().begun.get("ungrouped"), Some(&1));
    stage.persist().await;
    assert_eq!(stage.stored(&a).await, messages(1..=2, &[]));
}

#[tokio::test]
async fn several_holes_are_several_tombstones() {
    let stage = Stage::new().await;
    let [a, b] = rooms(&stage.log);
    begin(&*stage.log, &[&a, &b]).await;
    stage.publish(&[&a, &a, &a, &b, &a, &a]).await;
    for offset in [2, 5] {
        stage.vanish(offset).await;
    }
    stage.persist().await;
    assert_eq!(stage.stored(&a).await, messages(1..=5, &[2, 4]));
    assert_eq!(stage.stored(&b).await, messages(1..=1, &[]));
}

#[tokio::test]
async fn the_newest_entry_that_vanished_begins_a_generation() {
    let stage = Stage::new().await;
    let [a, _] = rooms(&stage.log);
    begin(&*stage.log, &[&a]).await;
    stage.publish(&[&a, &a]).await;
    stage.vanish(2).await;
    stage.ports.recovery.check().await.expect("it is mended");
    assert_eq!(stage.ports.recovery.tally().begun.get("incomplete"), Some(&1));
    assert_eq!(stage.ports.recovery.tally().lost, 1);
    assert_eq!(stage.stored(&a).await, messages(1..=1, &[]), "what was left is stored");
}
