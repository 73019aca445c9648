//! Publishing and reading over HTTP.

use everpost_core::role::Role;
use serde_json::{Value, json};

use crate::harness::app::{API_KEY, App, on_every_engine};

const MESSAGES: &str = "/v1/conversations/room/messages";

fn text(text: &str) -> Value {
    json!({"type": "text", "content": {"text": text}})
}

async fn room() -> App {
    let app = App::embedded().await;
    app.conversation("room", &["alice", "bob"]).await;
    app
}

fn texts(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["content"]["text"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn every_type_of_message_is_taken_and_kept_whole() {
    let app = room().await;
    let parent = app.say("room", "alice", "hi").await["message_id"].clone();
    let bodies = [
        json!({"type": "text", "content": {"text": "hello \u{1f44b}"}, "reply_to_message_id": parent}),
        json!({"type": "media", "content": {"url": "https://media.example/cat.png", "mime_type": "image/png"}}),
        json!({"type": "system", "content": {"event": "alice renamed the room"}}),
        json!({"type": "structured", "content": {"data": {"poll": [1, 2]}}, "is_important": true,
               "extra_metadata": {"a": [1]}}),
    ];
    for (body, seq) in bodies.iter().zip(2_u64..) {
        let answer = app.post(MESSAGES, API_KEY, body.clone()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let message = &answer.body["message"];
        assert_eq!((&message["seq"], &message["type"]), (&json!(seq), &body["type"]));
        assert_eq!(message["content"], body["content"]);
        assert_eq!(message["is_important"], json!(body["is_important"] == true));
        assert_eq!(
            (&message["reply_to_message_id"], &message["extra_metadata"]),
            (&body["reply_to_message_id"], &body["extra_metadata"])
        );
        assert_eq!(&app.history("room", &format!("after={}", seq - 1)).await[0], message, "history tells the same");
    }
}

async fn a_repeat_is_answered_with_the_first(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (alice, bob) = (app.token("alice"), app.token("bob"));
    let first = app.publish(MESSAGES, &alice, "key-1", text("hi")).await;
    assert_eq!((first.status, &first.body["duplicate"]), (201, &json!(false)));
    let again = app.publish(MESSAGES, &alice, "key-1", text("hi")).await;
    assert_eq!((again.status, &again.body["duplicate"]), (200, &json!(true)));
    assert_eq!(again.body["message"], first.body["message"]);
    let other = app.publish(MESSAGES, &alice, "key-1", text("something else")).await;
    assert_eq!((other.status, other.code()), (409, "idempotency_conflict"));
    let bobs = app.publish(MESSAGES, &bob, "key-1", text("hi")).await;
    assert_eq!((bobs.status, &bobs.body["message"]["seq"]), (201, &json!(2)), "keys are each sender's own");
    app.settle("room", "alice").await;
    let late = app.publish(MESSAGES, &alice, "key-1", text("hi")).await;
    assert_eq!(late.body["message"], first.body["message"], "also once it is stored");
    assert_eq!(app.history("room", "").await.len(), 3);
}

async fn a_repeat_over_the_socket_is_answered_with_the_first(app: App) {
    app.conversation("room", &["alice"]).await;
    let (mut here, mut there) = (app.connect("alice").await, app.connect_to(1, "alice", "/v1/ws").await);
    let frame = json!({"type": "text", "id": "key-1", "conversation_id": "room", "content": "hi"});
    let first = here.ask(frame.clone()).await["data"].clone();
    let again = there.ask(frame).await["data"].clone();
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!((&first["message_id"], &first["seq"]), (&again["message_id"], &again["seq"]));
    let other = json!({"type": "text", "id": "key-1", "conversation_id": "room", "content": "no"});
    assert_eq!(there.ask(other).await["data"]["code"], "idempotency_conflict");
    let posted = app.publish(MESSAGES, &app.token("alice"), "key-1", text("hi")).await;
    assert_eq!((posted.status, &posted.body["duplicate"]), (200, &json!(true)), "both ways share their keys");
}

#[tokio::test]
async fn acknowledgements_say_what_they_promise() {
    let app = room().await;
    let plain = app.post(MESSAGES, API_KEY, text("hi")).await.ok();
    assert_eq!(plain["durability"], "fsync");
    app.settle("room", "alice").await;
    let refused = app.post(&format!("{MESSAGES}?wait=forever"), API_KEY, text("hi")).await;
    assert_eq!((refused.status, refused.code()), (400, "bad_request"));
}

#[tokio::test]
async fn backends_publish_for_anybody_and_users_only_for_themselves() {
    let app = room().await;
    let body = json!({"type": "text", "content": {"text": "hi"}, "sender_id": "bob"});
    let message = app.post(MESSAGES, API_KEY, body.clone()).await.ok()["message"].clone();
    assert_eq!((&message["sender_id"], &message["sender_type"]), (&json!("bob"), &json!("user")));
    let refused = app.post(MESSAGES, &app.token("alice"), body.clone()).await;
    assert_eq!((refused.status, refused.code()), (403, "forbidden"));
    assert_eq!(app.post(MESSAGES, &app.token("bob"), body).await.status, 201);
    let stranger = app.post(MESSAGES, &app.token("mallory"), text("hi")).await;
    assert_eq!((stranger.status, stranger.code()), (403, "forbidden"));
}

async fn history_is_in_order_stored_or_not(mut app: App) {
    app.conversation("room", &["alice"]).await;
    for number in 1..=4 {
        app.say("room", "alice", &number.to_string()).await;
    }
    app.settle("room", "alice").await;
    app.restart_with(&[Role::Fanout]).await;
    for number in 6..=9 {
        app.say("room", "alice", &number.to_string()).await;
    }
    let seqs = |page: Vec<Value>| page.iter().map(|message| message["seq"].as_u64().expect("seq")).collect::<Vec<_>>();
    assert_eq!(seqs(app.history("room", "").await), (1..=9).collect::<Vec<_>>());
    assert_eq!(seqs(app.history("room", "after=3&limit=4").await), [4, 5, 6, 7]);
    assert_eq!(seqs(app.history("room", "before=8&limit=4").await), [4, 5, 6, 7]);
    assert_eq!(seqs(app.history("room", "before=4").await), [1, 2, 3]);
    assert_eq!(seqs(app.history("room", "limit=2").await), [8, 9]);
    assert_eq!(seqs(app.history("room", "after=9").await), [0; 0]);
    assert_eq!(texts(&app.history("room", "after=5&limit=2").await), ["6", "7"]);
}

#[tokio::test]
async fn a_published_event_takes_its_place_in_the_sequence() {
    let app = room().await;
    let mut bob = app.connect("bob").await;
    app.say("room", "alice", "hi").await;
    let event = json!({"type": "ai_response_generated", "conversation_id": "room", "data": {"answer": 42}});
    let answer = app.post("/v1/events", API_KEY, event).await;
    assert_eq!((answer.status, &answer.body["seq"]), (201, &json!(2)));
    let frame = bob.next_event("ai_response_generated").await;
    assert_eq!((&frame["seq"], &frame["data"]["answer"]), (&json!(2), &json!(42)));
    assert!(frame["cursor"].is_string());
    let page = app.history("room", "after=1").await;
    assert_eq!((&page[0]["event"], &page[0]["seq"]), (&json!("ai_response_generated"), &json!(2)));
    let reserved = json!({"type": "connected", "conversation_id": "room", "data": {}});
    assert_eq!(app.post("/v1/events", API_KEY, reserved).await.code(), "reserved_type");
}

async fn marks_and_typing_reach_the_others(app: App) {
    app.conversation("room", &["alice", "bob", "carol"]).await;
    let mut bob = app.connect_to(1, "bob", "/v1/ws").await;
    let alice = app.token("alice");
    app.say("room", "carol", "hi").await;
    let typing = app.post("/v1/conversations/room/typing", &alice, json!({"is_typing": true})).await;
    let read = app.post("/v1/conversations/room/read", &alice, json!({"seq": 1})).await;
    assert_eq!((typing.status, read.status), (204, 204));
    let frame = bob.next_event("typing").await;
    assert_eq!(frame["data"], json!({"user_id": "alice", "is_typing": true}));
    assert!(frame["seq"].is_null() && frame["cursor"].is_null(), "it is never replayed: {frame}");
    assert_eq!(bob.next_event("message_read").await["data"], json!({"user_id": "alice", "up_to": 1}));
}

on_every_engine! {
    a_repeat_is_answered_with_the_first,
    a_repeat_over_the_socket_is_answered_with_the_first,
    history_is_in_order_stored_or_not,
    marks_and_typing_reach_the_others,
}
