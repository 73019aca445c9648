//! Requests and frames that are wrong: each has its stable code, none changes anything.

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    app::{API_KEY, App},
    client::Client,
};

const MESSAGES: &str = "/v1/conversations/room/messages";

/// A room with one message, which is all that may ever be in it.
async fn room() -> App {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    app.say("room", "alice", "the only one").await;
    app
}

async fn assert_unchanged(app: &App) {
    let history = app.history("room", "").await;
    assert_eq!((history.len(), &history[0]["content"]["text"]), (1, &json!("the only one")), "{history:?}");
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test]
async fn each_wrong_frame_has_its_code() {
    let app = room().await;
    let mut alice = app.connect_to(0, "alice", "/ws/room").await;
    let deep = format!(r#"{{"type":"text","content":{}}}"#, nested(2_000));
    let long = json!({"type": "text", "content": "x".repeat(20_001)}).to_string();
    let key = json!({"type": "text", "content": "hi", "id": "k".repeat(1_000)}).to_string();
    let cases = [
        ("", "bad_json"),
        ("hello", "bad_json"),
        ("{\"type\":\"text\"", "bad_json"),
        (&*deep, "bad_json"),
        (r#"{"type":"text","content":"a\u0000b"}"#, "bad_json"),
        (r#"{"type":"text","content":"\ud800"}"#, "bad_json"),
        ("[]", "bad_frame"),
        ("null", "bad_frame"),
        ("{}", "bad_frame"),
        (r#"{"type":5}"#, "bad_frame"),
        (r#"{"type":"read","seq":99999999999999999999}"#, "bad_frame"),
        (r#"{"type":"read","seq":-1}"#, "bad_frame"),
        (r#"{"type":"read"}"#, "bad_frame"),
        (r#"{"type":"message","message_type":"dance","content":{}}"#, "bad_frame"),
        (r#"{"type":"text","content":"hi","extra_metadata":[]}"#, "bad_frame"),
        (r#"{"type":"text","content":"hi","is_important":"yes"}"#, "bad_frame"),
        (r#"{"type":"dance"}"#, "unknown_type"),
        (r#"{"type":"text"}"#, "invalid_content"),
        (r#"{"type":"text","content":"  "}"#, "invalid_content"),
        (r#"{"type":"message","message_type":"media","content":{"url":"javascript:alert(1)"}}"#, "invalid_content"),
        (&*long, "invalid_content"),
        (&*key, "invalid_key"),
        (r#"{"type":"text","content":"hi","conversation_id":"a b"}"#, "invalid_name"),
        (r#"{"type":"text","content":"hi","reply_to_message_id":"5"}"#, "invalid_reference"),
        (r#"{"type":"text","content":"hi","conversation_id":"nowhere"}"#, "unknown_conversation"),
        (r#"{"type":"ack","cursor":"garbage"}"#, "unknown_cursor"),
    ];
    for (frame, code) in cases {
        alice.send_raw(Message::text(frame)).await;
        assert_eq!(alice.next_event("error").await["data"]["code"], code, "{frame:.80}");
    }
    alice.send_raw(Message::binary(b"{}".to_vec())).await;
    assert_eq!(alice.next_event("error").await["data"]["code"], "bad_frame");
    assert_unchanged(&app).await;
}

#[tokio::test]
async fn each_wrong_body_has_its_code() {
    let app = room().await;
    let big = json!({"type": "structured", "content": {"blob": "x".repeat(70_000)}}).to_string();
    let cases: [(&[u8], u16, &str); 10] = [
        (b"", 400, "bad_json"),
        (b"garbage", 400, "bad_json"),
        (b"{\"type\":\"text\",\"content\":{\"text\":\"\xff\"}}", 400, "bad_json"),
        (&nested(2_000).into_bytes(), 400, "bad_json"),
        (br#"{"type":"text","content":{"text":"a\u0000b"}}"#, 400, "bad_json"),
        (br#"{"type":"text","content":{"text":"\udc00"}}"#, 400, "bad_json"),
        (br#"{"type":"dance","content":{"text":"hi"}}"#, 400, "bad_frame"),
        (br#"{"type":"text","content":"hi"}"#, 400, "invalid_content"),
        (br#"{"type":"text","content":{"text":5}}"#, 400, "invalid_content"),
        (big.as_bytes(), 413, "too_large"),
    ];
    for (body, status, code) in cases {
        let answer = app.post_bytes(MESSAGES, API_KEY, body.to_vec()).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{:.80}", String::from_utf8_lossy(body));
        assert_eq!(answer.body["retryable"], false);
    }
    assert_unchanged(&app).await;
}

#[tokio::test]
async fn each_wrong_conversation_has_its_code() {
    let app = room().await;
    let crowd: Vec<String> = (0..2_001).map(|number| format!("user-{number}")).collect();
    let cases = [
        (json!({"id": "a b"}), "invalid_name"),
        (json!({"id": ""}), "invalid_name"),
        (json!({"id": "x".repeat(200)}), "invalid_name"),
        (json!({"id": "new", "participants": ["a\u{7f}"]}), "invalid_name"),
        (json!({"id": "new", "participants": crowd}), "too_many_participants"),
        (json!({"id": "new", "participants": "alice"}), "bad_frame"),
        (json!({"id": "new", "title": "x".repeat(201)}), "invalid_title"),
        (json!([]), "bad_frame"),
    ];
    for (body, code) in cases {
        let answer = app.post("/v1/conversations", API_KEY, body).await;
        assert_eq!((answer.status, answer.code()), (400, code));
    }
    assert_eq!(app.get("/v1/conversations/new", API_KEY).await.code(), "unknown_conversation");
}

#[tokio::test]
async fn each_wrong_request_is_a_problem_document() {
    let app = room().await;
    let cases = [
        (Method::GET, "/nowhere", 404, "not_found"),
        (Method::GET, "/v1/nowhere", 404, "not_found"),
        (Method::PATCH, "/v1/conversations", 405, "method_not_allowed"),
        (Method::DELETE, "/healthz", 405, "method_not_allowed"),
        (Method::GET, "/v1/ws", 400, "not_websocket"),
        (Method::GET, "/v1/conversations/a%20b", 400, "invalid_name"),
        (Method::GET, "/v1/conversations/%ff", 400, "invalid_name"),
        (Method::PUT, "/v1/conversations/%ff/participants/bob", 400, "invalid_name"),
        (Method::GET, "/v1/conversations/room/messages?limit=0", 400, "invalid_limit"),
        (Method::GET, "/v1/conversations/room/messages?limit=501", 400, "invalid_limit"),
        (Method::GET, "/v1/conversations/room/messages?limit=many", 400, "bad_request"),
        (Method::GET, "/v1/conversations/room/messages?after=-1", 400, "bad_request"),
        (Method::GET, "/v1/conversations/room/messages?after=1&before=2", 400, "bad_request"),
        (Method::GET, "/v1/conversations/room/messages?after=18446744073709551616", 400, "bad_request"),
    ];
    for (method, path, status, code) in cases {
        let answer = app.ask(0, method.clone(), path, API_KEY, None).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{method} {path}");
    }
    let last = app.history("room", &format!("after={}", u64::MAX)).await;
    assert!(last.is_empty(), "the greatest number is only a number");
    assert_eq!(app.history("room", &format!("before={}", u64::MAX)).await.len(), 1);
}

/// JSON objects with our members and values of every kind, but never a message that could be accepted.
fn frames() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![
        Just("text"),
        Just("message"),
        Just("typing"),
        Just("read"),
        Just("ack"),
        Just("subscribe"),
        Just("ping"),
        Just("pong"),
        Just("dance"),
        Just(""),
    ];
    let member = "(id|seq|cursor|after|is_typing|message_type|conversation_id|extra_metadata|reply_to_message_id|x)";
    let value = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(json!({})),
        Just(json!([[{}]])),
    ];
    let content = prop_oneof![
        Just(json!(null)),
        Just(json!("")),
        Just(json!({})),
        Just(json!([])),
        any::<i64>().prop_map(Value::from)
    ];
    let members = proptest::collection::hash_map(member, value, 0..4);
    (kind, content, members).prop_map(|(kind, content, members)| {
        let mut frame = json!(members);
        frame["type"] = json!(kind);
        frame["content"] = content;
        frame
    })
}

/// Whether the connection is still there; if not, it was closed with a code, or reading would have panicked.
async fn is_open(client: &mut Client) -> bool {
    client.send(json!({"type": "ping", "id": "are you there?"})).await;
    loop {
        match client.first_event().await {
            Ok(frame) if frame["id"] == "are you there?" => return true,
            Ok(_) => {}
            Err(_code) => return false,
        }
    }
}

#[tokio::test]
async fn random_frames_change_nothing() {
    let app = room().await;
    let mut alice = app.connect_to(0, "alice", "/ws/room").await;
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..500 {
        let frame = frames().new_tree(&mut runner).expect("a frame").current();
        alice.send(frame.clone()).await;
        assert!(is_open(&mut alice).await, "closed by {frame}");
    }
    assert_unchanged(&app).await;
}
