//! What is refused, with the exit code and the sentence people get.

use std::fs;

use super::complaint;
use crate::harness::process::{run, serve};

/// Runs a command in an empty folder; what it exits with and says.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let done = run(folder.path(), &[], arguments);
    (done.status.code(), complaint(&done))
}

fn is_bad_configuration(arguments: &[&str], sentence: &[&str]) {
    let (code, words) = refusal(arguments);
    assert_eq!(code, Some(78), "{arguments:?}: {words}");
    assert!(sentence.iter().all(|part| words.contains(part)), "{arguments:?}: {words}");
    assert!(!words.contains("panicked"), "{words}");
}

#[test]
fn a_command_that_is_not_understood_is_a_usage_error() {
    for arguments in [
        &["dance"][..],
        &["--dance"],
        &["publish"],
        &["publish", "room"],
        &["token"],
        &["worker", "--roles", "dance"],
        &["tail"],
    ] {
        let (code, words) = refusal(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {words}");
    }
}

#[test]
fn half_an_engine_is_bad_configuration() {
    is_bad_configuration(&["--redis-url", "redis://127.0.0.1:9"], &["database_url is not"]);
    is_bad_configuration(&["--database-url", "postgres://127.0.0.1:9/d"], &["redis_url is not"]);
    is_bad_configuration(&["worker"], &["--redis-url", "everpost serve"]);
}

#[test]
fn unsafe_listeners_are_bad_configuration() {
    is_bad_configuration(&["--listen", "0.0.0.0:0"], &["--token-secret"]);
    is_bad_configuration(&["--admin-listen", "0.0.0.0:0"], &["--admin-key"]);
    is_bad_configuration(&["--token-secret", "short"], &["token_secret", "32"]);
    is_bad_configuration(&["--listen", "somewhere"], &["listen"]);
    is_bad_configuration(&["--durability", "maybe"], &["durability"]);
    is_bad_configuration(&["--max-connections", "many"], &["max_connections"]);
    is_bad_configuration(&["--jwks", "http://id.example/keys"], &["jwks", "https"]);
    is_bad_configuration(&["token", "--user", "ann", "--ttl", "365d"], &["max_token_lifetime", "--ttl"]);
}

#[test]
fn a_certificate_that_cannot_be_used_is_bad_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cert.pem");
    let path = file.to_str().expect("a plain name");
    let both = ["--listen", "127.0.0.1:0", "--tls-cert", path, "--tls-key", path];
    is_bad_configuration(&both[..4], &["belong together"]);
    is_bad_configuration(&both, &["tls_cert", path, "No such file"]);
    fs::write(&file, "this is no certificate").expect("written");
    is_bad_configuration(&both, &["tls_cert", path, "no certificate"]);
}

#[test]
fn a_broken_file_is_bad_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("everpost.toml");
    let path = file.to_str().expect("a plain name");
    is_bad_configuration(&["config", "--config", path], &[path]);
    for (text, sentence) in [
        ("dance = 1\n", "dance"),
        ("listen = \n", "everpost.toml"),
        ("max_connections = \"many\"\n", "max_connections"),
        ("listen = \"0.0.0.0:8080\"\n", "token_secret"),
    ] {
        fs::write(&file, text).expect("a file");
        is_bad_configuration(&["config", "--config", path], &[sentence]);
    }
    is_bad_configuration(&["config", "--config", folder.path().to_str().expect("a plain name")], &[]);
}

#[tokio::test]
async fn a_second_process_in_the_same_place_is_told_what_to_do() {
    let first = serve().await;
    let elsewhere = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let done = run(first.folder(), &[], &elsewhere);
    assert_eq!(done.status.code(), Some(1));
    let words = complaint(&done);
    assert!(words.contains("another everpost process") && words.contains("--data-dir"), "{words}");

    let (listen, folder) = (first.address().to_string(), tempfile::tempdir().expect("a folder"));
    let done = run(folder.path(), &[], &["--listen", &listen, "--admin-listen", "127.0.0.1:0"]);
    assert_eq!(done.status.code(), Some(1));
    let words = complaint(&done);
    assert!(words.contains(&listen) && words.contains("--listen"), "{words}");
    let done = run(folder.path(), &[], &["--listen", "127.0.0.1:0", "--admin-listen", &listen]);
    assert!(complaint(&done).contains("--admin-listen"), "{}", complaint(&done));
}

#[test]
fn no_secret_is_repeated_in_a_complaint() {
    let secret = "canary-password";
    let (redis, postgres) = (format!("redis://:{secret}@127.0.0.1:9"), format!("postgres://u:{secret}@127.0.0.1:9/d"));
    let broken = (format!("redis://:{secret}@127.0.0.1:port"), format!("postgres://u:{secret}@127.0.0.1:port/d"));
    for (redis, postgres) in [(&redis, &postgres), (&broken.0, &postgres), (&redis, &broken.1)] {
        for command in ["serve", "worker", "gateway", "migrate"] {
            let (code, words) = refusal(&[command, "--redis-url", redis, "--database-url", postgres, "--log", "debug"]);
            assert_ne!(code, Some(0));
            assert!(!words.contains(secret), "{command}: {words}");
        }
    }
}
