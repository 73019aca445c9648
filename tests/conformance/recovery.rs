//! What becomes of a log on Redis that loses something: noticed, fenced off, gone on with, and nothing mixed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use everpost_core::{
    event::{Draft, Record},
    lease::{Lease, Leases},
    log::{Appended, Durability, Fault, Log, LogError, Top, redis::RedisLog},
    name::ConversationId,
    partition::Partition,
    position::Position,
    recovery::{Recovery, RecoveryError},
    role::Role,
    store::{Generations, Messages, Store, StoreError, sqlite::SqliteStore},
};
use tempfile::TempDir;

use super::log::{
    drafts::{append, begin, conversation, draft, drafts, keyed, placed, rest, seq, take},
    stage::connect,
};
use crate::harness::{eventually::eventually, redis::RedisServer};

/// A log with the store that vouches for it.
struct Stage {
    server: RedisServer,
    log: Arc<RedisLog>,
    store: Arc<SqliteStore>,
    recovery: Arc<Recovery>,
    partition: Partition,
    _folder: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (server, folder) = (RedisServer::start().await, tempfile::tempdir().expect("a temporary folder"));
        let log = Arc::new(connect(&server, Durability::Fsync).await.expect("Redis runs"));
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db")).await.expect("the file opens"));
        let recovery = Recovery::open(log.clone(), store.clone()).await.expect("nothing to mend");
        begin(&*log, &["general"]).await;
        let partition = log.partitions().of("general");
        Self { server, log, store, recovery, partition, _folder: folder }
    }

    /// Starts the server anew and waits until a log has noticed that its connection is gone.
    async fn restart(&mut self) {
        self.server.restart().await;
        reconnect(&self.log).await;
    }

    async fn redis(&self, words: &[&str]) {
        self.ask::<()>(words).await;
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.server.url()).expect("an address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis runs");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.expect("Redis obeys")
    }

    fn key(&self, what: &str) -> String {
        format!("everpost:{{{}}}:{what}", self.partition.0)
    }

    /// Stores records as the owner of a lease would.
    async fn store(&self, token: u64, records: &[Record]) -> Result<u64, StoreError> {
        let lease = Lease { role: Role::Persist, partition: self.partition, token };
        self.store.persist(&[(lease, records.last().expect("some").position)], records).await
    }

    async fn end(&self) -> Position {
        self.log.ends().await.expect("readable")[self.partition.index()]
    }

    async fn stored_seqs(&self) -> Vec<u64> {
        let want = everpost_core::store::Want { conversation: conversation("general"), after: 0 };
        let pages = self.store.after(&[want], 1_000).await.expect("readable");
        pages[0].iter().map(|record| record.event().expect("readable").seq).collect()
    }

    /// Publishes as a gateway does, asking the store where the log asks for it.
    async fn publish(&self, draft: &Draft) -> Appended {
        let generation = self.log.generation(self.partition);
        match append(&*self.log, std::slice::from_ref(draft)).await.remove(0) {
            Appended::Unhydrated => {
                let top = self.top().await;
                self.log.hydrate(self.partition, generation, &[top]).await.expect("it takes it");
                Box::pin(self.publish(draft)).await
            }
            Appended::Unverified => {
                let ask = (draft.conversation.clone(), draft.sender.clone(), draft.key.clone().expect("a key"));
                match self.store.priors(&[ask]).await.expect("readable").remove(0) {
                    Some(prior) => Appended::Duplicate(prior),
                    None => {
                        let verified = Draft { verified: Some(generation), ..draft.clone() };
                        append(&*self.log, &[verified]).await.remove(0)
                    }
                }
            }
            answer => answer,
        }
    }

    async fn top(&self) -> Top {
        let general: ConversationId = conversation("general");
        self.store.tops(&[general]).await.expect("readable").remove(0)
    }
}

async fn reconnect(log: &RedisLog) {
    eventually("the log has a connection again", async || log.view(Role::Persist).await.ok()).await;
}

#[tokio::test]
async fn a_restart_begins_a_generation_and_changes_nothing_else() {
    let mut stage = Stage::new().await;
    let records = placed(&*stage.log, &drafts("general", 5)).await;
    stage.store(1, &records[..2]).await.expect("nobody is in the way");
    stage.restart().await;
    stage.recovery.check().await.expect("it is mended");
    assert_eq!(stage.end().await, Position::new(2, 5));
    let next = append(&*stage.log, &[draft("general")]).await;
    assert_eq!(seq(&next[0]), 6, "without asking the store");
    let tail = rest(&*stage.log, stage.partition, records[1].position).await;
    assert_eq!(tail.len(), 4, "what was not stored is still there, and readers go over the border without a gap");
    assert_eq!(stage.recovery.tally().lost, 0);
    assert_eq!(stage.recovery.history().floor(stage.partition, records[4].position), records[4].position);
}

#[tokio::test]
async fn nothing_is_accepted_between_a_restart_and_its_discovery() {
    let mut stage = Stage::new().await;
    append(&*stage.log, &[draft("general")]).await;
    let stranger = connect(&stage.server, Durability::Fsync).await.expect("Redis runs");
    stage.restart().await;
    reconnect(&stranger).await;
    for log in [&*stage.log, &stranger] {
        let refused = log.append(stage.partition, &[draft("general")]).await;
        assert!(matches!(refused, Err(LogError::Renewing)), "{refused:?}");
    }
    stage.recovery.check().await.expect("it is mended");
    assert_eq!(seq(&append(&*stage.log, &[draft("general")]).await[0]), 2);
    let behind = stranger.append(stage.partition, &[draft("general")]).await;
    assert!(matches!(behind, Err(LogError::Renewing)), "it has not heard of the new generation: {behind:?}");
    stranger.survey().await.expect("Redis runs");
    assert_eq!(seq(&append(&stranger, &[draft("general")]).await[0]), 3);
}

#[tokio::test]
async fn a_lost_script_is_no_restart() {
    let stage = Stage::new().await;
    append(&*stage.log, &[draft("general")]).await;
    stage.redis(&["SCRIPT", "FLUSH"]).await;
    append(&*stage.log, &[draft("general")]).await;
    stage.recovery.check().await.expect("nothing to mend");
    assert_eq!(stage.end().await, Position::new(1, 2));
}

#[tokio::test]
async fn an_emptied_log_goes_on_from_what_is_stored() {
    let stage = Stage::new().await;
    let (kept, lost) = (keyed("general", "alice", "kept"), keyed("general", "alice", "lost"));
    let records = placed(&*stage.log, &[kept.clone(), draft("general"), lost.clone()]).await;
    stage.store(1, &records[..2]).await.expect("nobody is in the way");
    stage.redis(&["FLUSHALL"]).await;
    let refused = stage.log.append(stage.partition, &[draft("general")]).await;
    assert!(matches!(refused, Err(LogError::Renewing)), "{refused:?}");
    assert!(stage.log.ends().await.is_err(), "nobody knows where it ends");
    stage.recovery.check().await.expect("it is mended");
    assert_eq!(stage.end().await, Position::new(2, 2));
    assert_eq!(stage.recovery.tally().lost, 1);
    let repeat = stage.publish(&kept).await;
    assert!(matches!(repeat, Appended::Duplicate(prior) if prior.seq == 1), "its key is known to the store");
    let again = stage.publish(&lost).await;
    assert_eq!(seq(&again), 3, "what its sender sends again takes the place it had");
    let history = stage.recovery.history();
    assert_eq!(history.floor(stage.partition, records[2].position), records[1].position);
    assert_eq!(history.floor(stage.partition, records[1].position), records[1].position);
}

#[tokio::test]
async fn a_log_that_was_set_back_does_not_give_numbers_twice() {
    let stage = Stage::new().await;
    let mut records = placed(&*stage.log, &drafts("general", 2)).await;
    let names = ["log", "meta", "tops", "identities:new"].map(|what| stage.key(what));
    let mut dumps = Vec::new();
    for name in &names {
        dumps.push(stage.ask::<Vec<u8>>(&["DUMP", name]).await);
    }
    records.extend(placed(&*stage.log, &drafts("general", 2)).await);
    stage.store(1, &records[..3]).await.expect("nobody is in the way");
    let client = redis::Client::open(stage.server.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis runs");
    for (name, dump) in names.iter().zip(dumps) {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(name).arg(0).arg(dump).arg("REPLACE");
        restore.exec_async(&mut connection).await.expect("Redis obeys");
    }
    let refused = stage.log.append(stage.partition, &[draft("general")]).await;
    assert!(matches!(refused, Err(LogError::Renewing)), "{refused:?}");
    stage.recovery.check().await.expect("it is mended");
    assert_eq!((stage.end().await, stage.recovery.tally().lost), (Position::new(2, 3), 1));
    assert_eq!(seq(&stage.publish(&draft("general")).await), 4);
}

#[tokio::test]
async fn what_is_older_than_its_store_is_noticed_at_the_start() {
    let stage = Stage::new().await;
    let records = placed(&*stage.log, &drafts("general", 2)).await;
    let ahead = Record { position: Position::new(1, 9), ..records[1].clone() };
    stage.store(1, &[records[0].clone(), ahead]).await.expect("nobody is in the way");
    let log = Arc::new(connect(&stage.server, Durability::Fsync).await.expect("Redis runs"));
    let recovery = Recovery::open(log.clone(), stage.store.clone()).await.expect("it is mended");
    assert_eq!(recovery.tally().begun.get(Fault::Older.as_str()), Some(&1));
    assert_eq!(log.ends().await.expect("readable")[stage.partition.index()], Position::new(2, 9));
}

/// Each of these is gone alone, with two events that are not stored yet.
async fn without(what: &[&str], expected: Fault, end: u64) -> Stage {
    let stage = Stage::new().await;
    let records = placed(&*stage.log, &drafts("general", 4)).await;
    stage.store(1, &records[..2]).await.expect("nobody is in the way");
    stage.redis(what).await;
    stage.recovery.check().await.expect("it is mended");
    assert_eq!(stage.recovery.tally().begun, [(expected.as_str(), 1)].into(), "{what:?}");
    assert_eq!(stage.end().await, Position::new(2, end), "{what:?}");
    stage.recovery.check().await.expect("nothing to mend");
    assert_eq!(stage.end().await, Position::new(2, end), "one is enough");
    assert_eq!(seq(&stage.publish(&draft("general")).await), end + 1, "{what:?}");
    stage
}

#[tokio::test]
async fn without_its_bookkeeping_what_is_left_is_stored_first() {
    let partition = Stage::new().await.partition;
    let stage = without(&["DEL", &format!("everpost:{{{}}}:meta", partition.0)], Fault::Emptied, 4).await;
    assert_eq!(stage.stored_seqs().await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn without_its_conversations_what_is_left_is_stored_first() {
    let partition = Stage::new().await.partition;
    let stage = without(&["DEL", &format!("everpost:{{{}}}:tops", partition.0)], Fault::Incomplete, 4).await;
    assert_eq!(stage.stored_seqs().await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn without_its_events_it_goes_on_from_the_store() {
    let partition = Stage::new().await.partition;
    let stage = without(&["DEL", &format!("everpost:{{{}}}:log", partition.0)], Fault::Incomplete, 2).await;
    assert_eq!(stage.stored_seqs().await, [1, 2]);
}

#[tokio::test]
async fn a_group_that_is_gone_begins_at_what_is_stored() {
    let partition = Stage::new().await.partition;
    let log = format!("everpost:{{{}}}:log", partition.0);
    let stage = without(&["XGROUP", "DESTROY", &log, "persist"], Fault::Ungrouped, 4).await;
    let lease = take(&*stage.log, Role::Persist, stage.partition, "a").await;
    let mut follower = stage.log.follow(Role::Persist).await.expect("the log answers");
    let batches = follower.read(&[lease], 100, super::log::drafts::SOON).await.expect("readable");
    let seqs: Vec<u64> = batches.iter().flat_map(|b| &b.records).map(|r| r.event().expect("readable").seq).collect();
    assert_eq!(seqs, [3, 4, 5], "not what is stored, and nothing skipped");
}

/// Its tokens would begin anew, and the store would refuse whoever holds one.
#[tokio::test]
async fn a_lease_that_is_gone_is_taken_by_nobody_until_its_tokens_are_raised() {
    let stage = Stage::new().await;
    let records = placed(&*stage.log, &drafts("general", 2)).await;
    for owner in ["a", "b", "c"] {
        let lease = take(&*stage.log, Role::Persist, stage.partition, owner).await;
        stage.store(lease.token, &records).await.expect("it owns the partition");
    }
    stage.redis(&["DEL", &stage.key("lease:persist")]).await;
    let view = super::log::drafts::view(&*stage.log, Role::Persist, stage.partition).await;
    let early = stage.log.acquire(Role::Persist, stage.partition, "d", &view).await.expect("the log answers");
    assert_eq!(early, None);
    stage.recovery.check().await.expect("it is mended");
    assert_eq!(stage.recovery.tally().begun, [(Fault::Ungrouped.as_str(), 1)].into());
    let lease = take(&*stage.log, Role::Persist, stage.partition, "d").await;
    stage.store(lease.token, &records).await.expect("nobody has a newer token");
}

#[tokio::test]
async fn what_is_accepted_while_a_generation_begins_belongs_to_it() {
    let stage = Stage::new().await;
    let destroy = ["XGROUP", "DESTROY", &*stage.key("log"), "persist"];
    let (done, mut accepted) = (AtomicBool::new(false), Vec::new());
    let publishing = async {
        while !done.load(Ordering::Relaxed) {
            match stage.log.append(stage.partition, &[draft("general")]).await {
                Ok(answers) => accepted.extend(answers.into_iter().filter_map(|answer| match answer {
                    Appended::Accepted { position, .. } => Some(position),
                    _ => None,
                })),
                Err(error) => assert!(matches!(error, LogError::Renewing), "{error:?}"),
            }
        }
    };
    let mending = async {
        for _ in 0..10 {
            stage.redis(&destroy).await;
            stage.recovery.check().await.expect("it is mended");
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(publishing, mending);
    let history = stage.recovery.history();
    let forgotten = accepted.iter().filter(|at| history.floor(stage.partition, **at) != **at).count();
    assert_eq!((forgotten, stage.recovery.tally().lost), (0, 0), "of {} accepted", accepted.len());
    assert!(accepted.len() > 10, "it took events all along");
}

#[tokio::test]
async fn who_owned_a_partition_before_changes_nothing_any_more() {
    let mut stage = Stage::new().await;
    let lease = take(&*stage.log, Role::Persist, stage.partition, "old").await;
    let records = placed(&*stage.log, &drafts("general", 3)).await;
    let mut follower = stage.log.follow(Role::Persist).await.expect("the log answers");
    follower.read(&[lease], 10, super::log::drafts::SOON).await.expect("readable");
    stage.restart().await;
    stage.recovery.check().await.expect("it is mended");
    let late = stage.store(lease.token, &records).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    let acked = follower.ack(&[(lease, records[2].position)]).await;
    assert!(matches!(acked, Err(LogError::Fenced)), "{acked:?}");
    let next = take(&*stage.log, Role::Persist, stage.partition, "new").await;
    assert!(next.token > lease.token + u64::from(u32::MAX), "{next:?}");
    stage.store(next.token, &records).await.expect("the new owner stores");
}

#[tokio::test]
async fn many_who_notice_at_once_begin_one_generation() {
    let mut stage = Stage::new().await;
    placed(&*stage.log, &drafts("general", 3)).await;
    let (mut logs, mut others) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let log = Arc::new(connect(&stage.server, Durability::Fsync).await.expect("Redis runs"));
        logs.push(log.clone());
        others.push(Recovery::open(log, stage.store.clone()).await.expect("nothing to mend"));
    }
    stage.restart().await;
    futures_util::future::join_all(logs.iter().map(|log| reconnect(log))).await;
    let checks = others.iter().chain([&stage.recovery]).map(|recovery| recovery.check());
    for outcome in futures_util::future::join_all(checks).await {
        outcome.expect("it is mended, by whomever");
    }
    for recovery in others.iter().chain([&stage.recovery]) {
        recovery.check().await.expect("nothing to mend");
    }
    let present = stage.recovery.history().current(stage.partition);
    assert_eq!(stage.end().await, Position::new(present.number, 3));
    assert!(others.iter().all(|recovery| recovery.history() == stage.recovery.history()));
    assert_eq!(seq(&stage.publish(&draft("general")).await), 4);
}

#[tokio::test]
async fn what_was_left_half_done_is_finished_by_the_next() {
    let stage = Stage::new().await;
    placed(&*stage.log, &drafts("general", 3)).await;
    let begun = stage.store.begin(stage.partition, 1, 3, "restarted").await.expect("readable").expect("nobody else");
    assert_eq!((begun.generation.number, begun.generation.base), (2, 3));
    assert!(stage.store.begin(stage.partition, 1, 3, "restarted").await.expect("readable").is_none(), "once only");
    let log = Arc::new(connect(&stage.server, Durability::Fsync).await.expect("Redis runs"));
    let recovery = Recovery::open(log, stage.store.clone()).await.expect("it is mended");
    assert_eq!(recovery.tally().begun.get(Fault::HalfRenewed.as_str()), Some(&1));
    stage.recovery.check().await.expect("it learns of it");
    assert_eq!(stage.end().await, Position::new(3, 3));
    assert_eq!(seq(&stage.publish(&draft("general")).await), 4);
}

#[tokio::test]
async fn a_store_that_is_older_than_its_log_is_refused() {
    let mut stage = Stage::new().await;
    stage.restart().await;
    stage.recovery.check().await.expect("it is mended");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let older: Arc<dyn Store> =
        Arc::new(SqliteStore::open(&folder.path().join("store.db")).await.expect("the file opens"));
    let refused = Recovery::open(stage.log.clone(), older).await.err().expect("refused");
    assert!(matches!(refused, RecoveryError::StoreIsOlder { log: 2, store: 1, .. }), "{refused}");
}

#[tokio::test]
async fn what_a_store_said_in_an_earlier_generation_counts_for_nothing() {
    let mut stage = Stage::new().await;
    let before = stage.log.generation(stage.partition);
    stage.restart().await;
    stage.recovery.check().await.expect("it is mended");
    let top = Top { conversation: conversation("general"), seq: 0 };
    let late = stage.log.hydrate(stage.partition, before, &[top]).await;
    assert!(matches!(late, Err(LogError::Renewing)), "{late:?}");
    let verified = Draft { verified: Some(before), ..keyed("general", "alice", "k") };
    assert_eq!(verified.minted_ms(stage.log.generation(stage.partition)), 0);
}

/// Whoever began it died, or was overtaken; nobody else has looked into the store since.
#[tokio::test]
async fn a_generation_only_the_store_knows_is_noticed_by_whom_it_refuses() {
    let stage = Stage::new().await;
    placed(&*stage.log, &drafts("general", 3)).await;
    stage.store.begin(stage.partition, 1, 3, "restarted").await.expect("readable").expect("nobody else");
    stage.recovery.check().await.expect("the log looks sound");
    assert_eq!(stage.end().await, Position::new(1, 3), "nothing has happened");
    stage.recovery.doubt();
    stage.recovery.check().await.expect("it is mended");
    assert_eq!(stage.end().await, Position::new(3, 3));
}

#[tokio::test]
async fn what_was_seen_before_somebody_else_renewed_the_log_is_no_new_loss() {
    let stage = Stage::new().await;
    let log = Arc::new(connect(&stage.server, Durability::Fsync).await.expect("Redis runs"));
    let other = Recovery::open(log, stage.store.clone()).await.expect("nothing to mend");
    placed(&*stage.log, &drafts("general", 3)).await;
    stage.redis(&["FLUSHALL"]).await;
    other.check().await.expect("it is mended");
    stage.recovery.check().await.expect("it learns of it");
    assert_eq!((stage.end().await, stage.recovery.tally().begun.len()), (Position::ZERO, 0));
    assert_eq!(stage.log.generation(stage.partition), 2);
    assert_eq!(seq(&stage.publish(&draft("general")).await), 1);
}
