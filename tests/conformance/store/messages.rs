//! Storing events: density, replays, forks, fencing, and reading them back.

use bytes::Bytes;
use everpost_core::{
    event::Record,
    lease::Lease,
    log::Top,
    partition::Partition,
    position::Position,
    role::Role,
    store::{StoreError, Stretch},
};

use super::{
    on_every_store,
    records::{all, conversation, keyed, lease, persist, position, record, run, want},
    stage::Stage,
};

async fn a_batch_reads_back_as_it_was_in_order(store: Stage) {
    let mut records = run("general", 1..=20);
    records.push(keyed("general", 21, "bob", Some("order 'n' \"17\" - ?")));
    assert_eq!(persist(&*store, &records).await, 21);
    assert_eq!(all(&*store, "general").await, records);
}

async fn a_batch_of_many_conversations_keeps_each_dense(store: Stage) {
    let mixed: Vec<Record> = (1..=600).flat_map(|seq| [record("a", seq), record("b", seq)]).collect();
    assert_eq!(persist(&*store, &mixed).await, 1_200);
    for id in ["a", "b"] {
        let seqs: Vec<u64> = all(&*store, id).await.iter().map(|r| r.event().expect("well formed").seq).collect();
        assert_eq!(seqs, (1..=600).collect::<Vec<_>>());
    }
}

async fn a_stretch_counts_what_is_there(store: Stage) {
    persist(&*store, &[run("general", 1..=20), run("other", 3..=4)].concat()).await;
    let stretch = |id: &str, first, last| Stretch { conversation: conversation(id), first, last };
    let asked =
        [stretch("general", 5, 9), stretch("nowhere", 1, 9), stretch("other", 1, 9), stretch("general", 20, 99)];
    assert_eq!(store.count(&asked).await.expect("readable"), [5, 0, 2, 1]);
    assert_eq!(store.count(&[]).await.expect("readable"), Vec::<u64>::new());
}

async fn a_conversation_need_not_exist(store: Stage) {
    assert_eq!(persist(&*store, &[record("nowhere", 1)]).await, 1);
    assert_eq!(store.conversation(&conversation("nowhere")).await.expect("readable"), None);
}

async fn the_same_batch_again_inserts_nothing(store: Stage) {
    let mut records = run("general", 1..=5);
    records.push(keyed("general", 6, "alice", Some("k")));
    assert_eq!(persist(&*store, &records).await, 6);
    assert_eq!(persist(&*store, &records).await, 0);
    assert_eq!(all(&*store, "general").await, records);
}

async fn an_overlapping_batch_inserts_the_new_part(store: Stage) {
    let records = run("general", 1..=8);
    assert_eq!(persist(&*store, &records[..5]).await, 5);
    assert_eq!(persist(&*store, &records[2..]).await, 3);
    assert_eq!(all(&*store, "general").await, records);
}

async fn a_record_twice_in_one_batch_is_stored_once(store: Stage) {
    let first = keyed("general", 1, "alice", Some("k"));
    assert_eq!(persist(&*store, &[first.clone(), first.clone()]).await, 1);
    assert_eq!(all(&*store, "general").await, [first]);
}

async fn a_fork_is_reported_and_changes_nothing(store: Stage) {
    let records = run("general", 1..=3);
    persist(&*store, &records).await;
    let batch = [record("general", 4), record("general", 2), record("general", 5)];
    let refused = store.persist(&[lease(0, 9, position(5))], &batch).await;
    assert!(matches!(refused, Err(StoreError::Fork(at)) if at == position(2)), "{refused:?}");
    assert_eq!(all(&*store, "general").await, records);
    assert_eq!(store.stored(1).await.expect("readable"), [position(3)]);
    assert_eq!(persist(&*store, &[record("general", 4)]).await, 1, "the refused lease was forgotten too");
}

async fn two_events_for_one_place_in_one_batch_are_a_fork(store: Stage) {
    let refused = store.persist(&[lease(0, 1, position(1))], &[record("general", 1), record("general", 1)]).await;
    assert!(matches!(refused, Err(StoreError::Fork(at)) if at == position(1)), "{refused:?}");
    assert_eq!(all(&*store, "general").await, []);
}

async fn a_record_that_cannot_be_read_is_refused_with_its_batch(store: Stage) {
    let corrupt = Record { position: position(2), header: Bytes::from_static(b"x ?"), data: Bytes::new() };
    let refused = store.persist(&[lease(0, 1, position(2))], &[record("general", 1), corrupt]).await;
    assert!(matches!(&refused, Err(error @ StoreError::Refused(_)) if !error.is_retryable()), "{refused:?}");
    assert_eq!(all(&*store, "general").await, []);
    assert_eq!(store.stored(1).await.expect("readable"), [Position::ZERO]);
}

async fn an_older_token_is_refused_and_changes_nothing(store: Stage) {
    store.persist(&[lease(0, 7, position(1))], &run("general", 1..=1)).await.expect("the first lease");
    let late = store.persist(&[lease(0, 6, position(2))], &[record("general", 2)]).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    assert_eq!(all(&*store, "general").await.len(), 1);
    assert_eq!(store.stored(1).await.expect("readable"), [position(1)]);
}

async fn an_equal_or_newer_token_is_accepted(store: Stage) {
    for (seq, token) in [(1, 7), (2, 7), (3, 8), (4, 100)] {
        let done = [lease(0, token, position(seq))];
        assert_eq!(store.persist(&done, &[record("general", seq)]).await.expect("newest"), 1);
    }
    assert_eq!(store.stored(1).await.expect("readable"), [position(4)]);
}

async fn one_stale_lease_among_several_refuses_them_all(store: Stage) {
    store.persist(&[lease(1, 5, position(1))], &[]).await.expect("the first lease");
    let done = [lease(0, 9, position(1)), lease(1, 4, position(2)), lease(2, 9, position(1))];
    let late = store.persist(&done, &run("general", 1..=2)).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    assert_eq!(all(&*store, "general").await, []);
    assert_eq!(store.stored(3).await.expect("readable"), [Position::ZERO, position(1), Position::ZERO]);
    let older = [lease(0, 1, position(1)), lease(2, 1, position(1))];
    store.persist(&older, &[]).await.expect("the tokens shown beside the stale one do not count");
}

async fn a_lease_fences_its_own_role_and_partition_only(store: Stage) {
    store.persist(&[lease(0, 9, position(1))], &[]).await.expect("the first lease");
    let fanout = Lease { role: Role::Fanout, partition: Partition(0), token: 1 };
    store.persist(&[(fanout, position(8)), lease(1, 1, position(2))], &[]).await.expect("others' tokens");
    assert_eq!(store.stored(2).await.expect("readable"), [position(1), position(2)], "fanout stores nothing");
}

async fn what_is_stored_never_moves_back(store: Stage) {
    store.persist(&[lease(0, 1, position(9)), lease(3, 1, position(4))], &[]).await.expect("valid");
    store.persist(&[lease(0, 2, position(5))], &[]).await.expect("a new owner reads again");
    assert_eq!(store.stored(4).await.expect("readable"), [position(9), Position::ZERO, Position::ZERO, position(4)]);
    assert_eq!(store.stored(1).await.expect("readable"), [position(9)], "only as many as were asked for");
    store.persist(&[lease(0, 2, Position::new(2, 1))], &[]).await.expect("valid");
    assert_eq!(store.stored(1).await.expect("readable"), [Position::new(2, 1)], "a new generation is later");
}

async fn two_owners_at_once_end_with_the_newer(store: Stage) {
    let records = run("general", 1..=300);
    let (old, new) = ([lease(0, 1, position(300))], [lease(0, 2, position(300))]);
    let (late, newest) = tokio::join!(store.persist(&old, &records), store.persist(&new, &records));
    let stored = newest.expect("the newer token always wins") + late.as_ref().copied().unwrap_or(0);
    assert_eq!(stored, 300, "whoever came first stored them all: {late:?}");
    let again = store.persist(&old, &[]).await;
    assert!(matches!(again, Err(StoreError::Fenced)), "{again:?}");
}

async fn pages_come_in_the_order_asked_and_end_at_the_limit(store: Stage) {
    let (a, b) = (run("a", 1..=10), run("b", 1..=3));
    persist(&*store, &a).await;
    persist(&*store, &b).await;
    let wants = [want("b", 1), want("nothing", 0), want("a", 4), want("a", 0), want("a", 10), want("b", u64::MAX)];
    let pages = store.after(&wants, 3).await.expect("readable");
    assert_eq!(pages, [&b[1..], &[], &a[4..7], &a[..3], &[], &[]]);
    assert_eq!(store.after(&[want("a", 8)], usize::MAX).await.expect("readable"), [&a[8..]]);
    assert_eq!(store.after(&[want("a", 0)], 0).await.expect("readable"), [&[] as &[Record]]);
    assert!(store.after(&[], 3).await.expect("readable").is_empty());
}

async fn earlier_pages_are_in_sequence_order_too(store: Stage) {
    let records = run("general", 1..=10);
    persist(&*store, &records).await;
    let general = conversation("general");
    assert_eq!(store.before(&general, None, 3).await.expect("readable"), records[7..]);
    assert_eq!(store.before(&general, Some(8), 3).await.expect("readable"), records[4..7]);
    assert_eq!(store.before(&general, Some(3), 3).await.expect("readable"), records[..2]);
    assert_eq!(store.before(&general, Some(1), 3).await.expect("readable"), []);
    assert_eq!(store.before(&general, Some(u64::MAX), 1).await.expect("readable"), records[9..]);
    assert_eq!(store.before(&conversation("nothing"), None, 3).await.expect("readable"), []);
}

async fn tops_are_the_last_numbers_in_the_order_asked(store: Stage) {
    persist(&*store, &run("a", 1..=4)).await;
    persist(&*store, &run("b", 1..=2)).await;
    let asked = ["b", "nothing", "a", "b"].map(conversation);
    let tops = store.tops(&asked).await.expect("readable");
    let expected = asked.into_iter().zip([2, 0, 4, 2]).map(|(conversation, seq)| Top { conversation, seq });
    assert_eq!(tops, expected.collect::<Vec<_>>());
}

async fn a_position_is_located_at_or_before_it(store: Stage) {
    persist(&*store, &run("a", 1..=4)).await;
    persist(&*store, &run("b", 1..=2)).await;
    let between = Position::new(1, 25);
    let (late, last) = (Position::new(2, 1), position(4));
    let asked =
        [("a", between), ("b", late), ("a", Position::ZERO), ("nothing", late), ("a", position(3)), ("a", last)];
    let asked = asked.map(|(id, at)| (conversation(id), at));
    assert_eq!(store.locate(&asked).await.expect("readable"), [2, 2, 0, 0, 3, 4]);
}

async fn a_position_is_located_however_long_ago_it_was(store: Stage) {
    let records = [run("a", 1..=33), run("long", 1..=500)];
    for records in &records {
        persist(&*store, records).await;
    }
    let at = |offset| ["a", "long"].map(|id| (conversation(id), Position::new(1, offset)));
    let asked: Vec<_> = (0..=5_100).step_by(5).flat_map(at).collect();
    let expected: Vec<u64> =
        (0..=5_100).step_by(5).flat_map(|at: u64| [(at / 10).min(33), (at / 10).min(500)]).collect();
    assert_eq!(store.locate(&asked).await.expect("readable"), expected);
}

async fn everything_is_there_after_a_restart(store: Stage) {
    let records = run("general", 1..=50);
    store.persist(&[lease(0, 7, position(50))], &records).await.expect("valid");
    let store = store.reopen().await;
    assert_eq!(all(&*store, "general").await, records);
    assert_eq!(store.stored(1).await.expect("readable"), [position(50)]);
    let late = store.persist(&[lease(0, 6, position(51))], &[]).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "fences last: {late:?}");
    assert_eq!(store.persist(&[lease(0, 8, position(50))], &records).await.expect("newer"), 0);
}

on_every_store!(
    a_batch_reads_back_as_it_was_in_order,
    a_batch_of_many_conversations_keeps_each_dense,
    a_stretch_counts_what_is_there,
    a_conversation_need_not_exist,
    the_same_batch_again_inserts_nothing,
    an_overlapping_batch_inserts_the_new_part,
    a_record_twice_in_one_batch_is_stored_once,
    a_fork_is_reported_and_changes_nothing,
    two_events_for_one_place_in_one_batch_are_a_fork,
    a_record_that_cannot_be_read_is_refused_with_its_batch,
    an_older_token_is_refused_and_changes_nothing,
    an_equal_or_newer_token_is_accepted,
    one_stale_lease_among_several_refuses_them_all,
    a_lease_fences_its_own_role_and_partition_only,
    what_is_stored_never_moves_back,
    two_owners_at_once_end_with_the_newer,
    pages_come_in_the_order_asked_and_end_at_the_limit,
    earlier_pages_are_in_sequence_order_too,
    tops_are_the_last_numbers_in_the_order_asked,
    a_position_is_located_at_or_before_it,
    a_position_is_located_however_long_ago_it_was,
    everything_is_there_after_a_restart,
);
