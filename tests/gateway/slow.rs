//! A reader whose outbox runs over still gets everything, once and in order.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::app::{API_KEY, App};

/// A queue that holds a handful of frames only.
const TIGHT: [(&str, &str); 1] = [("max_queue_bytes", "2000")];

async fn waves(app: &App, waves: usize) {
    for _ in 0..waves {
        join_all((0..25).map(|_| app.say("room", "alice", "one of many"))).await;
    }
}

#[tokio::test]
async fn bursts_beyond_the_queue_arrive_whole() {
    let app = App::embedded_with(&TIGHT).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = app.connect("bob").await;
    tokio::join!(waves(&app, 16), bob.expect_seqs(1..=400));
}

#[tokio::test]
async fn bursts_during_a_replay_arrive_whole() {
    let app = App::embedded_with(&TIGHT).await;
    app.conversation("room", &["alice", "bob"]).await;
    let start = app.connect("bob").await.cursor();
    waves(&app, 12).await;
    let resumed = async {
        let mut readers: Vec<_> = (0..5).map(|_| app.resume("bob", &start)).collect();
        for reader in readers.drain(..) {
            reader.await.expect_seqs(1..=600).await;
        }
    };
    tokio::join!(waves(&app, 12), resumed);
}

/// More than the system's own buffers hold is published while the reader takes nothing.
#[tokio::test]
async fn a_reader_that_pauses_finds_everything_later() {
    let app = App::embedded_with(&TIGHT).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut bob = app.connect("bob").await;
    let body = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    for _ in 0..20 {
        let posts = (0..12).map(|_| app.post("/v1/conversations/room/messages", API_KEY, body.clone()));
        assert!(join_all(posts).await.iter().all(|answer| answer.status == 201));
    }
    bob.expect_seqs(1..=240).await;
}

/// Typing notices weigh as much as answers, and nobody misses them.
#[tokio::test]
async fn nobody_is_sent_away_for_what_is_only_ephemeral() {
    let app = App::embedded_with(&TIGHT).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut alice = app.connect("alice").await;
    let mut bob = app.connect("bob").await;
    let body = json!({"type": "structured", "content": {"blob": "x".repeat(60_000)}});
    for _ in 0..10 {
        let posts = (0..12).map(|_| app.post("/v1/conversations/room/messages", API_KEY, body.clone()));
        assert!(join_all(posts).await.iter().all(|answer| answer.status == 201));
        alice.send_all((0..50).map(|_| json!({"type": "typing", "conversation_id": "room"}))).await;
        alice.round_trip().await;
        alice.forget();
    }
    bob.expect_seqs(1..=120).await;
}
