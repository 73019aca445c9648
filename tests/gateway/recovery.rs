//! What clients notice when Redis loses something: as little as possible, and never nothing when it matters.

use everpost_core::role::Role;
use serde_json::{Value, json};

use crate::harness::{
    app::{API_KEY, App},
    client::Client,
    eventually::eventually,
};

/// Publishes with a key until it is accepted, as an outbox does.
async fn insist(app: &App, user: &str, key: &str) -> Value {
    let body = json!({"type": "text", "content": {"text": key}});
    eventually("it is accepted", async || {
        let answer = app.publish("/v1/conversations/room/messages", &app.token(user), key, body.clone()).await;
        if answer.status >= 300 {
            assert_eq!((answer.status, &answer.body["retryable"]), (503, &json!(true)), "{answer:?}");
            return None;
        }
        Some(answer.body)
    })
    .await
}

/// Two stored messages, and a third that bob has and the database has not. Persist stands still.
async fn with_one_unstored() -> (App, Client, Client) {
    let mut app = App::distributed().await;
    app.conversation("room", &["alice", "bob"]).await;
    let (alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    app.say("room", "alice", "stored").await;
    app.settle("room", "alice").await;
    app.restart_with(&[Role::Fanout]).await;
    insist(&app, "alice", "unstored").await;
    bob.expect_seqs(1..=3).await;
    (app, alice, bob)
}

#[tokio::test]
async fn a_restart_of_redis_is_a_pause() {
    let (mut app, _alice, mut bob) = with_one_unstored().await;
    app.redis_mut().restart().await;
    let answer = insist(&app, "alice", "after").await;
    assert_eq!((&answer["message"]["seq"], &answer["duplicate"]), (&json!(4), &json!(false)));
    let frame = bob.next().await;
    assert_eq!((&frame["event"], &frame["seq"]), (&json!("new_message"), &json!(4)), "nothing else came before it");
    assert_eq!(insist(&app, "alice", "unstored").await["duplicate"], true);
    app.restart_with(&Role::ALL).await;
    app.settle("room", "alice").await;
    assert_eq!(app.history("room", "after=0").await.len(), 5);
}

#[tokio::test]
async fn who_saw_what_is_lost_is_told_from_where_to_drop() {
    let (mut app, mut alice, mut bob) = with_one_unstored().await;
    let cursor = bob.cursor();
    app.redis().obey(&["FLUSHALL"]).await;
    for client in [&mut alice, &mut bob] {
        let reset = client.next_where("a reset", |frame| frame["data"]["outcome"] == "reset").await;
        assert_eq!((&reset["conversation_id"], &reset["data"]["reset_from"]), (&json!("room"), &json!(3)), "{reset}");
    }
    app.restart_with(&Role::ALL).await;
    let again = insist(&app, "alice", "unstored").await;
    assert_eq!((&again["message"]["seq"], &again["duplicate"]), (&json!(3), &json!(false)), "it takes its place again");
    bob.expect_seqs([3]).await;
    let mut returned = app.connect_to(1, "bob", &format!("/v1/ws?cursor={cursor}")).await;
    let reset = returned.next_event("replay_finished").await;
    assert_eq!((&reset["data"]["outcome"], &reset["data"]["reset_from"]), (&json!("reset"), &json!(3)), "{reset}");
    returned.expect_seqs([3]).await;
    let end = returned.next_event("replay_finished").await;
    assert_eq!(end["data"]["outcome"], "complete", "{end}");
}

/// The log forgot the key with everything else; the database has not.
#[tokio::test]
async fn who_repeats_what_is_stored_gets_the_first_answer() {
    let app = App::distributed().await;
    app.conversation("room", &["alice"]).await;
    let first = insist(&app, "alice", "stored").await;
    app.settle("room", "alice").await;
    app.redis().obey(&["FLUSHALL"]).await;
    let again = insist(&app, "alice", "stored").await;
    assert_eq!((&again["message"]["seq"], &again["duplicate"]), (&json!(1), &json!(true)), "{again}");
    assert_eq!(again["message"]["message_id"], first["message"]["message_id"]);
}

#[tokio::test]
async fn who_had_nothing_of_what_is_lost_is_told_nothing() {
    let app = App::distributed().await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = app.connect_to(1, "bob", "/v1/ws").await;
    app.settle("room", "alice").await;
    bob.expect_seqs([1]).await;
    app.redis().obey(&["FLUSHALL"]).await;
    assert_eq!(insist(&app, "alice", "after").await["message"]["seq"], 2);
    let frame = bob.next().await;
    assert_eq!((&frame["event"], &frame["seq"]), (&json!("new_message"), &json!(2)), "nothing else came before it");
}

#[tokio::test]
async fn who_published_what_is_lost_is_told_also_without_listening() {
    let (app, mut alice, _bob) = with_one_unstored().await;
    alice.send(json!({"type": "unsubscribe", "conversation_id": "room"})).await;
    alice.round_trip().await;
    alice.text("room", "unstored too").await;
    app.redis().obey(&["FLUSHALL"]).await;
    let reset = alice.next_where("a reset", |frame| frame["data"]["outcome"] == "reset").await;
    assert_eq!((&reset["conversation_id"], &reset["data"]["reset_from"]), (&json!("room"), &json!(3)), "{reset}");
}

#[tokio::test]
async fn whoever_waits_for_the_database_is_told_that_it_is_lost() {
    let (mut app, _alice, _bob) = with_one_unstored().await;
    let body = json!({"type": "text", "content": {"text": "waits"}});
    let path = "/v1/conversations/room/messages?wait=stored";
    let token = app.token("alice");
    let waiting = app.post(path, &token, body);
    let flush = async {
        eventually("it is accepted", async || {
            let page = app.history("room", "after=3").await;
            (!page.is_empty()).then_some(())
        })
        .await;
        app.redis().obey(&["FLUSHALL"]).await;
    };
    let (answer, ()) = tokio::join!(waiting, flush);
    assert_eq!((answer.status, answer.code()), (503, "unavailable"));
    app.restart_with(&Role::ALL).await;
    assert_eq!(app.post(path, API_KEY, json!({"type": "text", "content": {"text": "x"}})).await.status, 201);
}

#[tokio::test]
async fn a_number_beyond_what_survived_is_a_reset() {
    let (app, _alice, _bob) = with_one_unstored().await;
    app.redis().obey(&["FLUSHALL"]).await;
    insist(&app, "alice", "after").await;
    let mut bob = app.connect_to(1, "bob", "/ws/room?after=9").await;
    let end = bob.next_event("replay_finished").await;
    assert_eq!((&end["data"]["outcome"], &end["data"]["reset_from"]), (&json!("reset"), &json!(4)), "{end}");
}
