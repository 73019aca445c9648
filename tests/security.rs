//! The checklist of docs/security.md: that its tests exist, and the tests of what has no better place.

use std::{collections::HashSet, fs, path::Path};

use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{
    app::{API_KEY, App},
    client::{Client, request},
    postgres::{PostgresServer, ROLE_GRANT, with_role},
    redis::{RedisServer, USER_RULES},
};

const CONTROLS: usize = 34;

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    fs::read_to_string(page).expect("it is there")
}

/// The names of all functions, tests among them.
fn all_tests() -> HashSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = HashSet::new();
    let mut folders: Vec<_> = ["src", "core", "workers/src", "tests"].map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is readable") {
            let path = entry.expect("it is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).expect("it is readable");
                names.extend(
                    text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next().map(str::to_owned)),
                );
            }
        }
    }
    names
}

/// A checklist is worth what stands behind it: each control names a test that exists, or says why it has none.
#[test]
fn every_control_has_a_test_that_exists_or_a_reason() {
    let (page, tests) = (page(), all_tests());
    let mut controls = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| S")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [control, _, kept_by, shown_by] = cells[..] else { panic!("four columns: {row}") };
        let named: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        for name in &named {
            assert!(tests.contains(*name), "{control} names the test {name}, which is nowhere");
        }
        assert!(!named.is_empty() || kept_by.starts_with("Not here:"), "{control} has neither a test nor a reason");
        controls.push(control.to_owned());
    }
    assert_eq!(controls, (1..=CONTROLS).map(|n| format!("S{n}")).collect::<Vec<_>>());
}

/// Whoever has not said who they are gets a refusal and nothing else, whatever they send along.
#[tokio::test]
async fn nothing_is_done_before_authentication() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    for path in ["/ws/room", "/v1/ws"] {
        let mut stranger = app.open(path, None).await;
        let frame = json!({"type": "text", "id": "x", "conversation_id": "room", "content": "let me in"});
        stranger.send(frame).await;
        assert_eq!(stranger.first_event().await.expect_err("not even a greeting"), 4001);
    }
    assert!(app.history("room", "").await.is_empty());
}

/// Whatever a request claims to be packed in, it is read as it comes; a bomb is only a body that is not JSON.
#[tokio::test]
async fn nothing_is_unpacked() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let mut offer = request(app.address(0), &format!("/v1/ws?token={}", app.token("alice")));
    let extension = "permessage-deflate; client_max_window_bits".parse().expect("a header");
    offer.headers_mut().insert("sec-websocket-extensions", extension);
    let (_, answer) = Client::upgrade(offer).await.expect("it is welcome");
    assert!(answer.headers().get("sec-websocket-extensions").is_none(), "compression is not taken up");
    let packed: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    let url = format!("http://{}/v1/conversations/room/messages", app.address(0));
    let post = reqwest::Client::new().post(url).bearer_auth(API_KEY).header("content-encoding", "gzip").body(packed);
    let answer = post.send().await.expect("it runs");
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json::<serde_json::Value>().await.expect("a problem")["code"], "bad_json");
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let app = App::embedded().await;
    let mut large = request(app.address(0), &format!("/v1/ws?token={}", app.token("alice")));
    large.headers_mut().insert("x-padding", "x".repeat(40_000).parse().expect("a header"));
    match Client::upgrade(large).await {
        Err(Error::Http(refused)) => assert_eq!(refused.status(), 431),
        Err(Error::Io(_) | Error::Protocol(_)) => {} // hung up on while it was still talking
        other => panic!("{:?}", other.map(drop)),
    }
    let mut many = reqwest::Client::new().get(format!("http://{}/healthz", app.address(0)));
    for n in 0..200 {
        many = many.header(format!("x-{n}"), "x");
    }
    let answer = many.send().await;
    assert!(answer.is_ok_and(|answer| answer.status() == 431), "hundreds of fields are no request");
}

/// Nobody's name is a label: metrics are read by more people than messages are.
#[tokio::test]
async fn metrics_and_health_name_nobody() {
    let app = App::embedded().await;
    app.conversation("canary-room", &["canary-alice"]).await;
    app.say("canary-room", "canary-alice", "hi").await;
    app.settle("canary-room", "canary-alice").await;
    let shown = app.admin(0, "/metrics").await;
    let shown = shown.body.as_str().expect("text");
    assert!(shown.contains("everpost_") && !shown.contains("canary"), "{shown}");
    let labels = shown.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('{'));
    for (_, labels) in labels {
        let labels = labels.split_once('}').expect("it is closed").0;
        for label in labels.split(',').filter_map(|label| label.split_once('=')) {
            let personal = ["user", "conversation", "sender", "device", "address", "message", "token", "key", "tenant"];
            assert!(!personal.iter().any(|word| label.0.contains(word)), "{label:?}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        let body = app.ask(0, Method::GET, path, "", None).await.body;
        assert!(["ok\n", "ready\n"].contains(&body.as_str().expect("a word")), "{body}");
    }
    assert_eq!(app.ask(0, Method::GET, "/metrics", API_KEY, None).await.status, 404, "not where clients are");
}

/// The deployment that tests/canaries.rs plays on runs as this user; here is what it cannot do.
#[tokio::test]
async fn the_user_in_redis_can_do_no_harm() {
    let redis = RedisServer::start().await;
    let client = redis::Client::open(redis.with_user("a-password").await).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis runs");
    for words in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG SET maxmemory 1",
        "CONFIG REWRITE",
        "SHUTDOWN NOSAVE",
        "REPLICAOF NO ONE",
        "ACL LIST",
        "MONITOR",
        "MODULE LIST",
        "SCRIPT KILL",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "CLIENT LIST",
        "GET other:key",
        "SET other:key 1",
        "SAVE",
        "SWAPDB 0 1",
    ] {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        words.for_each(|word| {
            command.arg(word);
        });
        let refused = command.exec_async(&mut connection).await.expect_err("it is refused");
        assert_eq!(refused.code(), Some("NOPERM"), "{refused}");
    }
    assert!(page().contains(USER_RULES), "the page gives the same rules");
}

/// The same deployment runs as this role in Postgres.
#[tokio::test]
async fn the_role_in_postgres_can_do_no_harm() {
    let database = PostgresServer::shared().await.database().await;
    let role = with_role(&database, "a-password").await;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(role.expose_secret()).await.expect("it may");
    for statement in [
        "DROP TABLE messages",
        "TRUNCATE messages",
        "ALTER TABLE messages ADD COLUMN x INT",
        "CREATE TABLE x (x INT)",
        "CREATE ROLE x",
        "COPY messages TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "ALTER SYSTEM SET fsync = off",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&mut connection).await.expect_err(statement);
        let code = refused.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
    assert!(page().contains(ROLE_GRANT), "the page gives the same rules");
}

/// What people write is data, whatever it looks like.
#[tokio::test]
async fn nothing_that_is_written_is_run() {
    for app in [App::embedded().await, App::distributed().await] {
        app.conversation("room';--", &["alice'--"]).await;
        let title = "'; DROP TABLE messages; --";
        let made =
            app.post("/v1/conversations", API_KEY, json!({"id": "hall", "title": title, "participants": ["bob"]}));
        assert_eq!(made.await.ok()["title"], title);
        app.say("room';--", "alice'--", "$1 ? ''; DELETE FROM messages; redis.call('FLUSHALL')").await;
        app.settle("room';--", "alice'--").await;
        assert_eq!(app.history("room';--", "").await.len(), 2);
    }
}
