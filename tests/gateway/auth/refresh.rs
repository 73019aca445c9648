//! A connection outlives its first token, if it is shown another one of the same person in time.

use serde_json::{Value, json};

use super::{now, signed};
use crate::harness::{
    app::{API_KEY, App, claims, on_every_engine, token},
    client::Client,
};

async fn refresh(client: &mut Client, token: &str) -> Value {
    client.ask(json!({"type": "refresh", "token": token})).await
}

async fn a_connection_goes_on_with_another_token(app: App) {
    app.conversation("room", &["alice"]).await;
    let mut alice = app.open("/v1/ws", Some(&token(&claims("alice", 4)))).await;
    alice.greeted().await;
    let exp = now() + 3_600;
    let renewed = refresh(&mut alice, &signed(&json!({"sub": "alice", "exp": exp, "role": "agent"}))).await;
    assert_eq!(renewed["event"], "ack", "{renewed}");
    assert!(renewed["data"]["expires_at"].is_string(), "{renewed}");
    tokio::time::sleep(std::time::Duration::from_secs(6)).await; // until the first one has run out
    alice.text("room", "still here").await;
    let message = alice.next_event("new_message").await;
    assert_eq!(message["data"]["sender_type"], "agent", "the new token's role counts: {message}");
    let again = alice.ask(json!({"type": "auth", "token": token(&claims("alice", 1))})).await;
    assert_eq!(again["event"], "ack", "a shorter one counts as well: {again}");
    assert!(alice.expect_close(4001).await.contains("expired"));
}

#[tokio::test]
async fn only_a_sound_token_of_the_same_user_and_device_counts() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let mut alice = app.connect("alice").await;
    let device = signed(&json!({"sub": "alice", "exp": now() + 60, "device_id": "phone"}));
    for (wrong, code) in [
        (app.token("bob"), "forbidden"),
        (device, "forbidden"),
        (API_KEY.to_owned(), "unauthenticated"),
        (token(&claims("alice", -60)), "unauthenticated"),
        ("garbage".to_owned(), "unauthenticated"),
        (String::new(), "unauthenticated"),
    ] {
        let refused = refresh(&mut alice, &wrong).await;
        assert_eq!((&refused["event"], &refused["data"]["code"]), (&json!("error"), &json!(code)), "{refused}");
        assert!(wrong.is_empty() || !refused.to_string().contains(&wrong), "a token is not repeated");
    }
    let refused = alice.ask(json!({"type": "refresh"})).await;
    assert_eq!(refused["data"]["code"], "bad_frame");
    alice.text("room", "none of this ended the connection").await;
    let mut backend = app.open("/ws/room", Some(API_KEY)).await;
    backend.greeted().await;
    assert_eq!(refresh(&mut backend, &app.token("alice")).await["data"]["code"], "forbidden");
}

on_every_engine!(a_connection_goes_on_with_another_token);
