//! Which log a store belongs to, and the generations it has been through.

use everpost_core::{
    generation::Generation,
    lease::Lease,
    partition::Partition,
    position::Position,
    role::Role,
    store::{Begun, Installation, StoreError},
};

use super::{on_every_store, stage::Stage};

const PARTITION: Partition = Partition(3);

fn lease(token: u64) -> Lease {
    Lease { role: Role::Persist, partition: PARTITION, token }
}

async fn the_first_log_it_meets_is_its_own(store: Stage) {
    assert_eq!(store.installation().await.expect("readable"), None);
    let (first, second) = (Installation { epoch: u32::MAX, partitions: 16 }, Installation { epoch: 8, partitions: 4 });
    assert_eq!(store.bind(first).await.expect("writable"), first);
    assert_eq!(store.bind(second).await.expect("writable"), first);
    let store = store.reopen().await;
    assert_eq!(store.installation().await.expect("readable"), Some(first));
}

async fn a_generation_stands_on_what_survived_or_is_stored(store: Stage) {
    let begun = store.begin(PARTITION, 1, 7, "restarted").await.expect("writable").expect("nobody else");
    let generation = Generation { number: 2, base: 7 };
    assert_eq!(begun, Begun { generation, stored: Position::ZERO });
    let stored = Position::new(2, 12);
    store.persist(&[(lease(generation.fence()), stored)], &[]).await.expect("the newest lease");
    let begun = store.begin(PARTITION, 2, 9, "older").await.expect("writable").expect("nobody else");
    assert_eq!(begun, Begun { generation: Generation { number: 3, base: 12 }, stored });
    let store = store.reopen().await;
    let history = store.generations(4).await.expect("readable");
    assert_eq!(history.current(PARTITION), Generation { number: 3, base: 12 });
    assert_eq!(history.current(Partition(0)), Generation::FIRST);
    assert_eq!(history.floor(PARTITION, Position::new(1, 9)), Position::new(1, 7));
}

async fn of_many_who_begin_one_does(store: Stage) {
    let begin = || store.begin(PARTITION, 1, 7, "restarted");
    let begun = futures_util::future::join_all([begin(), begin(), begin(), begin()]).await;
    let won = begun.into_iter().filter_map(|begun| begun.expect("writable")).count();
    assert_eq!(won, 1);
    assert!(store.begin(PARTITION, 3, 7, "restarted").await.expect("writable").is_none(), "2 comes after 1");
}

async fn old_leases_are_fenced_off_and_others_are_not(store: Stage) {
    let elsewhere = Lease { partition: Partition(0), ..lease(5) };
    store.persist(&[(lease(5), Position::new(1, 1))], &[]).await.expect("the newest lease");
    store.persist(&[(elsewhere, Position::new(1, 1))], &[]).await.expect("the newest lease");
    store.begin(PARTITION, 1, 1, "restarted").await.expect("writable").expect("nobody else");
    let late = store.persist(&[(lease(6), Position::new(1, 2))], &[]).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    store.persist(&[(elsewhere, Position::new(1, 2))], &[]).await.expect("another partition");
}

async fn who_comes_too_late_fences_nobody(store: Stage) {
    store.begin(PARTITION, 1, 1, "restarted").await.expect("writable").expect("nobody else");
    let owner = lease(Generation { number: 2, base: 1 }.fence() + 1);
    store.persist(&[(owner, Position::new(2, 2))], &[]).await.expect("the newest lease");
    assert!(store.begin(PARTITION, 1, 1, "restarted").await.expect("writable").is_none());
    store.persist(&[(owner, Position::new(2, 3))], &[]).await.expect("still the newest");
}

on_every_store!(
    the_first_log_it_meets_is_its_own,
    a_generation_stands_on_what_survived_or_is_stored,
    of_many_who_begin_one_does,
    old_leases_are_fenced_off_and_others_are_not,
    who_comes_too_late_fences_nobody,
);
