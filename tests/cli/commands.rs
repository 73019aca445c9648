//! The commands that do their work and end.

use std::{path::Path, process::Stdio};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{complaint, printed};
use crate::harness::{
    postgres::PostgresServer,
    process::{API_KEY, TOKEN_SECRET, executable, run, serve},
};

#[test]
fn the_help_names_every_command() {
    let help = printed(Path::new("/"), &["--help"]);
    let commands = [
        "serve",
        "gateway",
        "worker",
        "migrate",
        "token",
        "publish",
        "tail",
        "status",
        "dead-letters",
        "config",
        "bench",
        "doctor",
    ];
    for command in commands {
        let listed = help.lines().any(|line| line.trim_start().split(' ').next() == Some(command));
        assert!(listed, "{command} is not in {help}");
        assert!(!printed(Path::new("/"), &[command, "--help"]).is_empty());
    }
}

#[tokio::test]
async fn what_is_published_can_be_followed() {
    let process = serve().await;
    let url = format!("http://{}", process.address());
    let server = ["--url", &url, "--api-key", API_KEY, "--token-secret", TOKEN_SECRET];
    let room = reqwest::Client::new().post(format!("{url}/v1/conversations")).bearer_auth(API_KEY);
    let room = room.json(&serde_json::json!({"id": "room", "participants": ["ann"]})).send().await.expect("it runs");
    assert_eq!(room.status(), 201);
    let publish = |words: &[&str]| printed(process.folder(), &[&["publish", "room"], words, &server[..]].concat());
    let first: Value = serde_json::from_str(&publish(&["hello", "you", "--user", "ann"])).expect("JSON");
    assert_eq!((&first["message"]["seq"], &first["duplicate"]), (&1.into(), &false.into()));
    assert_eq!(first["message"]["content"]["text"], "hello you");
    let once = ["again", "--idempotency-key", "k"];
    assert_eq!(serde_json::from_str::<Value>(&publish(&once)).expect("JSON")["duplicate"], false);
    assert_eq!(serde_json::from_str::<Value>(&publish(&once)).expect("JSON")["duplicate"], true);
    let seen = tail(&[&["tail", "room", "--after", "0"], &server[..]].concat(), 2).await;
    let texts: Vec<_> = seen.iter().map(|frame| frame["data"]["content"]["text"].as_str()).collect();
    assert_eq!(texts, [Some("hello you"), Some("again")]);
}

/// The first messages a tail shows.
async fn tail(arguments: &[&str], messages: usize) -> Vec<Value> {
    let mut command = Command::new(executable());
    let command = command.args(arguments).env_clear().stdout(Stdio::piped()).kill_on_drop(true);
    let mut tail = command.spawn().expect("it starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    let mut seen = Vec::new();
    while seen.len() < messages {
        let line = lines.next_line().await.expect("readable").expect("it goes on");
        let frame: Value = serde_json::from_str(&line).expect("a frame a line");
        seen.extend((frame["event"] == "new_message").then_some(frame));
    }
    seen
}

#[tokio::test]
async fn the_status_of_a_running_server_is_a_table_or_json() {
    let process = serve().await;
    let log = process.log();
    let admin = log.split("admin=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("it says where");
    let url = format!("http://{}", admin.trim_matches('"'));
    let shown = printed(process.folder(), &["status", "--url", &url]);
    for expected in ["embedded (SQLite)", "pressure  green", "gateways  1", "persist"] {
        assert!(shown.contains(expected), "{expected} is not in {shown}");
    }
    let json: Value =
        serde_json::from_str(&printed(process.folder(), &["status", "--json", "--url", &url])).expect("JSON");
    assert_eq!((&json["pressure"]["level"], json["partitions"].as_array().map(Vec::len)), (&"green".into(), Some(1)));
    let done = run(process.folder(), &[], &["status", "--url", "http://127.0.0.1:9"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(complaint(&done).contains("is a server running?"), "{}", complaint(&done));
}

/// What the server asks of tokens is in those it is given.
#[test]
fn a_token_says_what_the_server_asks_for() {
    let environment = [
        ("EVERPOST_TOKEN_SECRET", TOKEN_SECRET),
        ("EVERPOST_TOKEN_AUDIENCE", "everpost"),
        ("EVERPOST_TOKEN_ISSUER", "https://id.example/"),
    ];
    let minted = run(Path::new("/"), &environment, &["token", "--user", "ann", "--role", "agent", "--device", "phone"]);
    assert!(minted.status.success(), "{}", complaint(&minted));
    let token = String::from_utf8(minted.stdout).expect("text");
    let body = URL_SAFE_NO_PAD.decode(token.trim().split('.').nth(1).expect("claims")).expect("base64");
    let claims: Value = serde_json::from_slice(&body).expect("JSON");
    for (name, value) in
        [("sub", "ann"), ("role", "agent"), ("device_id", "phone"), ("aud", "everpost"), ("iss", "https://id.example/")]
    {
        assert_eq!(claims[name], value, "{claims}");
    }
    assert!(claims["jti"].is_string() && claims["iat"].is_u64(), "it can be revoked: {claims}");
}

#[test]
fn publishing_to_nobody_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let done = run(folder.path(), &[], &["publish", "room", "hello", "--url", "http://127.0.0.1:9"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(complaint(&done).contains("is it running?"), "{}", complaint(&done));
}

#[test]
fn the_settings_are_shown_without_their_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("everpost.toml");
    std::fs::write(&file, "max_connections = 7\napi_key = \"canary-api-key-0123456789abcdefghijk\"\n").expect("a file");
    let password = "canary-password";
    let (redis, postgres) = (format!("redis://:{password}@r"), format!("postgres://u:{password}@p/d"));
    let environment = [
        ("EVERPOST_TOKEN_SECRET", TOKEN_SECRET),
        ("EVERPOST_REDIS_URL", &redis),
        ("EVERPOST_DATABASE_URL", &postgres),
        ("EVERPOST_MAX_CONNECTIONS_PER_USER", "3"),
        ("EVERPOST_PORT_80_TCP", "set by an orchestrator"),
    ];
    let file = file.to_str().expect("a plain name");
    let done = run(folder.path(), &environment, &["config", "--config", file, "--listen", "127.0.0.1:1"]);
    let shown = String::from_utf8(done.stdout).expect("text");
    for expected in ["max_connections = 7", "max_connections_per_user = 3", "listen = \"127.0.0.1:1\""] {
        assert!(shown.contains(expected), "{expected} is not in {shown}");
    }
    for canary in [TOKEN_SECRET, API_KEY, password] {
        assert!(!shown.contains(canary), "{shown}");
    }
}

#[tokio::test]
async fn a_database_is_migrated_before_it_is_used() {
    let database = PostgresServer::shared().await.empty_database().await;
    let folder = tempfile::tempdir().expect("a folder");
    let redis = crate::harness::redis::RedisServer::start().await;
    let engine = ["--redis-url", &redis.url(), "--database-url", database.expose_secret()];
    let early = run(folder.path(), &[], &[&["worker"], &engine[..]].concat());
    assert_eq!(early.status.code(), Some(1));
    assert!(complaint(&early).contains("everpost migrate"), "{}", complaint(&early));
    for _ in 0..2 {
        let done = printed(folder.path(), &[&["migrate"], &engine[..]].concat());
        assert!(done.contains("up to date"), "{done}");
    }
}
