//! When people were last connected.

use everpost_core::name::UserId;

use super::{on_every_store, records::user, stage::Stage};

fn at(name: &str, ms: u64) -> (UserId, u64) {
    (user(name), ms)
}

async fn seen(store: &Stage, name: &str) -> Option<u64> {
    store.last_seen(&user(name)).await.expect("readable")
}

async fn the_last_moment_of_each_user_is_kept(store: Stage) {
    store.save_last_seen(&[at("alice", 5), at("bob", 7)]).await.expect("writable");
    store.save_last_seen(&[at("alice", 3), at("bob", 9), at("bob", 8)]).await.expect("writable");
    store.save_last_seen(&[]).await.expect("writable");
    let store = store.reopen().await;
    assert_eq!((seen(&store, "alice").await, seen(&store, "bob").await), (Some(5), Some(9)));
    assert_eq!(seen(&store, "carol").await, None);
}

on_every_store!(the_last_moment_of_each_user_is_kept);
