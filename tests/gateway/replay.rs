//! A client that comes back gets what it missed: all of it, once, in order, whatever happened meanwhile.

use std::collections::HashMap;

use everpost_core::{cursor::Cursor, role::Role};
use serde_json::{Value, json};

use crate::harness::{
    app::{App, claims, on_every_engine, token},
    client::Client,
};

const ROOMS: [&str; 6] = ["room-a", "room-b", "room-c", "room-d", "room-e", "room-f"];

async fn rooms(app: &App) {
    for room in ROOMS {
        app.conversation(room, &["alice", "bob"]).await;
    }
}

/// The messages of a replay, and how it ended.
async fn replayed(client: &mut Client) -> (Vec<Value>, Value) {
    client.next_event("replay_started").await;
    let mut messages = Vec::new();
    loop {
        let frame = client.next().await;
        match frame["event"].as_str() {
            Some("replay_finished") => return (messages, frame["data"].clone()),
            Some("new_message") => messages.push(frame),
            Some("message_delivered" | "message_read") => {} // has no place in any order
            other => panic!("{other:?} in the middle of a replay"),
        }
    }
}

fn seqs(messages: &[Value], room: &str) -> Vec<u64> {
    let of_room = messages.iter().filter(|message| message["conversation_id"] == room);
    of_room.map(|message| message["seq"].as_u64().expect("a number")).collect()
}

async fn exactly_what_was_missed_comes_back(app: App) {
    rooms(&app).await;
    let mut bob = app.connect("bob").await;
    for room in ROOMS {
        app.say(room, "alice", "seen").await;
        bob.next_event("new_message").await;
    }
    let cursor = bob.cursor();
    bob.close().await;
    for round in 0..3 {
        for room in ROOMS {
            app.say(room, "alice", &format!("missed {round}")).await;
        }
    }
    let mut bob = app.connect_to(1, "bob", &format!("/v1/ws?cursor={cursor}")).await;
    let (messages, end) = replayed(&mut bob).await;
    assert_eq!((&end["outcome"], &end["replayed"]), (&json!("complete"), &json!(18)));
    for room in ROOMS {
        assert_eq!(seqs(&messages, room), [2, 3, 4], "{room}");
    }
    app.say(ROOMS[0], "alice", "live").await;
    bob.expect_seqs([5]).await;
}

async fn what_is_missed_may_be_stored_or_not(mut app: App) {
    rooms(&app).await;
    let cursor = app.connect("bob").await.cursor();
    for room in ROOMS {
        app.say(room, "alice", "stored").await;
        app.settle(room, "alice").await;
    }
    app.restart_with(&[Role::Fanout]).await;
    for room in ROOMS {
        app.say(room, "alice", "only in the log").await;
    }
    let mut bob = app.resume("bob", &cursor).await;
    let (messages, _) = replayed(&mut bob).await;
    for room in ROOMS {
        assert_eq!(seqs(&messages, room), [1, 2, 3], "{room}");
    }
    app.restart_with(&Role::ALL).await;
    app.settle(ROOMS[0], "alice").await;
    let mut bob = app.resume("bob", &cursor).await;
    assert_eq!(replayed(&mut bob).await.0.len(), 19);
}

async fn a_replay_that_breaks_off_goes_on_where_it_was(app: App) {
    rooms(&app).await;
    let mut cursor = app.connect("bob").await.cursor();
    for number in 0..40 {
        app.say(ROOMS[number % 3], "alice", "missed").await;
    }
    app.settle(ROOMS[0], "alice").await;
    let mut messages = Vec::new();
    while messages.len() < 41 {
        let mut bob = app.resume("bob", &cursor).await;
        for _ in 0..7.min(41 - messages.len()) {
            messages.push(bob.next_event("new_message").await);
        }
        cursor = bob.cursor();
    }
    assert_eq!(seqs(&messages, ROOMS[0]), (1..=15).collect::<Vec<_>>());
    assert_eq!(seqs(&messages, ROOMS[1]), (1..=13).collect::<Vec<_>>());
    assert_eq!(seqs(&messages, ROOMS[2]), (1..=13).collect::<Vec<_>>());
    let (rest, end) = replayed(&mut app.resume("bob", &cursor).await).await;
    assert_eq!((rest.len(), &end["outcome"]), (0, &json!("nothing_missed")));
}

const PUBLISHED: u64 = 90;

/// Publishes to three rooms in turn without a pause.
async fn publish_steadily(app: &App) {
    let mut alice = app.connect("alice").await;
    for number in 1..=PUBLISHED {
        for room in &ROOMS[..3] {
            assert_eq!(alice.text(room, "steady").await["seq"], number);
        }
    }
}

/// Connects, takes a few messages, is gone, and comes back, until it has everything.
async fn come_and_go(app: &App, gateway: usize, mut cursor: String) {
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut patience = gateway;
    while seen.values().sum::<u64>() < 3 * PUBLISHED {
        let mut bob = app.connect_to(gateway, "bob", &format!("/v1/ws?cursor={cursor}")).await;
        patience = (patience * 5 + 3) % 23;
        for _ in 0..=patience {
            if seen.values().sum::<u64>() == 3 * PUBLISHED {
                break;
            }
            let frame = bob.next_event("new_message").await;
            let last = seen.entry(frame["conversation_id"].as_str().expect("a room").to_owned()).or_default();
            *last += 1;
            assert_eq!(frame["seq"], *last, "once and in order: {frame}");
        }
        cursor = bob.cursor();
    }
}

async fn coming_and_going_misses_nothing_of_a_steady_stream(app: App) {
    rooms(&app).await;
    let cursor = app.connect("bob").await.cursor();
    let goers = (0..3).map(|gateway| come_and_go(&app, gateway, cursor.clone()));
    tokio::join!(publish_steadily(&app), futures_util::future::join_all(goers));
}

#[tokio::test]
async fn a_cursor_that_means_nothing_here_is_a_reset() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let own = Cursor::decode(&app.connect("alice").await.cursor()).expect("ours");
    let foreign = Cursor::new(own.epoch ^ 1, own.positions().to_vec()).encode();
    for (cursor, reason) in [("garbage", "unknown_cursor"), (foreign.as_str(), "another_installation")] {
        let mut alice = app.resume("alice", cursor).await;
        let (messages, end) = replayed(&mut alice).await;
        assert_eq!((messages.len(), &end["outcome"], &end["reason"]), (0, &json!("reset"), &json!(reason)));
        assert_eq!(end["reset_from"], 1);
        let ack = alice.text("room", "still of use").await;
        alice.next_where("its own message", |frame| frame["data"]["message_id"] == ack["message_id"]).await;
    }
}

async fn one_conversation_goes_on_after_a_number(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    for _ in 0..6 {
        app.say("room", "alice", "hi").await;
    }
    app.settle("room", "alice").await;
    let mut bob = app.connect_to(1, "bob", "/ws/room?after=2").await;
    bob.expect_seqs(3..=4).await;
    let cursor = bob.cursor();
    drop(bob);
    let mut bob = app.connect_to(1, "bob", &format!("/ws/room?cursor={cursor}")).await;
    bob.expect_seqs(5..=7).await;
    app.say("room", "alice", "live").await;
    bob.expect_seqs([8]).await;
    let mut bob = app.connect_to(0, "bob", "/ws/room?after=8").await;
    assert_eq!(replayed(&mut bob).await.1["outcome"], "nothing_missed");
}

async fn device(app: &App, path: &str) -> Client {
    let mut claims = claims("bob", 3_600);
    claims.device_id = Some("phone".to_owned());
    let mut client = app.open(path, Some(&token(&claims))).await;
    client.greeted().await;
    client
}

async fn acknowledge(client: &mut Client) {
    client.send(json!({"type": "ack", "cursor": client.cursor()})).await;
    client.round_trip().await;
}

async fn a_device_need_not_remember(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = device(&app, "/v1/ws").await;
    for _ in 0..4 {
        app.say("room", "alice", "hi").await;
    }
    bob.expect_seqs(1..=2).await;
    acknowledge(&mut bob).await;
    drop(bob);
    let (messages, _) = replayed(&mut device(&app, "/v1/ws").await).await;
    assert_eq!(seqs(&messages, "room"), [3, 4]);
}

/// What one conversation's connection has seen says nothing about the others.
async fn a_device_looking_into_one_conversation_keeps_its_place(app: App) {
    rooms(&app).await;
    let mut bob = device(&app, "/v1/ws").await;
    acknowledge(&mut bob).await;
    drop(bob);
    for room in ROOMS {
        app.say(room, "alice", "hi").await;
    }
    let mut bob = device(&app, "/ws/room-f?after=0").await;
    bob.expect_seqs([1]).await;
    acknowledge(&mut bob).await;
    drop(bob);
    let (messages, _) = replayed(&mut device(&app, "/v1/ws").await).await;
    ROOMS.iter().for_each(|room| assert_eq!(seqs(&messages, room), [1], "{room}"));
}

on_every_engine! {
    exactly_what_was_missed_comes_back,
    what_is_missed_may_be_stored_or_not,
    a_replay_that_breaks_off_goes_on_where_it_was,
    coming_and_going_misses_nothing_of_a_steady_stream,
    one_conversation_goes_on_after_a_number,
    a_device_need_not_remember,
    a_device_looking_into_one_conversation_keeps_its_place,
}
