//! Each side finds out that the other is gone, and that something got lost between them.

use std::time::Duration;

use everpost_core::{log::Durability, log::Log, role::Role};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    conformance::log::{drafts::finish, stage::connect},
    harness::{
        app::{API_KEY, App},
        eventually::eventually,
        raw::{FIN, PING, Raw, TEXT, frame, upgrade},
    },
};

const QUICK: (&str, &str) = ("heartbeat", "1s");

async fn open(app: &App, user: &str, path: &str) -> Raw {
    Raw::open(app.address(0), &format!("{path}?token={}", app.token(user))).await
}

/// The next heartbeat that has counted so many frames, and whether a protocol ping came before or right after it.
async fn heartbeat(raw: &mut Raw, frames: u64) -> Value {
    loop {
        let frame = raw.next().await.expect("it is open");
        if frame.opcode != TEXT {
            continue;
        }
        let frame: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        if frame["event"] == "ping" && frame["data"]["frames"] == frames {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_heartbeat_tells_what_was_given_and_where_to_go_on() {
    let app = App::embedded_with(&[QUICK]).await;
    app.conversation("room", &["alice", "bob"]).await;
    let (mut everything, mut room) = (open(&app, "bob", "/v1/ws").await, open(&app, "bob", "/ws/room").await);
    let before = heartbeat(&mut room, 0).await;
    assert!(before["data"]["seq"].is_null() && before["seq"].is_null(), "{before}");
    for text in ["one", "two", "three"] {
        app.say("room", "alice", text).await;
    }
    let heard = heartbeat(&mut room, 3).await;
    assert_eq!((&heard["data"]["seq"], &heard["conversation_id"]), (&json!(3), &json!("room")), "{heard}");
    let cursor = heartbeat(&mut everything, 3).await["data"]["cursor"].as_str().expect("a cursor").to_owned();
    let end = app.resume("bob", &cursor).await.next_event("replay_finished").await;
    assert_eq!(end["data"]["outcome"], "nothing_missed", "{end}");
}

#[tokio::test]
async fn the_cursor_moves_on_while_everything_is_silent() {
    let app = App::distributed_with(&[QUICK]).await;
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("elsewhere", &["alice"]).await;
    let mut bob = open(&app, "bob", "/v1/ws").await;
    let first = heartbeat(&mut bob, 0).await["data"]["cursor"].clone();
    assert!(first.is_string());
    app.say("room", "alice", "heard").await;
    let second = heartbeat(&mut bob, 1).await["data"]["cursor"].clone();
    assert!(second.is_string() && second != first);
}

#[tokio::test]
async fn who_says_nothing_any_more_is_4009() {
    let app = App::embedded_with(&[QUICK, ("heartbeat_timeout", "2s")]).await;
    app.conversation("room", &["alice"]).await;
    let mut silent = open(&app, "alice", "/v1/ws").await;
    assert_eq!(silent.closed().await.map(|close| close.0), Some(4009));
}

#[tokio::test]
async fn who_answers_stays() {
    let app = App::embedded_with(&[QUICK, ("heartbeat_timeout", "2s")]).await;
    app.conversation("room", &["alice"]).await;
    let mut alice = open(&app, "alice", "/v1/ws").await;
    for _ in 0..5 {
        while alice.next().await.expect("it stays open").opcode != PING {}
        alice.write(&frame(FIN | TEXT, b"{\"type\":\"pong\"}")).await;
    }
}

/// Much more than the system's buffers hold.
async fn flood(app: &App, messages: usize) {
    let body = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    for _ in 0..messages.div_ceil(12) {
        let posts = (0..12).map(|_| app.post("/v1/conversations/room/messages", API_KEY, body.clone()));
        assert!(join_all(posts).await.iter().all(|answer| answer.status == 201));
    }
}

/// The connection is in the middle of a write that never ends.
#[tokio::test]
async fn who_neither_reads_nor_answers_is_cut_off() {
    let app = App::embedded_with(&[QUICK, ("heartbeat_timeout", "3s")]).await;
    app.conversation("room", &["bob"]).await;
    let _half_open = open(&app, "bob", "/v1/ws").await;
    flood(&app, 240).await;
    eventually("the gateway has let go of it", async || app.metric("everpost_gateway_connections").await == Some(0.0))
        .await;
}

/// While it is being written to, nothing it says is read; that it takes what it is sent shows that it is there.
#[tokio::test]
async fn who_reads_slowly_stays() {
    let app = App::embedded_with(&[QUICK, ("heartbeat_timeout", "3s")]).await;
    app.conversation("room", &["bob"]).await;
    let path = format!("/v1/ws?token={}", app.token("bob"));
    let mut bob = Raw::narrow(app.address(0)).await;
    assert!(bob.request(&upgrade(app.address(0), &path)).await.starts_with("HTTP/1.1 101"));
    let reading = async {
        let mut seq = 0;
        while seq < 72 {
            let Value::Object(frame) = next(&mut bob).await else { continue };
            if frame["event"] == "new_message" {
                seq += 1;
                assert_eq!(frame["seq"], seq, "in order");
                if seq % 4 == 0 && seq <= 40 {
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::join!(reading, flood(&app, 72));
}

/// What the next frame says; pings are answered, as soon as they are read.
async fn next(raw: &mut Raw) -> Value {
    let next = raw.next().await.expect("it stays open");
    if next.opcode == PING {
        raw.write(&frame(FIN | TEXT, b"{\"type\":\"pong\"}")).await;
    }
    serde_json::from_slice(&next.payload).unwrap_or_default()
}

/// Fan-out says that it has handed over what nobody got.
async fn lose_deliveries(app: &App, conversation: &str) {
    let log = connect(app.redis(), Durability::Fsync).await.expect("Redis runs");
    let partition = log.partitions().of(conversation);
    finish(&log, Role::Fanout, partition).await;
}

/// A room in which bob has heard of the first message and fan-out stands still.
async fn deaf_after_one(settings: &[(&'static str, &str)]) -> (App, crate::harness::client::Client) {
    let mut app = App::distributed_with(settings).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = app.connect("bob").await;
    app.say("room", "alice", "heard").await;
    bob.expect_seqs([1]).await;
    app.restart_with(&[Role::Persist]).await;
    (app, bob)
}

#[tokio::test]
async fn the_last_message_is_missed_also_when_nothing_follows_it() {
    let (app, mut bob) = deaf_after_one(&[QUICK]).await;
    app.say("room", "alice", "lost on its way").await;
    app.say("room", "alice", "lost as well").await;
    lose_deliveries(&app, "room").await;
    bob.expect_seqs([2, 3]).await;
    assert_eq!(app.metric("everpost_gateway_missed_total").await, Some(1.0));
    let quiet = timeout(Duration::from_secs(3), bob.next_event("new_message")).await;
    assert!(quiet.is_err(), "and nothing comes twice: {quiet:?}");
}

#[tokio::test]
async fn a_message_in_the_middle_is_missed_as_soon_as_the_next_one_is_there() {
    let (mut app, mut bob) = deaf_after_one(&[]).await;
    app.say("room", "alice", "lost on its way").await;
    lose_deliveries(&app, "room").await;
    app.restart_with(&Role::ALL).await;
    app.say("room", "alice", "delivered").await;
    bob.expect_seqs([2, 3]).await;
    app.say("room", "alice", "and after it").await;
    bob.expect_seqs([4]).await;
}

#[tokio::test]
async fn who_connects_while_the_log_is_away_waits_for_it() {
    let app = App::distributed().await;
    app.conversation("room", &["alice"]).await;
    app.redis().signal("STOP");
    let mut alice = app.open("/v1/ws", Some(&app.token("alice"))).await;
    sleep(Duration::from_secs(2)).await; // longer than anybody waits for one answer
    app.redis().signal("CONT");
    alice.greeted().await;
}

#[tokio::test]
async fn who_waits_for_it_in_vain_is_told_when_to_come_back() {
    let app = App::distributed().await;
    app.conversation("room", &["alice"]).await;
    app.redis().signal("STOP");
    let mut alice = app.open("/v1/ws", Some(&app.token("alice"))).await;
    let reason = alice.expect_close(1013).await;
    assert!(reason.contains("reconnect in"), "{reason}");
    app.redis().signal("CONT");
}
