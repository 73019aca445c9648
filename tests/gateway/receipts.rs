//! Receipts: who has got and read what, what is unread, and who is typing.

use std::time::Duration;

use everpost_core::{pressure::Level, role::Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    app::{API_KEY, App, on_every_engine},
    client::Client,
    eventually::eventually,
};

const WRITES: &str = "everpost_gateway_mark_writes_total";

async fn acknowledge(client: &mut Client) {
    client.send(json!({"type": "ack", "cursor": client.cursor()})).await;
}

async fn read(client: &mut Client, seq: u64) {
    client.send(json!({"type": "read", "conversation_id": "room", "seq": seq})).await;
}

/// The next time a client is told of a mark of that user.
async fn told(client: &mut Client, event: &str, of: &str) -> Value {
    client.next_where(event, |frame| frame["event"] == event && frame["data"]["user_id"] == of).await
}

/// Whether a client has been told of a mark of that user.
fn was_told(client: &Client, event: &str, of: &str) -> bool {
    client.heard().iter().any(|frame| frame["event"] == event && frame["data"]["user_id"] == of)
}

/// The conversation as a user sees it at a gateway.
async fn seen_by(app: &App, gateway: usize, user: &str) -> Value {
    app.ask(gateway, Method::GET, "/v1/conversations/room", &app.token(user), None).await.ok()
}

/// Waits until a user finds these numbers of unread, read and delivered events.
async fn comes_to(app: &App, gateway: usize, user: &str, expected: [u64; 3]) {
    eventually(&format!("{user} finds {expected:?}"), async || {
        let seen = seen_by(app, gateway, user).await;
        ["unread_count", "read_up_to", "delivered_up_to"].map(|member| seen[member].as_u64().expect("a number"))
            == expected
    })
    .await;
}

async fn a_sender_learns_what_was_delivered_and_read_elsewhere(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    let mut tablet = app.connect_to(1, "alice", "/v1/ws").await;
    for _ in 0..3 {
        alice.text("room", "hi").await;
    }
    bob.expect_seqs(1..=2).await;
    acknowledge(&mut bob).await;
    for device in [&mut alice, &mut tablet] {
        let delivered = told(device, "message_delivered", "bob").await;
        assert_eq!(delivered["data"], json!({"user_id": "bob", "up_to": 2}));
        assert_eq!(delivered["conversation_id"], "room");
        assert!(delivered["seq"].is_null() && delivered["cursor"].is_null(), "{delivered}");
    }
    bob.expect_seqs([3]).await;
    read(&mut bob, 3).await;
    for device in [&mut alice, &mut tablet, &mut bob] {
        assert_eq!(told(device, "message_read", "bob").await["data"]["up_to"], 3);
    }
    acknowledge(&mut bob).await;
    bob.round_trip().await;
    comes_to(&app, 0, "bob", [0, 3, 3]).await;
    alice.text("room", "more").await;
    bob.expect_seqs([4]).await;
    acknowledge(&mut bob).await;
    let delivered = told(&mut alice, "message_delivered", "bob").await;
    assert_eq!(delivered["data"]["up_to"], 4, "3 was read, so nobody is told that it was delivered");
}

async fn own_events_are_not_unread_and_those_of_others_are(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let mut alice = app.connect("alice").await;
    for _ in 0..3 {
        alice.text("room", "hi").await;
    }
    app.settle("room", "alice").await;
    comes_to(&app, 0, "alice", [0, 4, 4]).await;
    comes_to(&app, 1, "alice", [0, 4, 4]).await;
    comes_to(&app, 1, "bob", [4, 0, 0]).await;
    let body = json!({"seq": 3});
    let path = "/v1/conversations/room/read";
    assert_eq!(app.ask(1, Method::POST, path, &app.token("bob"), Some(body)).await.status, 204);
    comes_to(&app, 0, "bob", [1, 3, 3]).await;
    app.say("room", "bob", "an answer").await;
    comes_to(&app, 1, "bob", [0, 5, 5]).await;
    comes_to(&app, 1, "alice", [1, 4, 4]).await;
    let answered = alice.next_where("bob's answer", |frame| frame["data"]["user_id"] == "bob").await;
    let answered =
        if answered["data"]["up_to"] == 3 { told(&mut alice, "message_read", "bob").await } else { answered };
    assert_eq!(answered["data"]["up_to"], 5, "who answers has read what was before");
    let event = json!({"type": "order_shipped", "conversation_id": "room", "data": {}});
    assert_eq!(app.post("/v1/events", API_KEY, event).await.status, 201);
    comes_to(&app, 0, "bob", [1, 5, 5]).await;
}

async fn marks_never_move_back_nor_beyond_what_there_is(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    for _ in 0..4 {
        app.say("room", "alice", "hi").await;
    }
    app.settle("room", "alice").await;
    let mut bob = app.connect("bob").await;
    for (seq, expected) in [(4, 4), (2, 4), (1_000_000, 5), (3, 5)] {
        read(&mut bob, seq).await;
        bob.round_trip().await;
        comes_to(&app, 0, "bob", [5 - expected, expected, expected]).await;
    }
    app.say("room", "alice", "one more").await;
    comes_to(&app, 1, "bob", [1, 5, 5]).await;
}

async fn marks_survive_a_restart(mut app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = app.connect("bob").await;
    for _ in 0..4 {
        app.say("room", "alice", "hi").await;
    }
    bob.expect_seqs(1..=4).await;
    read(&mut bob, 2).await;
    acknowledge(&mut bob).await;
    bob.round_trip().await;
    app.stop().await; // what waited is written as it drains
    app.start_gateways().await;
    comes_to(&app, 0, "bob", [2, 2, 4]).await;
    let marks = seen_by(&app, 0, "alice").await["marks"].clone();
    assert_eq!(marks[1], json!({"user_id": "bob", "read_up_to": 2, "delivered_up_to": 4}));
}

/// Counts calls: a hundred publishes, and of each of ten people a hundred acknowledgements and as many reads.
async fn many_marks_are_few_calls(app: App) {
    let people: Vec<String> = (0..10).map(|n| format!("user-{n}")).collect();
    app.conversation("room", &people.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut clients = Vec::new();
    for user in &people {
        clients.push(app.connect(user).await);
    }
    let (before, began) = (app.metric(WRITES).await.unwrap_or_default(), std::time::Instant::now());
    for seq in 1..=100 {
        clients[0].text("room", "hi").await;
        for client in &mut clients {
            client.expect_seqs([seq]).await;
            acknowledge(client).await;
            read(client, seq).await;
        }
    }
    let writes = app.metric(WRITES).await.expect("it is counted") - before;
    // One for each kind of mark in each second, and one more of each for the second that has begun.
    let most = 2.0 * (began.elapsed().as_secs_f64() + 2.0);
    assert!(writes > 0.0 && writes <= most && most < 2_100.0, "{writes} calls, at most {most}");
    for user in people.iter().skip(1) {
        comes_to(&app, 0, user, [0, 100, 100]).await;
    }
}

async fn who_is_removed_is_told_nothing_and_moves_nothing(app: App) {
    app.conversation("room", &["alice", "bob", "carol"]).await;
    app.conversation("hall", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    alice.text("room", "hi").await;
    bob.expect_seqs([1]).await;
    assert_eq!(app.delete("/v1/conversations/room/participants/bob", API_KEY).await.status, 204);
    eventually("bob is out", async || {
        let refused = bob.ask(json!({"type": "text", "conversation_id": "room", "content": "still in"})).await;
        refused["data"]["code"] == "forbidden"
    })
    .await;
    acknowledge(&mut bob).await;
    let mut carol = app.connect("carol").await;
    read(&mut carol, 1).await;
    told(&mut alice, "message_read", "carol").await;
    let mut hall = app.connect_to(1, "alice", "/v1/ws").await;
    hall.text("hall", "last").await;
    bob.next_where("the last message", |frame| frame["conversation_id"] == "hall" && frame["seq"] == 1).await;
    assert!(!was_told(&bob, "message_read", "carol"), "bob takes no part any more");
    let marks = seen_by(&app, 0, "alice").await["marks"].clone();
    assert!(marks.as_array().expect("marks").iter().all(|mark| mark["user_id"] != "bob"), "{marks}");
}

async fn typing_ends_by_itself(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    let frame = json!({"type": "typing", "conversation_id": "room", "is_typing": true});
    alice.send(frame.clone()).await;
    assert_eq!(bob.next_event("typing").await["data"], json!({"user_id": "alice", "is_typing": true}));
    let ended = bob.next_event("typing").await;
    assert_eq!(ended["data"], json!({"user_id": "alice", "is_typing": false}), "without another word of alice");
    alice.send(frame).await;
    assert_eq!(bob.next_event("typing").await["data"]["is_typing"], true);
    alice.close().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), bob.next_event("typing")).await;
    assert_eq!(ended.expect("sooner than it would end by itself")["data"]["is_typing"], false);
}

#[tokio::test]
async fn in_a_large_conversation_marks_are_kept_and_only_ones_own_devices_are_told() {
    let app = App::distributed_with(&[("max_receipt_participants", "2")]).await;
    app.conversation("room", &["alice", "bob", "carol"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect("bob").await);
    let mut tablet = app.connect_to(1, "bob", "/v1/ws").await;
    alice.text("room", "hi").await;
    bob.expect_seqs([1]).await;
    acknowledge(&mut bob).await;
    read(&mut bob, 1).await;
    assert_eq!(told(&mut tablet, "message_read", "bob").await["data"]["up_to"], 1);
    comes_to(&app, 1, "bob", [0, 1, 1]).await;
    assert!(seen_by(&app, 0, "alice").await["marks"].is_null());
    alice.round_trip().await;
    assert!(!was_told(&alice, "message_read", "bob"), "{:?}", alice.heard());
}

#[tokio::test]
async fn under_pressure_marks_are_kept_and_nobody_is_told() {
    let mut app = App::embedded_with(&[("backlog_budget", "20")]).await;
    app.conversation("room", &["alice", "bob"]).await;
    app.restart_with(&[Role::Fanout]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect("bob").await);
    for _ in 0..6 {
        alice.text("room", "hi").await;
    }
    app.pressed(Level::Yellow).await;
    bob.expect_seqs(1..=6).await;
    read(&mut bob, 6).await;
    bob.round_trip().await;
    eventually("the mark is kept", async || seen_by(&app, 0, "bob").await["read_up_to"] == 6).await;
    alice.round_trip().await;
    assert!(!was_told(&alice, "message_read", "bob"), "{:?}", alice.heard());
}

async fn the_list_is_by_activity_with_what_is_new(app: App) {
    for room in ["a", "b", "c"] {
        app.conversation(room, &["alice", "bob"]).await;
    }
    for room in ["c", "a", "b"] {
        app.say(room, "alice", &format!("in {room}")).await;
        app.settle(room, "alice").await;
    }
    let bob = app.token("bob");
    let page = app.ask(1, Method::GET, "/v1/conversations?limit=2", &bob, None).await.ok();
    let listed = page["conversations"].as_array().expect("a list");
    assert_eq!(listed.iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&json!("b"), &json!("a")]);
    assert_eq!((&listed[0]["unread_count"], &listed[0]["last_seq"]), (&json!(2), &json!(2)));
    let last = &listed[0]["last_message"];
    assert_eq!((&last["content"]["text"], &last["seq"]), (&json!("settled"), &json!(2)));
    let next = page["next"].as_str().expect("there is more");
    let page = app.get(&format!("/v1/conversations?limit=2&before={next}"), &bob).await.ok();
    assert_eq!((&page["conversations"][0]["id"], &page["next"]), (&json!("c"), &json!(null)));
    assert_eq!(app.get("/v1/conversations?before=yesterday", &bob).await.code(), "bad_request");
    assert_eq!(app.get("/v1/conversations?limit=101", &bob).await.code(), "invalid_limit");
}

on_every_engine! {
    a_sender_learns_what_was_delivered_and_read_elsewhere,
    own_events_are_not_unread_and_those_of_others_are,
    marks_never_move_back_nor_beyond_what_there_is,
    marks_survive_a_restart,
    many_marks_are_few_calls,
    who_is_removed_is_told_nothing_and_moves_nothing,
    typing_ends_by_itself,
    the_list_is_by_activity_with_what_is_new,
}
