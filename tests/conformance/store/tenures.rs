//! Tenures: what a crash leaves behind.

use everpost_core::{
    lease::Lease,
    store::{Legacy, Tenures},
};

use super::{
    on_every_store,
    records::{lease, position},
    stage::Stage,
};

async fn an_orderly_end_leaves_nothing(store: Stage) {
    assert_eq!(begin(&*store, 1, "a", 5).await, Legacy::default());
    store.end_tenure(&of(1)).await.expect("writable");
    assert_eq!(begin(&*store, 2, "b", 5).await, Legacy::default());
    assert_eq!(begin(&*store, 2, "b", 5).await, Legacy::default(), "getting its own lease back is no crash");
}

async fn crashes_without_progress_add_up_and_name_their_suspect(store: Stage) {
    begin(&*store, 1, "a", 5).await;
    assert_eq!(begin(&*store, 2, "b", 5).await, Legacy { crashes: 1, suspect: None });
    assert_eq!(begin(&*store, 3, "c", 5).await, Legacy { crashes: 2, suspect: None });
    store.suspect(&of(3), position(6)).await.expect("writable");
    store.suspect(&of(2), position(7)).await.expect("without effect: that tenure is over");
    store.end_tenure(&of(2)).await.expect("without effect too");
    let store = store.reopen().await;
    let legacy = begin(&*store, 4, "d", 6).await;
    assert_eq!(legacy, Legacy { crashes: 2, suspect: Some(position(6)) }, "it got further, but not past its suspect");
    assert_eq!(begin(&*store, 5, "e", 7).await, Legacy { crashes: 1, suspect: None });
}

async fn partitions_and_roles_are_apart(store: Stage) {
    begin(&*store, 1, "a", 5).await;
    let other = lease(1, 1, position(5)).0;
    assert_eq!(store.begin_tenure(&other, "b", position(5)).await.expect("writable"), Legacy::default());
    let other = Lease { role: everpost_core::role::Role::Fanout, ..of(1) };
    assert_eq!(store.begin_tenure(&other, "b", position(5)).await.expect("writable"), Legacy::default());
}

fn of(token: u64) -> Lease {
    lease(0, token, position(1)).0
}

async fn begin(store: &(impl Tenures + ?Sized), token: u64, worker: &str, at: u64) -> Legacy {
    store.begin_tenure(&of(token), worker, position(at)).await.expect("writable")
}

on_every_store!(
    an_orderly_end_leaves_nothing,
    crashes_without_progress_add_up_and_name_their_suspect,
    partitions_and_roles_are_apart,
);
