//! One key, one event: duplicates that slipped past the log, and finding the first.

use everpost_core::{
    event::Record,
    identity::Key,
    log::Prior,
    store::{Ask, StoreError},
};

use super::{
    on_every_store,
    records::{all, conversation, keyed, lease, persist, position, record, tombstone, user},
    stage::Stage,
};

async fn a_used_key_leaves_a_tombstone(store: Stage) {
    let (first, other) = (keyed("general", 1, "alice", Some("k")), record("general", 2));
    let (repeat, next) = (keyed("general", 3, "alice", Some("k")), record("general", 4));
    assert_eq!(persist(&*store, &[first.clone(), other.clone()]).await, 2);
    assert_eq!(persist(&*store, &[repeat.clone(), next.clone()]).await, 2, "a tombstone is new as well");
    assert_eq!(all(&*store, "general").await, [first, other, tombstone(&repeat, 1), next]);
}

async fn a_tombstone_is_recognised_when_its_record_comes_again(store: Stage) {
    let batch = [keyed("general", 1, "alice", Some("k")), keyed("general", 2, "alice", Some("k"))];
    assert_eq!(persist(&*store, &batch).await, 2);
    let stored = all(&*store, "general").await;
    assert_eq!(persist(&*store, &batch).await, 0);
    assert_eq!(persist(&*store, &batch[1..]).await, 0);
    assert_eq!(all(&*store, "general").await, stored);
}

async fn a_key_used_twice_in_one_batch_belongs_to_the_first(store: Stage) {
    let batch: Vec<Record> = (1..=4).map(|seq| keyed("general", seq, "alice", Some("k"))).collect();
    assert_eq!(persist(&*store, &batch).await, 4);
    let dead = batch[1..].iter().map(|record| tombstone(record, 1));
    assert_eq!(all(&*store, "general").await, [batch[0].clone()].into_iter().chain(dead).collect::<Vec<_>>());
}

async fn many_duplicates_in_a_large_batch_keep_the_sequence_dense(store: Stage) {
    let key = |seq: u64| format!("key {}", seq % 100);
    let batch: Vec<Record> = (1..=700).map(|seq| keyed("general", seq, "alice", Some(&key(seq)))).collect();
    assert_eq!(persist(&*store, &batch).await, 700);
    let expected = batch.iter().zip(1..).map(|(record, seq): (_, u64)| match seq {
        ..=100 => record.clone(),
        _ => tombstone(record, (seq - 1) % 100 + 1),
    });
    assert_eq!(all(&*store, "general").await, expected.collect::<Vec<_>>());
}

async fn a_key_is_the_senders_own_in_its_conversation(store: Stage) {
    let batch = [
        keyed("a", 1, "alice", Some("k")),
        keyed("a", 2, "bob", Some("k")),
        keyed("b", 1, "alice", Some("k")),
        keyed("a", 3, "alice", Some("K")),
        keyed("a", 4, "alice", None),
        keyed("a", 5, "alice", None),
    ];
    assert_eq!(persist(&*store, &batch).await, 6);
    assert!(all(&*store, "a").await.iter().all(|record| record.event().expect("well formed").name == "new_message"));
}

async fn duplicates_for_one_place_are_still_a_fork(store: Stage) {
    persist(&*store, &[keyed("general", 1, "alice", Some("k"))]).await;
    let batch = [keyed("general", 2, "alice", Some("k")), keyed("general", 2, "alice", Some("k"))];
    let refused = store.persist(&[lease(0, 1, position(2))], &batch).await;
    assert!(matches!(refused, Err(StoreError::Fork(at)) if at == position(2)), "{refused:?}");
    assert_eq!(all(&*store, "general").await.len(), 1);
}

async fn the_first_event_of_each_key_is_found_in_the_order_asked(store: Stage) {
    let odd = r#"a "quoted" 'key' \ [1,2]"#;
    let records = [keyed("a", 1, "alice", Some("k")), keyed("a", 2, "bob", Some(odd)), keyed("a", 3, "bob", Some(odd))];
    persist(&*store, &records).await;
    let asks = [ask("a", "bob", odd), ask("a", "alice", odd), ask("b", "alice", "k"), ask("a", "alice", "k")];
    let found = store.priors(&asks).await.expect("readable");
    assert_eq!(found, [Some(prior(&records[1])), None, None, Some(prior(&records[0]))]);
    assert!(store.priors(&[]).await.expect("readable").is_empty());
}

fn ask(id: &str, sender: &str, key: &str) -> Ask {
    (conversation(id), user(sender), Key::new(key).expect("a key"))
}

fn prior(record: &Record) -> Prior {
    let event = record.event().expect("well formed");
    Prior { seq: event.seq, position: event.position, message_id: event.message_id, body: event.body }
}

on_every_store!(
    a_used_key_leaves_a_tombstone,
    a_tombstone_is_recognised_when_its_record_comes_again,
    a_key_used_twice_in_one_batch_belongs_to_the_first,
    many_duplicates_in_a_large_batch_keep_the_sequence_dense,
    a_key_is_the_senders_own_in_its_conversation,
    duplicates_for_one_place_are_still_a_fork,
    the_first_event_of_each_key_is_found_in_the_order_asked,
);
