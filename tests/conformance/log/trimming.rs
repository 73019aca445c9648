//! Trimming: only what every role is done with, never the last ones, and whoever comes too late is told.

use everpost_core::{
    event::Record,
    lease::Lease,
    log::{LogError, Tail},
    partition::Partition,
    position::Position,
    role::Role,
};
use futures_util::future::join_all;

use super::{
    drafts::{append, begin, draft, finish, rest, seq, take},
    on_every_log,
    stage::Stage,
};

/// Enough that every engine, each of which removes by its own larger pieces, has something to remove.
const MANY: u64 = 400;

async fn nothing_a_role_still_needs_is_trimmed(log: Stage) {
    let (partition, records) = fill(&log).await;
    let lease = finish(&*log, Role::Fanout, partition).await;
    assert_eq!(log.trim(&lease, 0).await.expect("ours"), 0, "nothing is stored yet");
    let lease = advance(&log, partition, records[299].position).await;
    assert!(log.trim(&lease, 0).await.expect("ours") > 0);
    let log = log.reopen().await;
    assert_eq!(rest(&*log, partition, records[299].position).await, records[300..]);
    let lease = take(&*log, Role::Persist, partition, "b").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let first = follower.read(&[lease], 10, super::drafts::SOON).await.expect("readable").remove(0);
    assert!(first.records[0].position <= records[300].position, "the first one not acknowledged is there");
}

async fn the_last_ones_are_kept(log: Stage) {
    let (partition, records) = fill(&log).await;
    let lease = finish_all(&log, partition).await;
    assert_eq!(log.trim(&lease, MANY).await.expect("ours"), 0);
    assert_eq!(log.trim(&lease, MANY + 1).await.expect("ours"), 0);
    assert!(log.trim(&lease, 100).await.expect("ours") > 0);
    let log = log.reopen().await;
    assert_eq!(rest(&*log, partition, records[299].position).await, records[300..]);
}

async fn who_is_too_late_is_told(log: Stage) {
    let (partition, records) = fill(&log).await;
    let lease = finish_all(&log, partition).await;
    log.trim(&lease, 0).await.expect("ours");
    let log = log.reopen().await;
    for at in [Position::ZERO, records[0].position, records[40].position] {
        assert_eq!(log.read_after(partition, at, 10).await.expect("readable"), Tail::Trimmed, "{at:?}");
    }
    let end = records.last().expect("there are many").position;
    assert_eq!(log.read_after(partition, end, 10).await.expect("readable"), Tail::Records(vec![]));
}

async fn numbering_goes_on_after_everything_was_trimmed(log: Stage) {
    let (partition, records) = fill(&log).await;
    let lease = finish_all(&log, partition).await;
    log.trim(&lease, 0).await.expect("ours");
    let log = log.reopen().await;
    let end = records.last().expect("there are many").position;
    assert_eq!(log.ends().await.expect("readable")[partition.index()], end);
    super::drafts::hydrate(&*log, "general", MANY).await;
    let answers = append(&*log, &[draft("general")]).await;
    assert_eq!(seq(&answers[0]), MANY + 1);
    assert_eq!(log.ends().await.expect("readable")[partition.index()], end.next());
    assert_eq!(rest(&*log, partition, end).await.len(), 1);
}

async fn only_the_owner_trims(log: Stage) {
    let (partition, records) = fill(&log).await;
    let old = finish_all(&log, partition).await;
    take(&*log, old.role, partition, "b").await;
    let refused = log.trim(&old, 0).await;
    assert!(matches!(refused, Err(LogError::Fenced)), "{refused:?}");
    assert_eq!(rest(&*log.reopen().await, partition, Position::ZERO).await, records);
}

/// Fills one conversation by many small appends.
async fn fill(log: &Stage) -> (Partition, Vec<Record>) {
    begin(&**log, &["general"]).await;
    let drafts: Vec<_> = (0..MANY).map(|_| [draft("general")]).collect();
    join_all(drafts.iter().map(|draft| append(&**log, draft))).await;
    let partition = log.partitions().of("general");
    (partition, rest(&**log, partition, Position::ZERO).await)
}

async fn finish_all(log: &Stage, partition: Partition) -> Lease {
    finish(&**log, Role::Fanout, partition).await;
    finish(&**log, Role::Persist, partition).await
}

/// Lets the persist role acknowledge up to a position.
async fn advance(log: &Stage, partition: Partition, upto: Position) -> Lease {
    let lease = take(&**log, Role::Persist, partition, "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    super::drafts::read(&mut *follower, lease, MANY as usize).await;
    follower.ack(&[(lease, upto)]).await.expect("ours");
    lease
}

on_every_log!(
    nothing_a_role_still_needs_is_trimmed,
    the_last_ones_are_kept,
    who_is_too_late_is_told,
    numbering_goes_on_after_everything_was_trimmed,
    only_the_owner_trims,
);
