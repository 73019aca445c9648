//! What HTTP lets nobody get away with: requests that two servers would read differently, heads and bodies without an
//! end, addresses and origins that are made up, and listeners that answer strangers.

use std::{net::SocketAddr, time::Duration};

use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{
    app::{API_KEY, App},
    client::{Client, request},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes and reads until the gateway hangs up.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let _ = stream.write_all(bytes).await; // it may have hung up before the end
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

fn answers(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

/// S15. A proxy in front that reads where one request ends differently would let one client speak for another.
#[tokio::test]
async fn a_request_with_two_ends_is_not_answered_as_two() {
    let app = App::embedded_with(&[("request_timeout", "1s"), ("keep_alive", "1s")]).await;
    let inner = "GET /healthz HTTP/1.1\r\nHost: inner\r\n\r\n";
    let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let length = inner.len();
    let cases = [
        ("both lengths", format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}")),
        ("the other way round", format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}")),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}")),
        ("a list of lengths", format!("Content-Length: 0, {length}\r\n\r\n{inner}")),
        ("a negative length", format!("Content-Length: -1\r\n\r\n{inner}")),
        ("a signed length", format!("Content-Length: +{length}\r\n\r\n{inner}")),
        ("a length in another base", format!("Content-Length: 0x0\r\n\r\n{inner}")),
        ("an unknown coding", format!("Transfer-Encoding: xchunked\r\n\r\n{chunk}")),
        ("chunked is not the last", format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunk}")),
        ("a blank before the colon", format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}")),
        ("a folded line", format!("X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}")),
        ("a broken chunk size", format!("Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{inner}")),
        ("a header without a colon", format!("Transfer-Encoding\r\n\r\n{inner}")),
        ("a zero byte", format!("X: a\0b\r\n\r\n{inner}")),
    ];
    for (what, rest) in cases {
        let text = format!("POST /v1/events HTTP/1.1\r\nHost: outer\r\nAuthorization: Bearer x\r\n{rest}");
        let got = raw(app.address(0), text.as_bytes()).await;
        let statuses = answers(&got);
        assert!(statuses.len() <= 1 && !statuses.contains(&"200"), "{what}: {got}");
    }
}

/// S10.
#[tokio::test]
async fn heads_have_an_end() {
    let app = App::embedded_with(&[("request_timeout", "1s")]).await;
    let request =
        |headers: String| format!("GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{headers}\r\n");
    let many = |count: usize| (0..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    for (what, headers, status) in [
        ("some", many(50), "200"),
        ("too many", many(200), "431"),
        ("too long", format!("X: {}\r\n", "y".repeat(64 * 1024)), "431"),
    ] {
        let got = raw(app.address(0), request(headers).as_bytes()).await;
        assert_eq!(answers(&got), [status], "{what}: {got}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: here\r\n\r\n", "y".repeat(70_000));
    assert!(!answers(&raw(app.address(0), long.as_bytes()).await).contains(&"200"));
}

/// S10. Between requests a connection may wait, so that a proxy does not send into one that was just closed; but not for
/// ever, and the first request has less time.
#[tokio::test]
async fn connections_are_kept_longer_than_a_request_may_take() {
    let app = App::embedded_with(&[("request_timeout", "300ms"), ("keep_alive", "2s")]).await;
    let mut stream = TcpStream::connect(app.address(0)).await.expect("it listens");
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n").await.expect("it is open");
        let mut answer = [0; 512];
        let read = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").expect("an answer");
        assert_eq!(answers(&String::from_utf8_lossy(&answer[..read])), ["200"]);
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await.expect("it is open");
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it hangs up").expect("in order");
}

/// S10, S15.
#[tokio::test]
async fn bodies_have_an_end_and_are_taken_as_they_are() {
    let app = App::embedded_with(&[("request_timeout", "1s"), ("max_message_bytes", "4096")]).await;
    app.conversation("room", &["alice"]).await;
    let path = "/v1/conversations/room/messages";
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {API_KEY}\r\nConnection: close\r\n");
    let endless =
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", format!("1000\r\n{}\r\n", "y".repeat(4_096)).repeat(4));
    assert_eq!(answers(&raw(app.address(0), endless.as_bytes()).await), ["413"]);
    let promised = format!("{head}Content-Length: 99999999999\r\n\r\n");
    assert_eq!(answers(&raw(app.address(0), promised.as_bytes()).await), ["413"]);
    let begun = format!("{head}Content-Length: 100\r\n\r\n{{");
    assert_eq!(answers(&raw(app.address(0), begun.as_bytes()).await), ["408"], "the rest never comes");
    // 64 KiB of zeros in 100 bytes: what is not unpacked is no bomb.
    let packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff";
    let answer = app.post_bytes(path, API_KEY, packed.to_vec()).await;
    assert_eq!((answer.status, answer.code()), (400, "bad_json"));
}

/// S10. Whoever is slow keeps nobody waiting but themselves.
#[tokio::test]
async fn slow_strangers_cost_others_nothing() {
    let app = App::embedded().await;
    let mut slow = Vec::new();
    for opening in ["", "GET / HTTP/1.1\r\nX: ", "POST /v1/events HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"].repeat(100) {
        let mut stream = TcpStream::connect(app.address(0)).await.expect("it listens");
        stream.write_all(opening.as_bytes()).await.expect("it is open");
        slow.push(stream);
    }
    app.conversation("room", &["alice"]).await;
    app.connect("alice").await.text("room", "hi").await;
}

/// S14. What is never unpacked is no bomb, and what is never packed leaks nothing by its length.
#[tokio::test]
async fn nothing_is_compressed() {
    let app = App::embedded().await;
    let mut offer = request(app.address(0), &format!("/v1/ws?token={}", app.token("alice")));
    let extensions = "permessage-deflate; client_max_window_bits".parse().expect("a header");
    offer.headers_mut().insert("sec-websocket-extensions", extensions);
    let (mut alice, response) = Client::upgrade(offer).await.expect("the upgrade succeeds");
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
    alice.greeted().await;
    for path in ["/chat.js", "/v1/conversations", "/v1/events"] {
        let request = reqwest::Client::new().get(format!("http://{}{path}", app.address(0)));
        let request = request.bearer_auth(app.token("alice")).header("accept-encoding", "gzip, deflate, br, zstd");
        let answer = request.send().await.expect("it answers");
        assert!(!answer.headers().contains_key("content-encoding"), "{path}");
    }
}

/// S15. A client that asks and takes back, over and over, costs more than it pays.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let app = App::embedded().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..4_000_u32).step_by(2) {
        // GET http://x/ with everything but the name from the static table, then RST_STREAM with CANCEL.
        bytes.extend(b"\0\0\x06\x01\x05");
        bytes.extend(stream.to_be_bytes());
        bytes.extend(b"\x82\x84\x86\x41\x01x");
        bytes.extend(b"\0\0\x04\x03\0");
        bytes.extend(stream.to_be_bytes());
        bytes.extend(8_u32.to_be_bytes());
    }
    let mut stream = TcpStream::connect(app.address(0)).await.expect("it listens");
    let _ = stream.write_all(&bytes).await; // it may have hung up before the end
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up");
    let is_go_away = |frame: &[u8]| frame[3] == 7 && frame.get(13..17) == Some(&11_u32.to_be_bytes());
    assert!(answer.windows(17).any(is_go_away), "it says to calm down: {answer:?}");
}

async fn upgrade(app: &App, headers: &[(&'static str, String)]) -> Result<Client, Error> {
    let mut request = request(app.address(0), &format!("/v1/ws?token={}", app.token("alice")));
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a header"));
    }
    Client::upgrade(request).await.map(|(client, _)| client)
}

/// The code a second connection that claims to come from elsewhere gets, if it is refused.
async fn second_of(settings: &[(&'static str, &str)], headers: [&'static str; 2]) -> Option<u16> {
    let app = App::embedded_with(settings).await;
    let claim = |from: &str| [("x-forwarded-for", from.to_owned())];
    let mut first = upgrade(&app, &claim(headers[0])).await.expect("the upgrade succeeds");
    first.greeted().await;
    upgrade(&app, &claim(headers[1])).await.expect("the upgrade succeeds").first_event().await.err()
}

/// S12. The parser's own cases are beside it, in `src/gateway/client_address.rs`.
#[tokio::test]
async fn only_trusted_proxies_say_where_a_client_is() {
    let one = ("max_connections_per_address", "1");
    let trusted = [one, ("trusted_proxies", "127.0.0.0/8")];
    let (here, there) = ("198.51.100.7", "198.51.100.8");
    assert_eq!(second_of(&[one], [here, there]).await, Some(4029), "anybody can claim anything");
    assert_eq!(second_of(&trusted, [here, there]).await, None);
    assert_eq!(second_of(&trusted, [here, here]).await, Some(4029));
    assert_eq!(second_of(&trusted, ["1.1.1.1, 198.51.100.7", "2.2.2.2, 198.51.100.7"]).await, Some(4029));
    assert_eq!(second_of(&trusted, ["2001:db8:1:2::1", "2001:db8:1:2:ffff::2"]).await, Some(4029), "one home");
    assert_eq!(second_of(&trusted, ["2001:db8:1:2::1", "2001:db8:1:3::1"]).await, None);
}

/// S2.
#[tokio::test]
async fn cookies_open_nothing() {
    let app = App::embedded().await;
    let cookie = format!("token={0}; access_token={0}; session={0}", app.token("alice"));
    let mut request = request(app.address(0), "/v1/ws");
    request.headers_mut().insert("cookie", cookie.parse().expect("a header"));
    Client::upgrade(request).await.expect("the upgrade succeeds").0.expect_close(4001).await;
    for path in ["/v1/events", "/v1/conversations"] {
        let url = format!("http://{}{path}", app.address(0));
        let answer = reqwest::Client::new().get(url).header("cookie", &cookie).send().await.expect("it answers");
        assert_eq!(answer.status(), 401, "{path}");
    }
}

async fn from_origin(app: &App, method: Method, path: &str, origin: &str) -> reqwest::Response {
    let request = reqwest::Client::new().request(method, format!("http://{}{path}", app.address(0)));
    let request = request.header("origin", origin).bearer_auth(app.token("alice"));
    let request = request.header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization, idempotency-key").send().await.expect("it answers")
}

/// S1. Pages of other origins may neither read answers nor open streams.
#[tokio::test]
async fn only_pages_of_allowed_origins_read_answers() {
    let app = App::embedded_with(&[("allowed_origins", "https://app.example")]).await;
    let own = format!("http://{}", app.address(0));
    for (origin, reads, streams) in [
        ("https://app.example", true, 200),
        (own.as_str(), false, 200),
        ("https://evil.example", false, 403),
        ("null", false, 403),
    ] {
        for method in [Method::GET, Method::OPTIONS] {
            let answer = from_origin(&app, method, "/v1/conversations", origin).await;
            let allowed =
                answer.headers().get("access-control-allow-origin").map(|allowed| allowed.to_str().expect("text"));
            assert_eq!(allowed, reads.then_some(origin), "{origin}");
            assert!(!answer.headers().contains_key("access-control-allow-credentials"), "{origin}");
        }
        let stream = from_origin(&app, Method::GET, "/v1/events", origin).await;
        assert_eq!(stream.status(), streams, "{origin}");
    }
    let preflight = from_origin(&app, Method::OPTIONS, "/v1/conversations/room/messages", "https://app.example").await;
    let allowed = preflight.headers()["access-control-allow-headers"].to_str().expect("text").to_owned();
    assert!(
        ["authorization", "idempotency-key", "last-event-id"].iter().all(|name| allowed.contains(name)),
        "{allowed}"
    );
}

#[tokio::test]
async fn any_origin_is_never_any_origin_with_credentials() {
    let app = App::embedded_with(&[("allowed_origins", "*")]).await;
    let answer = from_origin(&app, Method::OPTIONS, "/v1/conversations", "https://anything.example").await;
    assert!(answer.headers().contains_key("access-control-allow-origin"));
    assert!(!answer.headers().contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn every_answer_says_what_browsers_may_do_with_it() {
    let app = App::embedded().await;
    for path in ["/", "/chat.js", "/client.js", "/healthz", "/v1/conversations", "/nowhere", "/v1/events"] {
        let url = format!("http://{}{path}", app.address(0));
        let answer = reqwest::Client::new().get(url).bearer_auth(app.token("alice")).send().await.expect("it answers");
        let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().expect("text"));
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert!(!header("server").contains('/') && header("x-powered-by").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn methods_that_mirror_or_tunnel_are_not_served() {
    let app = App::embedded().await;
    for (line, secret) in [("TRACE / HTTP/1.1", "canary-5"), ("CONNECT evil.example:443 HTTP/1.1", "canary-6")] {
        let text = format!("{line}\r\nHost: here\r\nX-Secret: {secret}\r\nConnection: close\r\n\r\n");
        let got = raw(app.address(0), text.as_bytes()).await;
        assert!(!got.contains(secret) && !answers(&got).contains(&"200"), "{got}");
    }
}

/// S32. What was sent is not sent back, and a wrong token is told nothing about users.
#[tokio::test]
async fn refusals_repeat_nothing() {
    let app = App::embedded().await;
    for (path, credential) in [
        ("/v1/conversations/%3Cscript%3Ealert(1)%3C%2Fscript%3E", API_KEY),
        ("/v1/conversations/room?<script>", "canary-credential"),
        ("/<script>alert(1)</script>", API_KEY),
    ] {
        let answer = app.get(path, credential).await;
        let text = answer.body.to_string();
        assert!(!text.contains("script") && !text.contains("canary"), "{text}");
        answer.code();
    }
}

const ADMIN_ROUTES: [(Method, &str); 7] = [
    (Method::GET, "/"),
    (Method::GET, "/metrics"),
    (Method::GET, "/v1/admin/status"),
    (Method::GET, "/v1/admin/dead-letters"),
    (Method::GET, "/v1/admin/dead-letters/018f0000-0000-7000-8000-000000000000"),
    (Method::DELETE, "/v1/admin/dead-letters/018f0000-0000-7000-8000-000000000000"),
    (Method::POST, "/v1/admin/dead-letters/018f0000-0000-7000-8000-000000000000/redrive"),
];

/// S23.
#[tokio::test]
async fn the_admin_listener_asks_for_a_key_of_its_own() {
    let key = "an-admin-key-that-only-the-tests-ever-use";
    let app = App::embedded_with(&[("admin_key", key)]).await;
    for (method, path) in ADMIN_ROUTES {
        for credential in ["", API_KEY, &app.token("alice"), "an-admin-key-that-only-the-tests-ever-usf"] {
            assert_eq!(app.ask_admin(method.clone(), path, &[], credential).await.status, 401, "{method} {path}");
        }
        assert_ne!(app.ask_admin(method.clone(), path, &[], key).await.status, 401, "{method} {path}");
    }
    for path in ["/metrics", "/v1/admin/status", "/v1/admin/dead-letters"] {
        assert_eq!(app.get(path, key).await.status, 404, "clients do not reach {path}");
    }
    assert_eq!(app.get("/v1/conversations", key).await.status, 401, "and the key opens nothing for clients");
}

/// S23. On loopback there may be no key; a page in the administrator's browser still gets nowhere.
#[tokio::test]
async fn the_admin_listener_is_not_reached_through_a_browser() {
    let app = App::embedded().await;
    for (method, path) in ADMIN_ROUTES {
        for header in [("origin", "https://evil.example"), ("origin", "null"), ("host", "evil.example:8081")] {
            let answer = app.ask_admin(method.clone(), path, &[header], "").await;
            assert_eq!((answer.status, answer.code()), (403, "forbidden"), "{method} {path} {header:?}");
        }
        assert!(![401, 403].contains(&app.ask_admin(method.clone(), path, &[], "").await.status), "{method} {path}");
    }
}
