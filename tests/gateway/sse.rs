//! Server-sent events: what an `EventSource` gets, and that it gets it exactly once however often it is cut off.

use std::time::Duration;

use reqwest::Client as Http;
use serde_json::json;

use crate::harness::{
    app::{API_KEY, App, claims, on_every_engine, token},
    event_source::{Event, EventSource},
    eventually::eventually,
    proxy::Proxy,
};

const EVERYTHING: &str = "/v1/events";
const ROOM: &str = "/v1/conversations/room/events";

/// Where a user finds a stream, as an `EventSource` has to be told it.
fn url(app: &App, gateway: usize, user: &str, path: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("http://{}{path}{separator}token={}", app.address(gateway), app.token(user))
}

async fn open(app: &App, gateway: usize, user: &str, path: &str) -> EventSource {
    EventSource::open(&Http::new(), &url(app, gateway, user, path)).await.expect("it is welcome")
}

async fn come_back(app: &App, gateway: usize, path: &str, last_event_id: &str) -> Result<EventSource, u16> {
    EventSource::open_at(&Http::new(), &url(app, gateway, "bob", path), last_event_id).await
}

async fn say(app: &App, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        app.say("room", "alice", &seq.to_string()).await;
    }
}

async fn room() -> App {
    let app = App::embedded().await;
    app.conversation("room", &["alice", "bob"]).await;
    app
}

#[tokio::test]
async fn a_position_comes_before_anything_else() {
    let app = room().await;
    for path in [EVERYTHING, ROOM] {
        let response = reqwest::get(url(&app, 0, "bob", path)).await.expect("it answers");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let mut bob = open(&app, 0, "bob", path).await;
        let hello = bob.next().await.expect("an event");
        assert_eq!(hello.name, "connected");
        assert_eq!(hello.frame()["data"]["heartbeat_seconds"], 15);
        assert!(!hello.last_event_id.is_empty());
        assert!((1_000..=5_000).contains(&bob.retry().expect("a time to come back")));
        bob.cut();
        app.say("room", "alice", "missed").await;
        let hello = hello.last_event_id;
        let mut bob = come_back(&app, 0, path, &hello).await.expect("it is welcome");
        assert_eq!(bob.next_named("new_message").await.frame()["data"]["content"]["text"], "missed");
    }
}

async fn the_same_frames_as_over_websocket(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut socket, mut bob) = (app.connect("bob").await, open(&app, 1, "bob", EVERYTHING).await);
    let mut of_room = open(&app, 0, "bob", ROOM).await;
    app.say("room", "alice", "hi").await;
    let frame = socket.next_event("new_message").await;
    for source in [&mut bob, &mut of_room] {
        let event = source.next_named("new_message").await;
        let mut same = event.frame();
        if source.last_event_id() == same["cursor"] {
            same["cursor"] = frame["cursor"].clone(); // each gateway has its own view of the other partitions
        }
        for member in ["event", "conversation_id", "seq", "data", "timestamp"] {
            assert_eq!(same[member], frame[member], "{member}");
        }
    }
    app.post("/v1/conversations/room/typing", &app.token("alice"), json!({"is_typing": true})).await;
    let before = bob.last_event_id().to_owned();
    let typing = bob.next_named("typing").await;
    assert_eq!((&typing.frame()["data"]["user_id"], typing.last_event_id), (&json!("alice"), before));
}

async fn whoever_comes_back_gets_what_it_missed(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("hall", &["alice", "bob"]).await;
    for path in [EVERYTHING, ROOM] {
        let top = app.history("room", "limit=500").await.len() as u64;
        let mut bob = open(&app, 0, "bob", path).await;
        bob.next_named("connected").await;
        say(&app, 1..=3).await;
        bob.expect_seqs(top + 1..=top + 3).await;
        let last = bob.last_event_id().to_owned();
        bob.cut();
        say(&app, 4..=40).await;
        app.say("hall", "alice", "elsewhere").await;
        let mut bob = come_back(&app, 1, path, &last).await.expect("it is welcome");
        let started = bob.next_named("replay_started").await;
        assert_eq!(started.last_event_id, last, "the position does not run ahead of the events");
        let mut seqs = Vec::new();
        let finished = loop {
            match bob.next().await.expect("it goes on") {
                Event { name, .. } if name == "replay_finished" => break bob.last_event_id().to_owned(),
                event if event.frame()["conversation_id"] == "room" => seqs.push(event.frame()["seq"].as_u64()),
                _ => {}
            }
        };
        assert_eq!(seqs, (top + 4..=top + 40).map(Some).collect::<Vec<_>>());
        let mut bob = come_back(&app, 0, path, &finished).await.expect("it is welcome");
        let nothing = bob.next_named("replay_finished").await.frame();
        assert_eq!(nothing["data"]["outcome"], "nothing_missed");
    }
}

/// However often the way is cut, also in the middle of a replay or of an event.
async fn through_cuts_nothing_is_missing_and_nothing_comes_twice(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let proxy = Proxy::start(app.address(0)).await;
    let address = url(&app, 0, "bob", EVERYTHING).replace(&app.address(0).to_string(), &proxy.address().to_string());
    let mut bob = EventSource::open(&Http::new(), &address).await.expect("it is welcome");
    let listening = async {
        let (mut seqs, mut cuts) = (Vec::new(), 0);
        while seqs.len() < 600 {
            match bob.next().await {
                Some(event) if event.name == "new_message" => {
                    seqs.push(event.frame()["seq"].as_u64().expect("a number"));
                    if seqs.len() % 40 == 0 {
                        proxy.reset();
                        cuts += 1;
                    }
                }
                Some(_) => {}
                None => {
                    eventually("it is back", async || bob.reconnect().await.is_ok()).await;
                }
            }
        }
        (seqs, cuts)
    };
    let ((seqs, cuts), ()) = tokio::join!(listening, async {
        for _ in 0..20 {
            futures_util::future::join_all((0..30).map(|_| app.say("room", "alice", "one of many"))).await;
        }
    });
    assert_eq!(seqs, (1..=600).collect::<Vec<_>>());
    assert!(cuts > 5);
}

#[tokio::test]
async fn the_last_event_id_counts_for_more_than_the_cursor() {
    let app = room().await;
    let mut bob = open(&app, 0, "bob", EVERYTHING).await;
    let old = bob.next_named("connected").await.last_event_id;
    say(&app, 1..=2).await;
    bob.expect_seqs(1..=2).await;
    let last = bob.last_event_id().to_owned();
    say(&app, 3..=3).await;
    let path = format!("{EVERYTHING}?cursor={old}");
    open(&app, 0, "bob", &path).await.expect_seqs(1..=3).await;
    come_back(&app, 0, &path, &last).await.expect("it is welcome").expect_seqs([3]).await;
    let mut lost = come_back(&app, 0, &path, "not a cursor").await.expect("it is welcome");
    let reset = lost.next_named("replay_finished").await.frame();
    assert_eq!((&reset["data"]["outcome"], &reset["data"]["reason"]), (&json!("reset"), &json!("unknown_cursor")));
}

#[tokio::test]
async fn a_conversation_can_be_read_from_any_number_on() {
    let app = room().await;
    say(&app, 1..=5).await;
    open(&app, 0, "bob", &format!("{ROOM}?after=0")).await.expect_seqs(1..=5).await;
    let path = format!("{ROOM}?after=2");
    let mut bob = open(&app, 0, "bob", &path).await;
    let first = bob.next_named("connected").await.last_event_id;
    bob.cut();
    let mut bob = come_back(&app, 0, &path, &first).await.expect("it is welcome");
    bob.expect_seqs(3..=5).await;
    say(&app, 6..=6).await;
    bob.expect_seqs([6]).await;
}

#[tokio::test]
async fn data_with_line_breaks_arrives_whole() {
    let app = room().await;
    let mut bob = open(&app, 0, "bob", EVERYTHING).await;
    bob.next_named("connected").await;
    let event = "{\"type\": \"order_shipped\", \"conversation_id\": \"room\", \"data\": {\n  \"a\":\r\n 1,\n \"b\": \"x\\ny\"}}";
    assert_eq!(app.post_bytes("/v1/events", API_KEY, event).await.status, 201);
    let shipped = bob.next_named("order_shipped").await.frame();
    assert_eq!(shipped["data"], json!({"a": 1, "b": "x\ny"}));
}

#[tokio::test]
async fn whoever_asks_for_the_first_time_is_told_why_not() {
    let app = room().await;
    let asked = async |path: &str, credential: &str| app.get(path, credential).await;
    for path in [EVERYTHING, ROOM] {
        for credential in ["", "garbage", &token(&claims("bob", -60))] {
            let answer = asked(path, credential).await;
            assert_eq!((answer.status, answer.code()), (401, "unauthenticated"), "{path}");
        }
    }
    let mallory = app.token("mallory");
    assert_eq!(asked(ROOM, &mallory).await.code(), "forbidden");
    assert_eq!(asked("/v1/conversations/nowhere/events", &mallory).await.code(), "unknown_conversation");
    assert_eq!(asked("/v1/events?after=x", &mallory).await.code(), "bad_request");
}

/// An `EventSource` tries for ever, or never again after any status that is not 200.
#[tokio::test]
async fn whoever_comes_back_in_vain_is_told_to_stop() {
    let app = room().await;
    let last = open(&app, 0, "bob", EVERYTHING).await.next_named("connected").await.last_event_id;
    let back = async |path: &str, token: &str| {
        let url = format!("http://{}{path}?token={token}", app.address(0));
        EventSource::open_at(&Http::new(), &url, &last).await.err()
    };
    assert_eq!(back(EVERYTHING, &token(&claims("bob", -60))).await, Some(204));
    assert_eq!(back(EVERYTHING, "").await, Some(204));
    assert_eq!(back(ROOM, &app.token("mallory")).await, Some(204));
    assert_eq!(back("/v1/conversations/nowhere/events", &app.token("bob")).await, Some(204));
    assert_eq!(back(ROOM, &app.token("bob")).await, None);
}

#[tokio::test]
async fn whoever_comes_back_to_a_full_instance_is_told_when_to_try_again() {
    for (setting, status) in [("max_connections", 503), ("max_connections_per_user", 429)] {
        let app = App::embedded_with(&[(setting, "1")]).await;
        app.conversation("room", &["alice", "bob"]).await;
        let mut only = open(&app, 0, "bob", EVERYTHING).await;
        let last = only.next_named("connected").await.last_event_id;
        let refused = EventSource::open(&Http::new(), &url(&app, 0, "bob", EVERYTHING)).await;
        assert_eq!(refused.err(), Some(status));
        let mut later = come_back(&app, 0, EVERYTHING, &last).await.expect("it is not sent away");
        assert!(later.next().await.is_none(), "there is nothing to see yet");
        assert!((1_000..=5_000).contains(&later.retry().expect("a time to come back")));
        only.cut();
        eventually("there is room again", async || {
            let mut bob = come_back(&app, 0, EVERYTHING, &last).await.expect("it is not sent away");
            bob.next().await.is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn the_end_has_a_reason_and_a_code() {
    let app = room().await;
    let short = format!("http://{}{EVERYTHING}?token={}", app.address(0), token(&claims("bob", 1)));
    let mut bob = EventSource::open(&Http::new(), &short).await.expect("it is welcome");
    let closed = bob.next_named("closed").await.frame();
    assert_eq!(
        (&closed["data"]["code"], closed["data"]["reason"].as_str()),
        (&json!(4001), Some("the token has expired"))
    );
    assert!(bob.next().await.is_none());
    assert_eq!(bob.reconnect().await, Err(204));

    let mut bob = open(&app, 0, "bob", ROOM).await;
    bob.next_named("connected").await;
    assert_eq!(app.delete("/v1/conversations/room/participants/bob", API_KEY).await.status, 204);
    assert_eq!(bob.next_named("closed").await.frame()["data"]["code"], 4003);
    assert_eq!(bob.reconnect().await, Err(204));
}

#[tokio::test]
async fn a_stopping_gateway_says_when_to_come_back() {
    let mut app = room().await;
    let mut bob = open(&app, 0, "bob", EVERYTHING).await;
    bob.next_named("connected").await;
    let farewell = async {
        assert_eq!(bob.next_named("closed").await.frame()["data"]["code"], 1001);
        assert!(bob.retry().is_some_and(|wait| wait <= 5_000));
        assert!(bob.next().await.is_none());
    };
    tokio::join!(app.stop(), farewell);
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_is_alive() {
    let app = App::embedded_with(&[("heartbeat", "2s"), ("heartbeat_timeout", "3s")]).await;
    let mut bob = open(&app, 0, "bob", EVERYTHING).await;
    assert_eq!(bob.next_named("connected").await.frame()["data"]["heartbeat_seconds"], 1);
    // Longer than a client may be silent that can speak.
    while bob.comments() < 5 {
        assert!(bob.read().await, "it stays open");
    }
    app.conversation("room", &["alice", "bob"]).await;
    app.say("room", "alice", "hi").await;
    assert_eq!(bob.next().await.expect("an event").name, "new_message", "nothing but comments in between");
}

/// More than the system's own buffers hold is published while the reader takes nothing.
#[tokio::test]
async fn a_reader_that_pauses_finds_everything_later() {
    let app = App::embedded_with(&[("max_queue_bytes", "2000")]).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = open(&app, 0, "bob", EVERYTHING).await;
    bob.next_named("connected").await;
    let body = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    for _ in 0..20 {
        let posts = (0..12).map(|_| app.post("/v1/conversations/room/messages", API_KEY, body.clone()));
        assert!(futures_util::future::join_all(posts).await.iter().all(|answer| answer.status == 201));
    }
    bob.expect_seqs(1..=240).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_for_too_long_is_let_go() {
    let settings = [("max_queue_bytes", "2000"), ("heartbeat", "1s"), ("heartbeat_timeout", "2s")];
    let app = App::embedded_with(&settings).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = open(&app, 0, "bob", EVERYTHING).await;
    bob.next_named("connected").await;
    let body = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    let connections = "everpost_gateway_connections";
    eventually("it is open", async || app.metric(connections).await == Some(1.0)).await;
    eventually("it is gone", async || {
        app.post("/v1/conversations/room/messages", API_KEY, body.clone()).await.ok();
        tokio::time::sleep(Duration::from_millis(10)).await;
        app.metric(connections).await == Some(0.0)
    })
    .await;
}

on_every_engine! {
    the_same_frames_as_over_websocket,
    whoever_comes_back_gets_what_it_missed,
    through_cuts_nothing_is_missing_and_nothing_comes_twice,
}
