//! Conversations are made by backends, seen by participants, and membership counts at once.

use reqwest::Method;
use serde_json::json;

use crate::harness::{
    app::{API_KEY, App, on_every_engine},
    eventually::eventually,
};

#[tokio::test]
async fn a_conversation_is_made_once_and_found_again() {
    let app = App::embedded().await;
    let body = json!({"id": "room", "title": "The room", "participants": ["alice", "bob"]});
    let made = app.post("/v1/conversations", API_KEY, body.clone()).await;
    assert_eq!(made.status, 201);
    let found = app.get("/v1/conversations/room", &app.token("bob")).await.ok();
    let made = made.body.as_object().expect("an object");
    assert!(made.iter().all(|(member, value)| found[member] == *value), "{found}");
    assert_eq!((&found["title"], &found["participants"]), (&json!("The room"), &json!(["alice", "bob"])));
    let again = app.post("/v1/conversations", API_KEY, body).await;
    assert_eq!((again.status, again.code()), (409, "conversation_exists"));
    let listed = app.get("/v1/conversations", &app.token("alice")).await.ok();
    assert_eq!((&listed["conversations"][0]["id"], &listed["conversations"][1]), (&json!("room"), &json!(null)));
}

#[tokio::test]
async fn a_conversation_without_a_name_gets_one() {
    let app = App::embedded().await;
    let made = app.post("/v1/conversations", API_KEY, json!({"participants": ["alice"]})).await.ok();
    let id = made["id"].as_str().expect("a name");
    assert_eq!(app.say(id, "alice", "hi").await["seq"], 1);
}

#[tokio::test]
async fn only_those_who_may_do_what_they_may() {
    let app = App::embedded().await;
    app.conversation("room", &["alice", "bob"]).await;
    let (alice, mallory) = (&app.token("alice"), &app.token("mallory"));
    let room = "/v1/conversations/room";
    let cases = [
        (Method::GET, room.to_owned(), "", 401, "unauthenticated"),
        (Method::GET, room.to_owned(), "nonsense", 401, "unauthenticated"),
        (Method::GET, room.to_owned(), mallory, 403, "forbidden"),
        (Method::GET, format!("{room}/messages"), mallory, 403, "forbidden"),
        (Method::GET, "/v1/conversations/nowhere".to_owned(), alice, 404, "unknown_conversation"),
        (Method::PUT, format!("{room}/participants/mallory"), alice, 403, "forbidden"),
        (Method::DELETE, format!("{room}/participants/bob"), alice, 403, "forbidden"),
        (Method::PUT, "/v1/conversations/nowhere/participants/bob".to_owned(), API_KEY, 404, "unknown_conversation"),
    ];
    for (method, path, credential, status, code) in cases {
        let answer = app.ask(0, method.clone(), &path, credential, None).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}");
    }
    let refused = app.post("/v1/conversations", alice, json!({"id": "own"})).await;
    assert_eq!((refused.status, refused.code()), (403, "forbidden"));
    assert_eq!(app.delete(&format!("{room}/participants/alice"), alice).await.status, 204, "anybody may leave");
}

async fn joining_counts_at_once_for_open_connections(app: App) {
    app.conversation("room", &["alice"]).await;
    let mut bob = app.connect_to(1, "bob", "/v1/ws").await;
    assert_eq!(app.put("/v1/conversations/room/participants/bob", API_KEY).await.status, 204);
    assert_eq!(app.put("/v1/conversations/room/participants/bob", API_KEY).await.status, 204, "twice is harmless");
    app.say("room", "alice", "welcome").await;
    let frame = bob.next_event("new_message").await;
    assert_eq!((&frame["seq"], &frame["data"]["content"]["text"]), (&json!(1), &json!("welcome")));
    assert_eq!(bob.text("room", "thanks").await["seq"], 2);
}

async fn leaving_counts_at_once_for_open_connections(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("hall", &["alice", "bob"]).await;
    let mut everything = app.connect_to(1, "bob", "/v1/ws").await;
    let mut scoped = app.connect_to(1, "bob", "/ws/room").await;
    assert_eq!(app.delete("/v1/conversations/room/participants/bob", API_KEY).await.status, 204);
    scoped.expect_close(4003).await;
    app.say("room", "alice", "without bob").await;
    app.say("hall", "alice", "with bob").await;
    assert_eq!(everything.next_event("new_message").await["conversation_id"], "hall");
    let refused = everything.ask(json!({"type": "text", "conversation_id": "room", "content": "hi"})).await;
    assert_eq!((&refused["event"], &refused["data"]["code"]), (&json!("error"), &json!("forbidden")));
}

/// Whoever is added while connecting is either a participant already or told of it; there is nothing in between.
async fn joining_while_connecting_is_not_missed(app: App) {
    for round in 0..10 {
        let (room, bob) = (format!("room-{round}"), format!("bob-{round}"));
        app.conversation(&room, &["alice"]).await;
        let path = format!("/v1/conversations/{room}/participants/{bob}");
        let (mut bob, added) = tokio::join!(app.connect_to(1, &bob, "/v1/ws"), app.put(&path, API_KEY));
        assert_eq!(added.status, 204);
        app.say(&room, "alice", "welcome").await;
        assert_eq!(bob.next_event("new_message").await["conversation_id"], room);
    }
}

async fn a_new_conversation_reaches_its_members(app: App) {
    let mut bob = app.connect_to(1, "bob", "/v1/ws").await;
    app.conversation("room", &["alice", "bob"]).await;
    app.say("room", "alice", "welcome").await;
    assert_eq!(bob.next_event("new_message").await["seq"], 1);
    let listed = eventually("the other gateway lists it", async || {
        let listed = app.ask(1, Method::GET, "/v1/conversations", &app.token("bob"), None).await.ok();
        (listed["conversations"].as_array().is_some_and(|list| list.len() == 1)).then_some(listed)
    })
    .await;
    assert_eq!(listed["conversations"][0]["id"], "room");
}

on_every_engine! {
    joining_counts_at_once_for_open_connections,
    leaving_counts_at_once_for_open_connections,
    joining_while_connecting_is_not_missed,
    a_new_conversation_reaches_its_members,
}
