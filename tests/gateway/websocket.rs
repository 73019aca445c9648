//! Frames over WebSocket: what each one carries, in what order, to whom.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    app::{API_KEY, App, claims, on_every_engine, token},
    client::{Client, request},
};

#[tokio::test]
async fn the_greeting_says_who_where_and_from_which_point() {
    let app = App::embedded().await;
    let mut alice = app.open("/v1/ws", Some(&app.token("alice"))).await;
    let hello = alice.greeted().await;
    let data = &hello["data"];
    assert_eq!((&data["user_id"], &data["heartbeat_seconds"]), (&json!("alice"), &json!(30)));
    assert!(["connection_id", "instance_id", "cursor"].iter().all(|member| data[*member].is_string()), "{hello}");
    let at = hello["timestamp"].as_str().expect("a time");
    assert!(at.len() >= 20 && at.ends_with('Z') && &at[10..11] == "T", "{at}");
}

#[tokio::test]
async fn every_way_to_send_a_token_works() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let token = app.token("alice");
    for path in ["/v1/ws", "/ws/room", "/v1/ws/room"] {
        app.open(path, Some(&token)).await.greeted().await;
        app.open(&format!("{path}?token={token}"), None).await.greeted().await;
    }
    let mut offer = request(app.address(0), "/v1/ws");
    let pair = format!("everpost.v1, token.{token}").parse().expect("a header");
    offer.headers_mut().insert("sec-websocket-protocol", pair);
    let (mut alice, response) = Client::upgrade(offer).await.expect("welcome");
    assert_eq!(response.headers()["sec-websocket-protocol"], "everpost.v1", "and the token is not sent back");
    alice.greeted().await;
}

async fn a_message_reaches_everybody_and_its_sender(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    let ack = alice.text("room", "hi").await;
    assert_eq!((&ack["seq"], &ack["duplicate"], &ack["durability"]), (&json!(1), &json!(false), &json!("fsync")));
    for client in [&mut alice, &mut bob] {
        let frame = client.next_event("new_message").await;
        assert_eq!((&frame["conversation_id"], &frame["seq"]), (&json!("room"), &json!(1)));
        assert!(frame["cursor"].is_string() && frame["timestamp"].is_string(), "{frame}");
        assert_is_whole(&frame["data"], &ack);
    }
    let stored = alice.next_event("stored").await;
    assert_eq!(stored["data"], json!({"conversation_id": "room", "up_to": 1}));
}

fn assert_is_whole(message: &Value, ack: &Value) {
    assert_eq!(message["message_id"], ack["message_id"]);
    let expected = json!({
        "conversation_id": "room", "seq": 1, "type": "text", "content": {"text": "hi"}, "sender_id": "alice",
        "sender_type": "user", "is_important": false, "reply_to_message_id": null, "extra_metadata": null,
    });
    for (member, value) in expected.as_object().expect("an object") {
        assert_eq!(message.get(member), Some(value), "{member}");
    }
    assert!(message["created_at"].is_string());
}

async fn five_hundred_at_once_stay_in_order_and_dense(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/ws/room").await);
    let frame = |number: u64| json!({"type": "text", "id": format!("k{number}"), "conversation_id": "room", "content": number.to_string()});
    alice.send_all((1..=500).map(frame)).await;
    for number in 1..=500_u64 {
        let ack = alice.next_event("ack").await;
        assert_eq!((&ack["id"], &ack["data"]["seq"]), (&json!(format!("k{number}")), &json!(number)));
    }
    for client in [&mut alice, &mut bob] {
        for number in 1..=500_u64 {
            let frame = client.next_event("new_message").await;
            assert_eq!(
                (&frame["seq"], &frame["data"]["content"]["text"]),
                (&json!(number), &json!(number.to_string()))
            );
        }
    }
    alice.next_where("all is stored", |frame| frame["event"] == "stored" && frame["data"]["up_to"] == 500).await;
}

async fn typing_and_reading_reach_the_others(app: App) {
    app.conversation("room", &["alice", "bob", "carol"]).await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    app.say("room", "carol", "hi").await;
    alice.send(json!({"type": "typing", "conversation_id": "room", "is_typing": true})).await;
    alice.send(json!({"type": "read", "conversation_id": "room", "seq": 1})).await;
    let typing = bob.next_event("typing").await;
    assert_eq!((&typing["conversation_id"], &typing["data"]["user_id"]), (&json!("room"), &json!("alice")));
    assert!(typing["seq"].is_null() && typing["cursor"].is_null(), "{typing}");
    let read = bob.next_event("message_read").await;
    assert_eq!(read["data"], json!({"user_id": "alice", "up_to": 1}));
}

#[tokio::test]
async fn a_frame_nobody_knows_gets_an_error_and_nothing_else() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let mut alice = app.connect_to(0, "alice", "/ws/room").await;
    let answer = alice.ask(json!({"type": "dance"})).await;
    assert_eq!((&answer["event"], &answer["data"]["code"]), (&json!("error"), &json!("unknown_type")));
    assert_eq!(answer["data"]["retryable"], json!(false));
    assert!(answer["data"]["message"].is_string());
    let ack = alice.ask(json!({"type": "text", "content": "the conversation is implied"})).await;
    assert_eq!((&ack["event"], &ack["data"]["seq"]), (&json!("ack"), &json!(1)));
}

#[tokio::test]
async fn subscriptions_come_and_go() {
    let app = App::embedded().await;
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("hall", &["alice", "bob"]).await;
    let mut bob = app.connect("bob").await;
    bob.send(json!({"type": "unsubscribe", "conversation_id": "room"})).await;
    bob.round_trip().await;
    app.say("room", "alice", "unheard").await;
    app.say("hall", "alice", "heard").await;
    assert_eq!(bob.next_event("new_message").await["conversation_id"], "hall");
    bob.send(json!({"type": "subscribe", "conversation_id": "room", "after": 0})).await;
    bob.expect_seqs([1]).await;
    app.say("room", "alice", "heard again").await;
    bob.expect_seqs([2]).await;
    let refused = bob.ask(json!({"type": "subscribe", "conversation_id": "nowhere"})).await;
    assert_eq!(refused["data"]["code"], "unknown_conversation");
}

#[tokio::test]
async fn a_farewell_is_answered() {
    let app = App::embedded().await;
    let mut alice = app.connect("alice").await;
    alice.round_trip().await;
    alice.close().await;
}

#[tokio::test]
async fn a_token_that_runs_out_ends_its_connection() {
    let app = App::embedded().await;
    let mut alice = app.open("/v1/ws", Some(&token(&claims("alice", 1)))).await;
    alice.greeted().await;
    assert!(alice.expect_close(4001).await.contains("expired"));
}

#[tokio::test]
async fn a_stopping_gateway_says_when_to_come_back() {
    let mut app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(app.connect("alice").await);
    }
    let farewells = async {
        for client in &mut clients {
            let reason = client.expect_close(1001).await;
            let delay = reason.split(' ').filter_map(|word| word.parse::<u64>().ok()).next().expect("a delay");
            assert!(Duration::from_millis(delay) <= Duration::from_secs(5), "{reason}");
        }
    };
    tokio::join!(app.stop(), farewells);
}

#[tokio::test]
async fn a_backend_listens_to_any_conversation() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let mut backend = app.open("/ws/room", Some(API_KEY)).await;
    backend.greeted().await;
    app.say("room", "alice", "hi").await;
    backend.expect_seqs([1]).await;
}

on_every_engine! {
    a_message_reaches_everybody_and_its_sender,
    five_hundred_at_once_stay_in_order_and_dense,
    typing_and_reading_reach_the_others,
}
