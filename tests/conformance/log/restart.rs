//! A crash of the log's engine: what was accepted is there, numbers go on, followers go on.

use everpost_core::{event::Record, position::Position, role::Role};

use super::{
    drafts::{append, begin, draft, drafts, hydrate, placed, read, rest, seq, siblings, take},
    on_every_log,
    stage::{Port, Stage},
};

/// Where the partitions end, whatever their generations.
async fn offsets(log: &dyn Port) -> Vec<u64> {
    log.ends().await.expect("readable").iter().map(|end| end.offset()).collect()
}

async fn what_was_accepted_survives_a_crash(log: Stage) {
    let ids = siblings(&*log, 2);
    begin(&*log, &ids).await;
    let mut records = placed(&*log, &drafts(&ids[0], 20)).await;
    records.extend(placed(&*log, &drafts(&ids[1], 20)).await);
    let (partition, epoch, ends) = (log.partitions().of(&ids[0]), log.epoch(), offsets(&*log).await);
    let log = log.crash().await.reopen().await;
    assert_eq!((log.epoch(), offsets(&*log).await), (epoch, ends));
    assert_eq!(rest(&*log, partition, Position::ZERO).await, records);
}

async fn numbers_go_on_after_a_crash(log: Stage) {
    let ids = siblings(&*log, 2);
    begin(&*log, &ids[..1]).await;
    hydrate(&*log, &ids[1], 6).await;
    append(&*log, &[draft(&ids[0]), draft(&ids[1]), draft(&ids[0])]).await;
    let log = log.crash().await;
    let answers = append(&*log, &[draft(&ids[0]), draft(&ids[1])]).await;
    assert_eq!(answers.iter().map(seq).collect::<Vec<_>>(), [3, 8], "without being hydrated again");
    let records = rest(&*log, log.partitions().of(&ids[0]), Position::ZERO).await;
    assert_eq!(records.iter().map(|record| record.position.offset()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

async fn followers_go_on_after_a_crash(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let mut records = placed(&*log, &drafts("general", 10)).await;
    let lease = take(&*log, Role::Persist, partition, "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    read(&mut *follower, lease, 10).await;
    follower.ack(&[(lease, records[3].position)]).await.expect("ours");
    drop(follower);
    let log = log.crash().await;
    records.extend(placed(&*log, &drafts("general", 5)).await);
    let lease = take(&*log, Role::Persist, partition, "b").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    // Acknowledged ones may come again, as far as the log says it forgot that they were.
    let acked = log.progress(Role::Persist).await.expect("readable")[partition.index()];
    assert!(acked <= records[3].position);
    let left: Vec<Record> = records.into_iter().filter(|record| record.position > acked).collect();
    assert_eq!(read(&mut *follower, lease, left.len()).await, left);
}

async fn progress_that_was_made_durable_survives(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let records = placed(&*log, &drafts("general", 4)).await;
    let lease = take(&*log, Role::Fanout, partition, "a").await;
    let mut follower = log.follow(Role::Fanout).await.expect("the log answers");
    read(&mut *follower, lease, 4).await;
    follower.ack(&[(lease, records[2].position)]).await.expect("ours");
    drop(follower);
    log.trim(&lease, 1_000).await.expect("ours");
    let log = log.crash().await;
    assert_eq!(log.progress(Role::Fanout).await.expect("readable")[partition.index()], records[2].position);
    let lease = take(&*log, Role::Fanout, partition, "b").await;
    let mut follower = log.follow(Role::Fanout).await.expect("the log answers");
    assert_eq!(read(&mut *follower, lease, 1).await, records[3..]);
}

on_every_log!(
    what_was_accepted_survives_a_crash,
    numbers_go_on_after_a_crash,
    followers_go_on_after_a_crash,
    progress_that_was_made_durable_survives,
);
