//! What clients notice when more comes in than is stored, and what they never notice: a loss.

use std::time::Duration;

use everpost_core::{pressure::Level, role::Role};
use serde_json::json;

use crate::harness::{
    app::{API_KEY, Answer, App},
    eventually::within,
};

/// Twenty unstored events are too many.
const NARROW: [(&str, &str); 2] = [("backlog_budget", "20"), ("pressed_publish_rate", "1")];
/// What operators are promised.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);
const MESSAGES: &str = "/v1/conversations/room/messages";

/// A publish of a backend on somebody's behalf.
async fn publish(app: &App, sender: &str) -> Answer {
    app.post(MESSAGES, API_KEY, json!({"type": "text", "content": {"text": "hi"}, "sender_id": sender})).await
}

/// So many publishes, each of another sender.
async fn publish_many(app: &App, from: u64, count: u64) {
    for n in from..from + count {
        assert_eq!(publish(app, &format!("user-{n}")).await.status, 201);
    }
}

fn assert_asks_to_wait(refused: &Answer) {
    assert_eq!((refused.status, refused.code()), (503, "overloaded"));
    assert_eq!(refused.body["retryable"], true);
    let wait = refused.body["retry_after_ms"].as_u64().expect("a hint");
    assert!((1_000..=5_000).contains(&wait), "{wait}");
    assert_eq!(refused.retry_after, Some(wait.div_ceil(1_000)));
}

async fn the_ladder_goes_up_and_down(mut app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    app.restart_with(&[Role::Fanout]).await; // nothing is stored from now on
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect("bob").await);

    publish_many(&app, 1, 5).await;
    app.pressed(Level::Yellow).await;
    alice.send(json!({"type": "typing", "conversation_id": "room"})).await;
    alice.round_trip().await;
    assert_eq!(app.metric(r#"everpost_gateway_shed_total{kind="ephemeral"}"#).await, Some(1.0));

    publish_many(&app, 6, 5).await;
    app.pressed(Level::Orange).await;
    let outcomes: Vec<u16> = futures_util::future::join_all((0..6).map(|_| publish(&app, "busy")))
        .await
        .iter()
        .map(|answer| answer.status)
        .collect();
    assert!(outcomes.contains(&201) && outcomes.contains(&503), "{outcomes:?}");
    let accepted = outcomes.iter().filter(|status| **status == 201).count() as u64;
    publish_many(&app, 11, 10 - accepted).await;

    app.pressed(Level::Red).await;
    assert_asks_to_wait(&publish(&app, "somebody-new").await);
    let refused = alice.ask(json!({"type": "text", "conversation_id": "room", "content": "hi"})).await;
    assert_eq!((&refused["event"], &refused["data"]["code"]), (&json!("error"), &json!("overloaded")));
    assert!(refused["data"]["retry_after_ms"].as_u64().is_some_and(|wait| wait >= 1_000), "{refused}");
    assert_eq!(app.get("/readyz", "").await.status, 200, "pressure is no reason to send clients elsewhere");
    bob.expect_seqs(1..=20).await; // what was accepted is delivered meanwhile

    app.restart_with(&Role::ALL).await;
    app.pressed(Level::Green).await;
    assert_eq!(publish(&app, "somebody-new").await.ok()["message"]["seq"], 21);
    app.settle("room", "alice").await;
    assert_eq!(app.history("room", "after=0&limit=100").await.len(), 22, "everything accepted, nothing refused");
}

#[tokio::test]
async fn the_ladder_goes_up_and_down_on_embedded() {
    the_ladder_goes_up_and_down(App::embedded_with(&NARROW).await).await;
}

#[tokio::test]
async fn the_ladder_goes_up_and_down_on_distributed() {
    the_ladder_goes_up_and_down(App::distributed_with(&NARROW).await).await;
}

/// What the log keeps for readers who come back is the first thing it can do without.
#[tokio::test]
async fn a_full_redis_is_emptied_and_takes_more() {
    let app = App::distributed().await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = app.connect("bob").await;
    let large = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    for _ in 0..100 {
        app.post(MESSAGES, API_KEY, large.clone()).await.ok();
    }
    app.redis().set("maxmemory", &app.redis().used_memory().await.to_string()).await;
    app.pressed(Level::Red).await;
    assert_asks_to_wait(&publish(&app, "alice").await);
    app.pressed(Level::Green).await;
    assert_eq!(publish(&app, "alice").await.ok()["message"]["seq"], 101);
    bob.expect_seqs(1..=101).await;
    assert_eq!(app.history("room", "after=0&limit=200").await.len(), 101);
}

/// Memory that something else takes at once: Redis itself refuses before anybody has noticed.
#[tokio::test]
async fn what_redis_refuses_can_be_sent_again() {
    let app = App::distributed().await;
    app.conversation("room", &["alice"]).await;
    app.say("room", "alice", "first").await;
    app.redis().set("maxmemory", "1mb").await;
    for _ in 0..2 {
        assert_asks_to_wait(&publish(&app, "alice").await); // by Redis, and then by the gateway
        app.pressed(Level::Red).await;
    }
    app.redis().set("maxmemory", "0").await;
    app.pressed(Level::Green).await;
    assert_eq!(publish(&app, "alice").await.ok()["message"]["seq"], 2);
}

#[tokio::test]
async fn settings_that_become_unsafe_stop_publishing_until_they_are_repaired() {
    let app = App::distributed().await;
    app.conversation("room", &["alice"]).await;
    app.say("room", "alice", "first").await;
    app.redis().set("appendfsync", "everysec").await;
    let level = async |level: Level| {
        let what = format!("the changed setting is noticed: {level}");
        let is_level = async || app.metric("everpost_pressure_level").await == Some(f64::from(level as u8));
        within(NOTICED_WITHIN, &what, is_level).await;
    };
    level(Level::Red).await;
    assert_eq!(app.metric("everpost_log_setting_faults").await, Some(1.0));
    assert_asks_to_wait(&publish(&app, "alice").await);
    app.redis().set("appendfsync", "always").await;
    level(Level::Green).await;
    assert_eq!(publish(&app, "alice").await.ok()["message"]["seq"], 2);
}
