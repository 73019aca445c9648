//! The first minute: everything `everpost` prints when it starts without settings is true and works.

use std::{path::Path, process::Command};

use futures_util::StreamExt;
use serde_json::Value;
use tokio_tungstenite::connect_async;

use crate::harness::process::{Everpost, executable};

async fn first_run() -> Everpost {
    let process = Everpost::start_in(&[], &["--admin-listen", "127.0.0.1:0"]).await;
    process.ready().await;
    process
}

/// A line of the block, by the words it begins with.
fn line(process: &Everpost, name: &str) -> String {
    let log = process.log();
    let line = log.lines().find_map(|line| line.strip_prefix("  ")?.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name:?} in {log}")).trim().to_owned()
}

/// Pastes a line into a shell in the folder the server was started from.
fn paste(process: &Everpost, line: &str) -> String {
    let bin = Path::new(executable()).parent().expect("a folder").display();
    let script = format!("PATH={bin}:$PATH; {line}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(process.folder());
    let done = shell.output().expect("a shell");
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

async fn greeting(url: String) -> Value {
    let (mut socket, _) = connect_async(url).await.expect("it lets us in");
    let message = socket.next().await.expect("a frame").expect("a frame");
    serde_json::from_str(message.to_text().expect("text")).expect("JSON")
}

#[tokio::test]
async fn the_chat_links_let_their_people_in() {
    let process = first_run().await;
    for person in ["alice", "bob"] {
        let link = line(&process, &format!("chat as {person}"));
        let (page, fragment) = link.split_once("/#").expect("the token is not sent to the server");
        assert_eq!(page, format!("http://{}", process.address()));
        let (token, conversation) = fragment.split_once("&conversation=").expect("both are there");
        let token = token.strip_prefix("token=").expect("a token");
        let url = format!("ws://{}/v1/ws/{conversation}?token={token}", process.address());
        let hello = greeting(url).await;
        assert_eq!((&hello["event"], &hello["data"]["user_id"]), (&"connected".into(), &person.into()));
    }
}

#[tokio::test]
async fn what_can_be_pasted_works() {
    let process = first_run().await;
    let answer: Value = serde_json::from_str(&paste(&process, &line(&process, "or with curl"))).expect("JSON");
    assert_eq!((&answer["message"]["seq"], &answer["durability"]), (&1.into(), &"fsync".into()));
    let answer: Value = serde_json::from_str(&paste(&process, &line(&process, "publish "))).expect("JSON");
    assert_eq!(answer["message"]["seq"], 2);
    let token = paste(&process, &line(&process, "a token"));
    let hello = greeting(format!("ws://{}/v1/ws?token={}", process.address(), token.trim())).await;
    assert_eq!(hello["data"]["user_id"], "carol");
}

#[tokio::test]
async fn the_block_tells_what_one_needs_to_know() {
    let process = first_run().await;
    assert!(process.log().contains("embedded (SQLite)"));
    assert!(line(&process, "clients").contains(&process.address().to_string()));
    assert!(line(&process, "durability").starts_with("fsync"));
    let data = line(&process, "data ");
    assert!(Path::new(&data).join("log.db").exists(), "{data}");
    let metrics = reqwest::get(line(&process, "metrics")).await.expect("the admin listener is open");
    assert!(metrics.text().await.expect("text").contains("everpost_build_info"));
}

#[tokio::test]
async fn the_page_comes_with_all_it_needs_and_nothing_else_may_run() {
    let process = first_run().await;
    let get = async |path: &str| reqwest::get(format!("http://{}{path}", process.address())).await.expect("an answer");
    let page = get("/").await;
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = page.text().await.expect("text");
    for (path, kind) in [("/chat.css", "text/css"), ("/chat.js", "text/javascript"), ("/client.js", "text/javascript")]
    {
        let asset = get(path).await;
        assert_eq!(asset.status(), 200);
        assert!(asset.headers()["content-type"].to_str().expect("text").starts_with(kind));
    }
    let attributes = page.split('"').filter(|word| !word.starts_with("data:"));
    let is_path = |word: &&str| word.strip_prefix('/').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
    let linked: Vec<_> = attributes.filter(is_path).collect();
    assert!(linked.len() >= 2, "{linked:?}");
    for path in linked {
        assert_eq!(get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn the_demo_survives_a_restart() {
    let mut process = first_run().await;
    let _ = paste(&process, &line(&process, "or with curl"));
    let link = line(&process, "chat as alice");
    process.restart().await;
    process.ready().await;
    let token = link.split_once("#token=").and_then(|(_, rest)| rest.split_once('&')).expect("a token").0;
    let url = format!("ws://{}/v1/ws/demo?after=0&token={token}", process.address());
    let (socket, _) = connect_async(url).await.expect("yesterday's link still works");
    let frames = socket.filter_map(async |frame| serde_json::from_str::<Value>(frame.ok()?.to_text().ok()?).ok());
    let message = frames.filter(|frame| std::future::ready(frame["event"] == "new_message"));
    assert_eq!(Box::pin(message).next().await.expect("it is still there")["seq"], 1);
}
