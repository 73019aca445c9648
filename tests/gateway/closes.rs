//! Connections that are refused or ended, each with the code that tells its client what to do.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Bytes, Error, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::harness::{
    app::{App, TOKEN_SECRET, claims, token},
    client::{Client, request},
    eventually::eventually,
};

async fn room() -> App {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    app
}

fn signed(algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), &claims("alice", 3_600), &key).expect("a token")
}

fn unsigned() -> String {
    let claims = serde_json::to_string(&claims("alice", 3_600)).expect("JSON");
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test]
async fn without_a_valid_token_it_is_4001() {
    let app = room().await;
    let tokens = [
        String::new(),
        "garbage".to_owned(),
        token(&claims("alice", -60)),
        token(&claims("not a name", 3_600)),
        signed(Algorithm::HS256, "another-secret-of-more-than-32-characters"),
        signed(Algorithm::HS512, TOKEN_SECRET),
        unsigned(),
    ];
    for path in ["/v1/ws", "/ws/room"] {
        app.open(path, None).await.expect_close(4001).await;
        for token in &tokens {
            app.open(path, Some(token)).await.expect_close(4001).await;
            app.open(&format!("{path}?token={token}"), None).await.expect_close(4001).await;
        }
    }
}

#[tokio::test]
async fn foreign_and_unknown_conversations_are_4003_alike() {
    let app = room().await;
    let mallory = app.token("mallory");
    for path in ["/ws/room", "/ws/nowhere", "/ws/not%20a%20name", "/v1/ws/room"] {
        let reason = app.open(path, Some(&mallory)).await.expect_close(4003).await;
        assert_eq!(reason, "access denied", "it does not tell which ones exist");
    }
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_1009() {
    let app = App::embedded_with(&[("max_message_bytes", "4096")]).await;
    let mut alice = app.connect("alice").await;
    alice.send_raw(Message::text(" ".repeat(4_096))).await;
    assert_eq!(alice.next_event("error").await["data"]["code"], "bad_json");
    alice.send_raw(Message::text(" ".repeat(4_097))).await;
    assert!(alice.expect_close(1009).await.contains("4096"));
}

#[tokio::test]
async fn text_that_is_not_utf8_is_1007() {
    let app = room().await;
    let mut alice = app.connect("alice").await;
    let broken = Bytes::from_static(b"{\"type\":\"\xff\"}");
    alice.send_raw(Message::Frame(Frame::message(broken, OpCode::Data(Data::Text), true))).await;
    alice.expect_close(1007).await;
}

#[tokio::test]
async fn what_is_not_websocket_is_1002() {
    let app = room().await;
    let cases: [(&str, &[u8]); 4] = [
        ("unmasked", b"\x81\x02hi"),
        ("reserved bits", b"\xf1\x82\0\0\0\0hi"),
        ("reserved opcode", b"\x83\x82\0\0\0\0hi"),
        ("fragmented ping", b"\x09\x82\0\0\0\0hi"),
    ];
    for (what, bytes) in cases {
        let mut alice = app.connect("alice").await;
        alice.send_bytes(bytes).await;
        assert_eq!(alice.expect_close(1002).await, "protocol error", "{what}");
    }
}

#[tokio::test]
async fn too_many_connections_of_a_user_are_4029() {
    let app = App::embedded_with(&[("max_connections_per_user", "2")]).await;
    let (first, _second) = (app.connect("alice").await, app.connect("alice").await);
    let reason = app.open("/v1/ws", Some(&app.token("alice"))).await.expect_close(4029).await;
    assert!(reason.contains("user"), "{reason}");
    app.connect("bob").await;
    first.close().await;
    eventually("the place is free again", async || {
        let mut third = app.open("/v1/ws", Some(&app.token("alice"))).await;
        third.first_event().await.is_ok_and(|frame| frame["event"] == "connected")
    })
    .await;
}

#[tokio::test]
async fn too_many_connections_of_an_address_are_4029() {
    let app = App::embedded_with(&[("max_connections_per_address", "2")]).await;
    let _two = (app.connect("alice").await, app.connect("bob").await);
    let reason = app.open("/v1/ws", Some(&app.token("carol"))).await.expect_close(4029).await;
    assert!(reason.contains("address"), "{reason}");
}

async fn upgrade_from(app: &App, origin: &str) -> Result<Client, Error> {
    let mut request = request(app.address(0), &format!("/v1/ws?token={}", app.token("alice")));
    request.headers_mut().insert("origin", origin.parse().expect("a header"));
    Client::upgrade(request).await.map(|(client, _)| client)
}

#[tokio::test]
async fn pages_of_others_are_refused_before_the_upgrade() {
    let app = App::embedded().await;
    for foreign in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let Err(Error::Http(refused)) = upgrade_from(&app, foreign).await else { panic!("{foreign} is refused") };
        assert_eq!(refused.status(), 403);
    }
    let own = format!("http://{}", app.address(0));
    upgrade_from(&app, &own).await.expect("it is welcome").greeted().await;
}

#[tokio::test]
async fn a_full_instance_is_refused_before_the_upgrade() {
    let app = App::embedded_with(&[("max_connections", "1")]).await;
    let _only = app.connect("alice").await;
    let path = format!("/v1/ws?token={}", app.token("bob"));
    let Err(Error::Http(refused)) = Client::upgrade(request(app.address(0), &path)).await else { panic!("refused") };
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().expect("a header")));
}

#[tokio::test]
async fn whoever_sends_no_request_is_hung_up_on() {
    let app = App::embedded_with(&[("request_timeout", "300ms")]).await;
    for opening in ["", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(app.address(0)).await.expect("it listens");
        stream.write_all(opening.as_bytes()).await.expect("it is open");
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after {opening:?}");
    }
}
