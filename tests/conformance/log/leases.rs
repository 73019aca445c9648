//! Leases: one owner at a time, tokens that only grow, and nobody believed to hold what was given back.

use everpost_core::{
    lease::{Lease, LeaseView},
    partition::Partition,
    role::Role,
};
use tokio::task::JoinSet;

use super::{
    drafts::{take, view},
    on_every_log,
    stage::Stage,
};

const FIRST: Partition = Partition(0);

async fn at_first_all_leases_are_free(log: Stage) {
    for role in Role::ALL {
        let views = log.view(role).await.expect("readable");
        assert_eq!(views, vec![LeaseView::default(); log.partitions().count()]);
    }
}

async fn a_lease_is_taken_only_as_it_was_seen(log: Stage) {
    let seen = view(&*log, Role::Persist, FIRST).await;
    let lease = log.acquire(Role::Persist, FIRST, "a", &seen).await.expect("the log answers").expect("it was free");
    let stale = log.acquire(Role::Persist, FIRST, "b", &seen).await.expect("the log answers");
    assert_eq!(stale, None, "it is another owner's by now");
    let seen = view(&*log, Role::Persist, FIRST).await;
    assert_eq!((seen.owner.as_deref(), seen.token), (Some("a"), lease.token));
    assert_eq!(log.beat(&[lease]).await.expect("the log answers"), [true]);
    let beaten = log.acquire(Role::Persist, FIRST, "b", &seen).await.expect("the log answers");
    assert_eq!(beaten, None, "its owner lives");
    assert_ne!(view(&*log, Role::Persist, FIRST).await, seen);
}

async fn of_many_racers_one_wins(log: Stage) {
    let seen = view(&*log, Role::Fanout, FIRST).await;
    let mut racers = JoinSet::new();
    for n in 0..16 {
        let (log, seen) = (log.share(), seen.clone());
        racers.spawn(async move {
            let owner = format!("racer-{n}");
            let won = log.acquire(Role::Fanout, FIRST, &owner, &seen).await.expect("the log answers");
            won.map(|lease| (owner, lease.token))
        });
    }
    let winners: Vec<(String, u64)> = racers.join_all().await.into_iter().flatten().collect();
    let seen = view(&*log, Role::Fanout, FIRST).await;
    assert_eq!(winners, [(seen.owner.expect("somebody won"), seen.token)]);
}

async fn tokens_grow_with_every_owner(log: Stage) {
    let mut before = 0;
    for owner in ["a", "b", "a", "a"] {
        let lease = take(&*log, Role::Persist, FIRST, owner).await;
        assert!(lease.token > before);
        assert_eq!((lease.role, lease.partition), (Role::Persist, FIRST));
        before = lease.token;
    }
}

async fn a_beat_tells_whether_each_lease_is_held(log: Stage) {
    let mine = take(&*log, Role::Persist, FIRST, "a").await;
    let other = take(&*log, Role::Fanout, FIRST, "a").await;
    assert_eq!(log.beat(&[other, mine]).await.expect("the log answers"), [true, true]);
    let theirs = take(&*log, Role::Persist, FIRST, "b").await;
    assert_eq!(log.beat(&[mine, other, theirs]).await.expect("the log answers"), [false, true, true]);
    assert!(log.beat(&[]).await.expect("the log answers").is_empty());
    let before = view(&*log, Role::Persist, FIRST).await;
    log.beat(&[mine]).await.expect("the log answers");
    assert_eq!(view(&*log, Role::Persist, FIRST).await, before, "who lost it moves nothing");
}

async fn a_lease_given_back_is_free_at_once(log: Stage) {
    let lease = take(&*log, Role::Persist, FIRST, "a").await;
    log.release(&lease).await.expect("the log answers");
    let free = view(&*log, Role::Persist, FIRST).await;
    assert_eq!((free.owner.as_ref(), free.token), (None, lease.token));
    assert_eq!(log.beat(&[lease]).await.expect("the log answers"), [false], "given back is not held");
    log.release(&lease).await.expect("harmless");
    assert_eq!(view(&*log, Role::Persist, FIRST).await, free, "and nobody who saw it free is in the way");
    let next = log.acquire(Role::Persist, FIRST, "b", &free).await.expect("the log answers").expect("it is free");
    assert!(next.token > lease.token);
    log.release(&lease).await.expect("harmless");
    assert_eq!(view(&*log, Role::Persist, FIRST).await.owner.as_deref(), Some("b"), "it is no longer a's to give");
}

async fn each_role_and_partition_has_its_own_lease(log: Stage) {
    let mut leases: Vec<Lease> = Vec::new();
    for (n, role) in Role::ALL.into_iter().enumerate() {
        for partition in log.partitions().iter() {
            leases.push(take(&*log, role, partition, &format!("owner-{n}")).await);
        }
    }
    assert!(log.beat(&leases).await.expect("the log answers").into_iter().all(|held| held));
    for (n, role) in Role::ALL.into_iter().enumerate() {
        let owners = log.view(role).await.expect("readable").into_iter().map(|view| view.owner.expect("it is taken"));
        assert!(owners.eq(log.partitions().iter().map(|_| format!("owner-{n}"))));
    }
}

async fn workers_are_known_until_they_retire(log: Stage) {
    log.announce(Role::Persist, "a").await.expect("the log answers");
    log.announce(Role::Fanout, "c").await.expect("the log answers");
    log.announce(Role::Persist, "b").await.expect("the log answers");
    let mut known = log.announce(Role::Persist, "a").await.expect("the log answers");
    known.sort();
    assert_eq!(known, [("a".to_owned(), 2), ("b".to_owned(), 1)], "each with its count");
    log.retire(Role::Persist, "a").await.expect("the log answers");
    log.retire(Role::Persist, "a").await.expect("harmless");
    assert_eq!(log.announce(Role::Persist, "b").await.expect("the log answers"), [("b".to_owned(), 2)]);
}

async fn tokens_grow_over_a_crash(log: Stage) {
    let before = take(&*log, Role::Persist, FIRST, "a").await;
    let log = log.crash().await;
    let lease = take(&*log, Role::Persist, FIRST, "b").await;
    assert!(lease.token > before.token);
    assert_eq!(log.beat(&[before, lease]).await.expect("the log answers"), [false, true]);
    let log = log.reopen().await;
    assert!(take(&*log, Role::Persist, FIRST, "c").await.token > lease.token);
}

on_every_log!(
    at_first_all_leases_are_free,
    a_lease_is_taken_only_as_it_was_seen,
    of_many_racers_one_wins,
    tokens_grow_with_every_owner,
    a_beat_tells_whether_each_lease_is_held,
    a_lease_given_back_is_free_at_once,
    each_role_and_partition_has_its_own_lease,
    workers_are_known_until_they_retire,
    tokens_grow_over_a_crash,
);
