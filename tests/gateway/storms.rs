//! Everybody comes at once, or has to go at once.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{
    app::App,
    raw::{self, Raw},
};

/// The status of an upgrade, and what `Retry-After` says.
async fn arrive(address: std::net::SocketAddr, path: String) -> (u16, Option<u64>) {
    let answer = Raw::connect(address).await.request(&raw::upgrade(address, &path)).await.to_ascii_lowercase();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let wait = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")?.trim().parse().ok());
    (status, wait)
}

#[tokio::test]
async fn more_than_can_come_in_at_once_wait_or_are_sent_away_with_a_time() {
    let app = App::embedded_with(&[("accept_rate", "2")]).await;
    let path = format!("/v1/ws?token={}", app.token("alice"));
    let mut arrivals = JoinSet::new();
    (0..30).for_each(|_| drop(arrivals.spawn(arrive(app.address(0), path.clone()))));
    let arrivals = arrivals.join_all().await;
    let let_in = arrivals.iter().filter(|(status, _)| *status == 101).count();
    assert!((2..30).contains(&let_in), "{arrivals:?}");
    let sent_away: Vec<_> = arrivals.iter().filter(|(status, _)| *status != 101).collect();
    assert!(
        sent_away.iter().all(|(status, wait)| *status == 503 && wait.is_some_and(|wait| wait >= 1)),
        "{sent_away:?}"
    );
    let waits: std::collections::HashSet<_> = sent_away.iter().map(|(_, wait)| wait).collect();
    assert!(waits.len() > 1, "not all at the same time again: {waits:?}");
}

/// Whatever moment it is in, nobody is left with a connection that just breaks.
#[tokio::test]
async fn who_comes_while_the_process_stops_is_told_to_come_back() {
    let mut app = App::embedded_with(&[("accept_rate", "100000")]).await;
    let (address, path) = (app.address(0), format!("/v1/ws?token={}", app.token("alice")));
    let mut arrivals = JoinSet::new();
    for number in 0..60_u64 {
        let path = path.clone();
        arrivals.spawn(async move {
            tokio::time::sleep(Duration::from_millis(15 * number)).await;
            let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return None };
            let mut raw = Raw::over(stream);
            let answer = raw.try_request(&raw::upgrade(address, &path)).await?;
            if answer.starts_with("HTTP/1.1 503") {
                return Some(1001);
            }
            assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
            Some(raw.closed().await.map_or(1006, |close| close.0))
        });
    }
    tokio::time::sleep(Duration::from_millis(450)).await;
    app.stop().await;
    let ends: Vec<u16> = arrivals.join_all().await.into_iter().flatten().collect();
    assert!(!ends.is_empty() && ends.iter().all(|code| *code == 1001), "{ends:?}");
}

#[tokio::test]
async fn a_replay_of_large_messages_comes_in_pages_that_are_not() {
    let app = App::embedded().await;
    app.conversation("room", &["alice", "bob"]).await;
    let start = app.connect("bob").await.cursor();
    let body = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    for _ in 0..40 {
        assert_eq!(app.post("/v1/conversations/room/messages", &app.token("alice"), body.clone()).await.status, 201);
    }
    app.settle("room", "alice").await;
    let mut bob = app.resume("bob", &start).await;
    bob.expect_seqs(1..=41).await;
    assert_eq!(bob.next_event("replay_finished").await["data"]["replayed"], 41);
}
