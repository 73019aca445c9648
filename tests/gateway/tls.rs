//! The same over TLS: WebSocket, HTTP/2 and HTTP/1.1 on one listener, and certificates that change.

use std::{net::SocketAddr, time::Duration};

use futures_util::StreamExt;
use reqwest::Version;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};

use crate::harness::{
    app::{API_KEY, App},
    certificate::Certificate,
    event_source::EventSource,
    eventually::eventually,
    process::Everpost,
};

async fn secured(certificate: &Certificate) -> App {
    let settings = certificate.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    App::embedded_with(&settings).await
}

fn at(address: SocketAddr, path: &str) -> String {
    format!("https://localhost:{}{path}", address.port())
}

#[tokio::test]
async fn one_listener_speaks_both_versions_of_http() {
    let certificate = Certificate::new();
    let app = secured(&certificate).await;
    let address = app.address(0);
    let modern = certificate.client(address).build().expect("a client");
    let plain = certificate.client(address).http1_only().build().expect("a client");
    for (client, version) in [(&modern, Version::HTTP_2), (&plain, Version::HTTP_11)] {
        let answer = client.get(at(address, "/healthz")).send().await.expect("it answers");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    let without = reqwest::get(format!("http://{address}/healthz")).await;
    assert!(without.is_err(), "nothing is answered in plain text");
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let certificate = Certificate::new();
    let app = secured(&certificate).await;
    let address = app.address(0);
    let http = certificate.client(address).build().expect("a client");
    let room = serde_json::json!({"id": "room", "participants": ["alice", "bob"]});
    let made = http.post(at(address, "/v1/conversations")).bearer_auth(API_KEY).json(&room).send().await;
    assert_eq!(made.expect("it answers").status(), 201);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let url = at(address, &format!("/v1/events?token={}", app.token("bob")));
        let mut stream = EventSource::open(&http, &url).await.expect("it is welcome");
        assert_eq!(stream.version(), Some(Version::HTTP_2));
        stream.next_named("connected").await;
        streams.push(stream);
    }
    let hi = serde_json::json!({"type": "text", "content": {"text": "hi"}});
    let url = at(address, "/v1/conversations/room/messages");
    let said = http.post(url).bearer_auth(app.token("alice")).json(&hi).send().await;
    assert_eq!(said.expect("it answers").status(), 201);
    for stream in &mut streams {
        stream.expect_seqs([1]).await;
    }
}

#[tokio::test]
async fn our_own_pages_may_connect_and_others_may_not() {
    let certificate = Certificate::new();
    let app = secured(&certificate).await;
    let address = app.address(0);
    let http = certificate.client(address).build().expect("a client");
    let from = async |origin: &str| {
        let request = http.get(at(address, "/v1/events")).bearer_auth(app.token("bob")).header("origin", origin);
        request.send().await.expect("it answers").status().as_u16()
    };
    assert_eq!(from(&at(address, "")).await, 200);
    assert_eq!(from("https://evil.example").await, 403);
}

#[tokio::test]
async fn websockets_are_secured_as_well() {
    let certificate = Certificate::new();
    let app = secured(&certificate).await;
    let stream = certificate.connect(app.address(0)).await.expect("the handshake succeeds");
    let url = format!("wss://localhost:{}/v1/ws?token={}", app.address(0).port(), app.token("alice"));
    let request = url.into_client_request().expect("an address");
    let (mut socket, _) = client_async(request, stream).await.expect("the upgrade succeeds");
    let hello = socket.next().await.expect("a frame").expect("a frame");
    let hello: Value = serde_json::from_str(hello.to_text().expect("text")).expect("JSON");
    assert_eq!((&hello["event"], &hello["data"]["user_id"]), (&"connected".into(), &"alice".into()));
}

#[tokio::test]
async fn whoever_does_not_shake_hands_is_hung_up_on() {
    let certificate = Certificate::new();
    let [cert, key] = certificate.settings();
    let settings = [(cert.0, cert.1.as_str()), (key.0, key.1.as_str()), ("request_timeout", "300ms")];
    let app = App::embedded_with(&settings).await;
    let mut silent = tokio::net::TcpStream::connect(app.address(0)).await.expect("it listens");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_at_once_when_asked() {
    let certificate = Certificate::new();
    let [(_, cert), (_, key)] = certificate.settings();
    let server =
        Everpost::start(&["serve", "--admin-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key]).await;
    let old = certificate.connect(server.address()).await.expect("the handshake succeeds");
    certificate.renew();
    assert!(certificate.connect(server.address()).await.is_err(), "it does not know yet");
    server.signal("HUP");
    server.says("the certificate was read again").await;
    eventually("the new one is shown", async || certificate.connect(server.address()).await.is_ok()).await;
    let url = at(server.address(), "/v1/events?token=canary-token-in-a-query");
    let http = certificate.client(server.address()).build().expect("a client");
    assert_eq!(http.get(url).send().await.expect("it answers").status(), 401);
    assert!(!server.log().contains("canary-token"), "a token in a query is never logged");
    let (_, session) = old.get_ref();
    assert!(!session.is_handshaking(), "who is connected stays connected");
    std::fs::write(certificate.cert(), "half a certifi").expect("written");
    server.signal("HUP");
    server.says("the old one still is").await;
    server.signal("TERM");
}
