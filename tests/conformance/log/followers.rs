//! Groups: each role at its own pace, each partition with one owner, nothing skipped at a change of owners.

use std::time::Duration;

use everpost_core::{event::Record, log::LogError, position::Position, role::Role};

use super::{
    drafts::{SOON, append, begin, draft, drafts, placed, read, read_nothing, take},
    on_every_log,
    stage::Stage,
};

async fn roles_follow_at_their_own_pace(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let (fast, slow) =
        (take(&*log, Role::Persist, partition, "a").await, take(&*log, Role::Fanout, partition, "a").await);
    let mut first = log.follow(Role::Persist).await.expect("the log answers");
    let mut second = log.follow(Role::Fanout).await.expect("the log answers");
    let mut records = placed(&*log, &drafts("general", 5)).await;
    assert_eq!(read(&mut *first, fast, 5).await, records);
    first.ack(&[(fast, records[4].position)]).await.expect("ours");
    records.extend(placed(&*log, &drafts("general", 3)).await);
    assert_eq!(read(&mut *first, fast, 3).await, records[5..]);
    assert_eq!(read(&mut *second, slow, 8).await, records);
    assert_eq!(progress(&log, Role::Persist).await, records[4].position);
    assert_eq!(progress(&log, Role::Fanout).await, Position::ZERO, "read is not done");
}

async fn what_was_read_is_not_read_again_by_its_owner(log: Stage) {
    begin(&*log, &["general"]).await;
    let lease = take(&*log, Role::Persist, log.partitions().of("general"), "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let records = placed(&*log, &drafts("general", 4)).await;
    assert_eq!(read(&mut *follower, lease, 4).await, records);
    read_nothing(&mut *follower, lease).await;
    follower.ack(&[(lease, records[3].position)]).await.expect("ours");
    read_nothing(&mut *follower, lease).await;
}

async fn a_new_owner_reads_what_the_last_one_left_and_then_what_is_new(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let mut records = placed(&*log, &drafts("general", 150)).await;
    let lease = take(&*log, Role::Persist, partition, "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    read(&mut *follower, lease, 150).await;
    follower.ack(&[(lease, records[9].position)]).await.expect("ours");
    records.extend(placed(&*log, &drafts("general", 5)).await);
    for owner in ["b", "c"] {
        let lease = take(&*log, Role::Persist, partition, owner).await;
        let mut follower = log.follow(Role::Persist).await.expect("the log answers");
        assert_eq!(read(&mut *follower, lease, 145).await, records[10..]);
    }
}

async fn what_somebody_was_handed_before_is_a_redelivery(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    placed(&*log, &drafts("general", 3)).await;
    let lease = take(&*log, Role::Persist, partition, "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    read(&mut *follower, lease, 3).await;
    let lease = take(&*log, Role::Persist, partition, "b").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let again = follower.read(&[lease], 100, SOON).await.expect("readable");
    assert!(!again.is_empty() && again.iter().all(|batch| batch.redelivered), "{again:?}");
    placed(&*log, &drafts("general", 2)).await;
    let fresh = follower.read(&[lease], 100, SOON).await.expect("readable");
    assert!(!fresh.is_empty() && fresh.iter().all(|batch| !batch.redelivered), "{fresh:?}");
}

async fn a_late_acknowledgement_is_fenced_and_changes_nothing(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let records = placed(&*log, &drafts("general", 5)).await;
    let old = take(&*log, Role::Persist, partition, "a").await;
    let mut late = log.follow(Role::Persist).await.expect("the log answers");
    read(&mut *late, old, 5).await;
    late.ack(&[(old, records[1].position)]).await.expect("ours");
    let new = take(&*log, Role::Persist, partition, "b").await;
    let refused = late.ack(&[(old, records[4].position)]).await;
    assert!(matches!(refused, Err(LogError::Fenced)), "{refused:?}");
    assert_eq!(progress(&log, Role::Persist).await, records[1].position);
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    assert_eq!(read(&mut *follower, new, 3).await, records[2..]);
}

async fn a_late_reader_takes_nothing_away(log: Stage) {
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let old = take(&*log, Role::Persist, partition, "a").await;
    let mut late = log.follow(Role::Persist).await.expect("the log answers");
    let mut records = placed(&*log, &drafts("general", 2)).await;
    read(&mut *late, old, 2).await;
    let new = take(&*log, Role::Persist, partition, "b").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    read(&mut *follower, new, 2).await;
    follower.ack(&[(new, records[1].position)]).await.expect("ours");
    records.extend(placed(&*log, &drafts("general", 3)).await);
    // A read that was on its way since before the takeover arrives now.
    late.read(&[old], 100, Duration::from_millis(20)).await.expect("it cannot know");
    records.extend(placed(&*log, &drafts("general", 3)).await);
    assert_eq!(eventually_read(&mut *follower, new, 6).await, records[2..], "in order and without a gap");
}

async fn a_lease_that_was_away_is_read_as_if_new(log: Stage) {
    begin(&*log, &["general"]).await;
    let lease = take(&*log, Role::Persist, log.partitions().of("general"), "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let mut records = placed(&*log, &drafts("general", 4)).await;
    read(&mut *follower, lease, 4).await;
    follower.ack(&[(lease, records[0].position)]).await.expect("ours");
    assert_eq!(follower.read(&[], 100, Duration::ZERO).await.expect("harmless"), []);
    records.extend(placed(&*log, &drafts("general", 2)).await);
    assert_eq!(read(&mut *follower, lease, 5).await, records[1..]);
}

async fn progress_never_moves_back(log: Stage) {
    begin(&*log, &["general"]).await;
    let lease = take(&*log, Role::Persist, log.partitions().of("general"), "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let records = placed(&*log, &drafts("general", 4)).await;
    read(&mut *follower, lease, 4).await;
    for at in [2, 2, 0] {
        follower.ack(&[(lease, records[at].position)]).await.expect("ours");
        assert_eq!(progress(&log, Role::Persist).await, records[2].position);
    }
    follower.ack(&[]).await.expect("harmless");
}

async fn one_lost_partition_does_not_hold_up_the_others(log: Stage) {
    let mut follower = log.follow(Role::Fanout).await.expect("the log answers");
    let (mut leases, mut done) = (Vec::new(), Vec::new());
    for partition in log.partitions().iter() {
        let room = (0..).map(|n| format!("room-{n}")).find(|room| log.partitions().of(room) == partition);
        let room = room.expect("every partition has rooms");
        begin(&*log, &[&room]).await;
        let records = placed(&*log, &drafts(&room, 3)).await;
        leases.push(take(&*log, Role::Fanout, partition, "a").await);
        done.push((leases[partition.index()], records[2].position));
    }
    let mut found = 0;
    while found < 3 * leases.len() {
        let batches = follower.read(&leases, 1_000, Duration::from_secs(1)).await.expect("readable");
        found += batches.iter().map(|batch| batch.records.len()).sum::<usize>();
    }
    take(&*log, Role::Fanout, leases[0].partition, "b").await;
    assert!(matches!(follower.ack(&done).await, Err(LogError::Fenced)));
    let mut expected: Vec<Position> = done.iter().map(|(_, position)| *position).collect();
    expected[0] = Position::ZERO;
    assert_eq!(log.progress(Role::Fanout).await.expect("readable"), expected);
}

async fn a_waiting_reader_is_woken(log: Stage) {
    begin(&*log, &["general"]).await;
    let lease = take(&*log, Role::Fanout, log.partitions().of("general"), "a").await;
    let mut follower = log.follow(Role::Fanout).await.expect("the log answers");
    let sent = draft("general");
    let leases = [lease];
    let (batches, answers) =
        tokio::join!(follower.read(&leases, 100, Duration::from_secs(60)), append(&*log, std::slice::from_ref(&sent)));
    let records: Vec<Record> = batches.expect("readable").into_iter().flat_map(|batch| batch.records).collect();
    assert_eq!(records, [super::drafts::record(&sent, &answers[0])]);
}

async fn progress(log: &Stage, role: Role) -> Position {
    log.progress(role).await.expect("readable")[log.partitions().of("general").index()]
}

/// Reads as a worker does, again and again, because a read may find out only that it has to look back.
async fn eventually_read(
    follower: &mut dyn everpost_core::log::Follower,
    lease: everpost_core::lease::Lease,
    count: usize,
) -> Vec<Record> {
    let mut records = Vec::new();
    for _ in 0..10 {
        let batches = follower.read(&[lease], 100, super::drafts::SOON).await.expect("readable");
        records.extend(batches.into_iter().flat_map(|batch| batch.records));
        if records.len() >= count {
            break;
        }
    }
    records
}

on_every_log!(
    roles_follow_at_their_own_pace,
    what_was_read_is_not_read_again_by_its_owner,
    a_new_owner_reads_what_the_last_one_left_and_then_what_is_new,
    what_somebody_was_handed_before_is_a_redelivery,
    a_late_acknowledgement_is_fenced_and_changes_nothing,
    a_late_reader_takes_nothing_away,
    a_lease_that_was_away_is_read_as_if_new,
    progress_never_moves_back,
    one_lost_partition_does_not_hold_up_the_others,
    a_waiting_reader_is_woken,
);
