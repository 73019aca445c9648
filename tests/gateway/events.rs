//! Events of any type reach a conversation, a user, or one kind of a user's devices, on whichever gateway they are.

use everpost::gateway::auth::Claims;
use serde_json::{Value, json};

use crate::harness::{
    app::{API_KEY, App, claims, on_every_engine, token},
    client::Client,
};

async fn connect(app: &App, gateway: usize, user: &str, kind: &str) -> Client {
    let claims = Claims { device_type: Some(kind.to_owned()), ..claims(user, 3_600) };
    let mut client = Client::open(app.address(gateway), "/v1/ws", Some(&token(&claims))).await;
    client.greeted().await;
    client
}

/// Whatever was sent to the client before this message has come when it has.
async fn has_no(app: &App, client: &mut Client, event: &str) {
    app.say("room", "alice", "marker").await;
    client.next_event("new_message").await;
    assert_eq!(client.waiting(event), Vec::<Value>::new());
}

async fn an_event_reaches_every_device_of_a_user(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut phone, mut laptop) = (connect(&app, 0, "bob", "ios").await, connect(&app, 1, "bob", "web").await);
    let mut alice = app.connect("alice").await;
    let event = json!({"type": "job_done", "user_id": "bob", "data": {"job": 7}});
    let answer = app.post("/v1/events", API_KEY, event).await;
    assert_eq!((answer.status, &answer.body["connections"]), (202, &json!(2)));
    assert_eq!(answer.body["instances"], json!(app.gateways()));
    for device in [&mut phone, &mut laptop] {
        let frame = device.next_event("job_done").await;
        assert_eq!(frame["data"], json!({"job": 7}));
        assert!(frame["seq"].is_null() && frame["cursor"].is_null() && frame["conversation_id"].is_null(), "{frame}");
    }
    has_no(&app, &mut alice, "job_done").await;
}

async fn an_event_reaches_one_kind_of_device(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut phone, mut laptop) = (connect(&app, 0, "bob", "ios").await, connect(&app, 1, "bob", "web").await);
    let event = json!({"type": "badge", "user_id": "bob", "device_type": "ios", "data": {"count": 3}});
    let answer = app.post("/v1/events", API_KEY, event).await;
    assert_eq!((answer.status, answer.body), (202, json!({"instances": 1, "connections": 1})));
    assert_eq!(phone.next_event("badge").await["data"]["count"], 3);
    has_no(&app, &mut laptop, "badge").await;
    let event = json!({"type": "badge", "user_id": "bob", "device_type": "tv", "data": {}});
    let answer = app.post("/v1/events", API_KEY, event).await;
    assert_eq!((answer.status, answer.body), (202, json!({"instances": 0, "connections": 0})), "nobody is no error");
}

async fn an_event_without_its_sender_reaches_the_others(app: App) {
    app.conversation("room", &["alice", "bob", "carol"]).await;
    let (mut bob, mut carol) = (app.connect_to(1, "bob", "/v1/ws").await, app.connect("carol").await);
    let (mut own, mut other) = (app.connect("alice").await, app.connect_to(1, "alice", "/ws/room").await);
    let event = json!({"type": "cursor_moved", "conversation_id": "room", "exclude_sender": true, "data": {"x": 1}});
    let answer = app.post("/v1/events", &app.token("alice"), event).await;
    assert_eq!((answer.status, &answer.body["instances"]), (202, &json!(app.gateways())));
    for client in [&mut bob, &mut carol] {
        let frame = client.next_event("cursor_moved").await;
        assert_eq!((&frame["conversation_id"], &frame["data"]["x"]), (&json!("room"), &json!(1)));
        assert!(frame["seq"].is_null(), "what not everybody gets has no number: {frame}");
    }
    for client in [&mut own, &mut other] {
        has_no(&app, client, "cursor_moved").await;
    }
    assert_eq!(app.history("room", "").await.len(), 2, "only the markers");
}

on_every_engine!(
    an_event_reaches_every_device_of_a_user,
    an_event_reaches_one_kind_of_device,
    an_event_without_its_sender_reaches_the_others,
);

#[tokio::test]
async fn only_backends_send_to_others_and_everybody_to_themselves() {
    let app = App::embedded().await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut phone = app.connect("alice").await;
    let to = |user: &str| json!({"type": "sync", "user_id": user, "data": {}});
    let refused = app.post("/v1/events", &app.token("alice"), to("bob")).await;
    assert_eq!((refused.status, refused.code()), (403, "forbidden"));
    assert_eq!(app.post("/v1/events", &app.token("alice"), to("alice")).await.status, 202);
    phone.next_event("sync").await;
    let stranger = json!({"type": "x", "conversation_id": "room", "exclude_sender": true, "data": {}});
    assert_eq!(app.post("/v1/events", &app.token("mallory"), stranger).await.status, 403);
}

#[tokio::test]
async fn an_event_has_one_target() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    for target in [
        json!({}),
        json!({"conversation_id": "room", "user_id": "alice"}),
        json!({"conversation_id": "room", "device_type": "ios"}),
        json!({"device_type": "ios"}),
        json!({"user_id": "alice", "exclude_sender": true}),
    ] {
        let mut event = json!({"type": "x", "data": {}});
        event.as_object_mut().expect("an object").extend(target.as_object().expect("an object").clone());
        let answer = app.post("/v1/events", API_KEY, event).await;
        assert_eq!((answer.status, answer.code()), (400, "bad_frame"), "{target}");
    }
    for name in ["user_online", "typing", "message_read", "tombstone", "new_message"] {
        let event = json!({"type": name, "user_id": "alice", "data": {}});
        assert_eq!(app.post("/v1/events", API_KEY, event).await.code(), "reserved_type", "{name}");
    }
}
