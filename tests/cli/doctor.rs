//! `everpost doctor`: what is right is called so, what is wrong comes with its remedy.

use std::path::Path;

use secrecy::ExposeSecret;

use super::complaint;
use crate::harness::{
    issuer::{Issuer, Signer},
    postgres::PostgresServer,
    process::run,
    redis::RedisServer,
};

/// The findings about one subject, and whether the doctor was content with everything.
fn findings(engine: &[&str], subject: &str) -> (Vec<String>, bool) {
    let done = run(Path::new("/"), &[], &[&["doctor"], engine].concat());
    let shown = String::from_utf8(done.stdout.clone()).expect("text");
    assert!(!shown.is_empty(), "{}", complaint(&done));
    let about = shown.lines().filter(|line| line.split_whitespace().nth(1) == Some(subject));
    (about.map(str::to_owned).collect(), done.status.success())
}

async fn configure(redis: &RedisServer, setting: &str, value: &str) {
    let client = redis::Client::open(redis.url()).expect("a valid address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("it runs");
    let set = redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).exec_async(&mut connection).await;
    set.expect("the setting can be changed");
}

#[tokio::test]
async fn sound_servers_are_fine_and_each_flaw_has_a_remedy() {
    let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
    let (log, database) = (redis.url(), postgres.database().await);
    let engine = ["--redis-url", &log, "--database-url", database.expose_secret()];
    configure(&redis, "maxmemory", "512mb").await;
    for subject in ["redis", "database"] {
        let (lines, _) = findings(&engine, subject);
        assert!(matches!(&lines[..], [line] if line.starts_with("ok")), "{lines:?}");
    }
    for (setting, bad, good) in [
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("maxmemory", "0", "512mb"),
    ] {
        configure(&redis, setting, bad).await;
        let (lines, content) = findings(&engine, "redis");
        assert!(!content && lines.iter().all(|line| line.starts_with("FIX")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains(setting)), "{lines:?}");
        configure(&redis, setting, good).await;
    }
}

#[tokio::test]
async fn a_database_that_is_not_ready_is_reported() {
    let redis = RedisServer::start().await;
    let (log, database) = (redis.url(), PostgresServer::shared().await.empty_database().await);
    let (lines, content) = findings(&["--redis-url", &log, "--database-url", database.expose_secret()], "database");
    assert!(!content && lines.iter().any(|line| line.contains("everpost migrate")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("fsync")), "the shared server does not wait for the disk: {lines:?}");
}

#[test]
fn servers_that_do_not_answer_are_reported() {
    let (log, database) = ("redis://:canary-password@127.0.0.1:9", "postgres://u:canary-password@127.0.0.1:9/d");
    for subject in ["redis", "database"] {
        let (lines, content) = findings(&["--redis-url", log, "--database-url", database], subject);
        assert!(!content && lines.iter().all(|line| line.starts_with("FIX")), "{lines:?}");
        assert!(!lines.concat().contains("canary-password"), "{lines:?}");
    }
}

#[tokio::test]
async fn a_promise_that_would_be_a_lie_is_refused_at_the_start() {
    let redis = RedisServer::start().await;
    configure(&redis, "appendfsync", "everysec").await;
    let (log, database) = (redis.url(), PostgresServer::shared().await.database().await);
    let engine = ["worker", "--redis-url", &log, "--database-url", database.expose_secret()];
    let folder = tempfile::tempdir().expect("a folder");
    let done = run(folder.path(), &[], &engine);
    assert_eq!(done.status.code(), Some(1));
    assert!(complaint(&done).contains("set appendfsync always"), "{}", complaint(&done));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tokens_that_cannot_be_had_are_reported() {
    let signer = Signer::new("key", jsonwebtoken::Algorithm::EdDSA);
    let issuer = Issuer::start(&[&signer]).await;
    let found = |source: &str| findings(&["--jwks", source], "jwks").0;
    assert!(matches!(&found(&issuer.url())[..], [line] if line.starts_with("ok") && line.contains("1 keys")));
    for (source, why) in [
        (issuer.moved_url(), "302"),
        ("http://127.0.0.1:9/jwks".to_owned(), "does not answer"),
        ("/no/such/file".to_owned(), "cannot be read"),
        ("/etc/hostname".to_owned(), "not a JWK set"),
    ] {
        let lines = found(&source);
        assert!(matches!(&lines[..], [line] if line.starts_with("FIX") && line.contains(why)), "{source}: {lines:?}");
    }
}

#[test]
fn too_few_open_files_for_its_connections_are_reported() {
    let (lines, _) = findings(&[], "limits");
    assert!(matches!(&lines[..], [line] if line.starts_with("ok") && line.contains("1000 connections")), "{lines:?}");
    let (lines, content) = findings(&["--max-connections", "99999999999"], "limits");
    assert!(!content && matches!(&lines[..], [line] if line.starts_with("FIX")), "{lines:?}");
    assert!(lines[0].contains("LimitNOFILE") && lines[0].contains("max_connections"), "{lines:?}");
}
