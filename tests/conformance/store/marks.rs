//! Marks that only move forward, and cursors.

use everpost_core::{
    name::{ConversationId, DeviceId, UserId},
    store::{Created, Mark, NewConversation, Reach},
};

use super::{
    on_every_store,
    records::{conversation, user},
    stage::Stage,
};

async fn a_mark_never_moves_back(store: Stage) {
    take_part(&store, &["a"], &["alice"]).await;
    for (seq, moves) in [(5, true), (3, false), (5, false), (6, true)] {
        assert_eq!(store.advance(Mark::Read, &[to("a", "alice", seq)]).await.expect("writable"), [moves], "{seq}");
    }
    assert_eq!(marks(&store, Mark::Read, "alice", &["a"]).await, [6]);
}

async fn each_of_several_marks_tells_whether_it_moved(store: Stage) {
    take_part(&store, &["a", "b"], &["alice", "bob"]).await;
    store.advance(Mark::Read, &[to("a", "alice", 5)]).await.expect("writable");
    let batch = [to("b", "alice", 1), to("a", "alice", 4), to("a", "bob", 4), to("a", "alice", 9)];
    assert_eq!(store.advance(Mark::Read, &batch).await.expect("writable"), [true, false, true, true]);
    assert_eq!(marks(&store, Mark::Read, "alice", &["a", "b"]).await, [9, 1]);
    assert_eq!(marks(&store, Mark::Read, "bob", &["a", "b"]).await, [4, 0]);
}

async fn one_mark_several_times_moves_as_if_one_by_one(store: Stage) {
    take_part(&store, &["a"], &["alice"]).await;
    let batch = [3, 5, 5, 4, 6].map(|seq| to("a", "alice", seq));
    assert_eq!(store.advance(Mark::Read, &batch).await.expect("writable"), [true, true, false, false, true]);
    assert_eq!(marks(&store, Mark::Read, "alice", &["a"]).await, [6]);
    assert!(store.advance(Mark::Read, &[]).await.expect("writable").is_empty());
}

async fn delivered_and_read_are_apart(store: Stage) {
    take_part(&store, &["a"], &["alice"]).await;
    store.advance(Mark::Delivered, &[to("a", "alice", 7)]).await.expect("writable");
    store.advance(Mark::Read, &[to("a", "alice", 2)]).await.expect("writable");
    assert_eq!(marks(&store, Mark::Delivered, "alice", &["a"]).await, [7]);
    assert_eq!(marks(&store, Mark::Read, "alice", &["a"]).await, [2]);
}

/// Whoever has read something has it.
async fn reading_overtakes_what_is_delivered(store: Stage) {
    take_part(&store, &["a"], &["alice"]).await;
    store.advance(Mark::Delivered, &[to("a", "alice", 2)]).await.expect("writable");
    store.advance(Mark::Read, &[to("a", "alice", 5)]).await.expect("writable");
    assert_eq!(reach(&store, "a", "alice").await, Reach { delivered: 5, read: 5 });
    for (seq, moves) in [(4, false), (5, false), (6, true)] {
        assert_eq!(store.advance(Mark::Delivered, &[to("a", "alice", seq)]).await.expect("writable"), [moves], "{seq}");
    }
    assert_eq!(reach(&store, "a", "alice").await, Reach { delivered: 6, read: 5 });
}

async fn who_takes_no_part_has_no_marks(store: Stage) {
    take_part(&store, &["a"], &["alice", "bob"]).await;
    store.advance(Mark::Read, &[to("a", "bob", 1)]).await.expect("writable");
    store.remove_participant(&conversation("a"), &user("bob")).await.expect("writable");
    let batch = [to("a", "bob", 2), to("a", "mallory", 1), to("nowhere", "alice", 1), to("a", "alice", 2)];
    assert_eq!(store.advance(Mark::Read, &batch).await.expect("writable"), [false, false, false, true]);
    assert_eq!(reach(&store, "a", "bob").await.read, 1, "and keeps what there was, for the day they come back");
    assert_eq!(reach(&store, "a", "mallory").await, Reach::default());
}

async fn marks_come_in_the_order_asked_and_zero_where_none_is(store: Stage) {
    take_part(&store, &["a", "b", "c"], &["alice"]).await;
    assert_eq!(store.advance(Mark::Read, &[to("c", "alice", 0)]).await.expect("writable"), [false], "0 is no mark");
    store.advance(Mark::Read, &[to("a", "alice", 1), to("b", "alice", 2)]).await.expect("writable");
    assert_eq!(marks(&store, Mark::Read, "alice", &["b", "c", "a", "b"]).await, [2, 0, 1, 2]);
    assert!(store.reaches(&[]).await.expect("readable").is_empty());
}

async fn marks_moved_at_once_end_at_the_furthest(store: Stage) {
    let ids: Vec<String> = (1..=50).map(|n| format!("c{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    take_part(&store, &ids, &["alice"]).await;
    let forth: Vec<_> = (1..=50).map(|n| to(&format!("c{n}"), "alice", n)).collect();
    let back: Vec<_> = (1..=50).rev().map(|n| to(&format!("c{n}"), "alice", 51 - n)).collect();
    let (a, b) = tokio::join!(store.advance(Mark::Read, &forth), store.advance(Mark::Read, &back));
    a.and(b).expect("they do not wait for each other forever");
    let furthest: Vec<u64> = (1..=50).map(|n: u64| n.max(51 - n)).collect();
    assert_eq!(marks(&store, Mark::Read, "alice", &ids).await, furthest);
}

async fn the_last_cursor_of_each_device_is_kept(store: Stage) {
    assert_eq!(cursor(&store, "alice", "phone").await, None);
    store.save_cursors(&[at("alice", "phone", "1"), at("alice", "tablet", "2")]).await.expect("writable");
    store.save_cursors(&[at("alice", "phone", "3"), at("bob", "phone", "4")]).await.expect("writable");
    assert_eq!(cursor(&store, "alice", "phone").await.as_deref(), Some("3"));
    assert_eq!(cursor(&store, "alice", "tablet").await.as_deref(), Some("2"));
    assert_eq!(cursor(&store, "bob", "phone").await.as_deref(), Some("4"));
    assert_eq!(cursor(&store, "bob", "tablet").await, None);
}

async fn a_device_several_times_in_one_call_keeps_its_last_cursor(store: Stage) {
    let cursors = [at("alice", "phone", "9"), at("bob", "phone", "7"), at("alice", "phone", "1")];
    store.save_cursors(&cursors).await.expect("writable");
    assert_eq!(cursor(&store, "alice", "phone").await.as_deref(), Some("1"));
    store.save_cursors(&[]).await.expect("writable");
}

async fn marks_and_cursors_are_there_after_a_restart(store: Stage) {
    take_part(&store, &["a"], &["alice"]).await;
    store.advance(Mark::Read, &[to("a", "alice", 5)]).await.expect("writable");
    store.save_cursors(&[at("alice", "phone", "c")]).await.expect("writable");
    let store = store.reopen().await;
    assert_eq!(marks(&store, Mark::Read, "alice", &["a"]).await, [5]);
    assert_eq!(cursor(&store, "alice", "phone").await.as_deref(), Some("c"));
}

fn to(id: &str, name: &str, seq: u64) -> (ConversationId, UserId, u64) {
    (conversation(id), user(name), seq)
}

fn at(name: &str, device: &str, cursor: &str) -> (UserId, DeviceId, String) {
    (user(name), DeviceId::new(device).expect("a name"), cursor.to_owned())
}

async fn take_part(store: &Stage, ids: &[&str], names: &[&str]) {
    for id in ids {
        let participants = names.iter().map(|name| user(name)).collect();
        let new = NewConversation { id: conversation(id), title: None, participants, created_ms: 0 };
        assert_eq!(store.create(&new).await.expect("writable"), Created::New);
    }
}

async fn marks(store: &Stage, mark: Mark, name: &str, of: &[&str]) -> Vec<u64> {
    let of: Vec<_> = of.iter().map(|id| (conversation(id), user(name))).collect();
    let reaches = store.reaches(&of).await.expect("readable").into_iter();
    reaches.map(|reach| if mark == Mark::Read { reach.read } else { reach.delivered }).collect()
}

async fn reach(store: &Stage, id: &str, name: &str) -> Reach {
    store.reaches(&[(conversation(id), user(name))]).await.expect("readable")[0]
}

async fn cursor(store: &Stage, name: &str, device: &str) -> Option<String> {
    store.cursor(&user(name), &DeviceId::new(device).expect("a name")).await.expect("readable")
}

on_every_store!(
    a_mark_never_moves_back,
    each_of_several_marks_tells_whether_it_moved,
    one_mark_several_times_moves_as_if_one_by_one,
    delivered_and_read_are_apart,
    reading_overtakes_what_is_delivered,
    who_takes_no_part_has_no_marks,
    marks_come_in_the_order_asked_and_zero_where_none_is,
    marks_moved_at_once_end_at_the_furthest,
    the_last_cursor_of_each_device_is_kept,
    a_device_several_times_in_one_call_keeps_its_last_cursor,
    marks_and_cursors_are_there_after_a_restart,
);
