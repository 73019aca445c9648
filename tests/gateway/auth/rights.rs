//! Who leaves a conversation gets nothing more of it, in whatever state the connection is.

use std::time::Duration;

use everpost_core::name::{ConversationId, UserId};
use serde_json::json;

use super::{now, signed};
use crate::harness::{
    app::{API_KEY, App, on_every_engine},
    client::Client,
};

/// Longer than it may take.
const TWO_SECONDS: Duration = Duration::from_secs(2);
/// No more than one page of a replay, so that only what looks up within a page can end it early.
const MESSAGES: u64 = 180;
const BATCH: u64 = 20;

/// Takes bob out of the room behind the service's back, as if the signal had been lost on its way.
async fn remove_in_silence(app: &App) {
    let (room, bob) = (ConversationId::new("room").expect("a name"), UserId::new("bob").expect("a name"));
    assert_eq!(app.store().await.remove_participant(&room, &bob).await.expect("it answers"), Some(true));
}

/// The signal that somebody left may be lost with the process that sent it, so gateways also look for themselves.
async fn leaving_counts_also_when_nobody_is_told(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("hall", &["alice", "bob"]).await;
    let mut everything = app.connect_to(1, "bob", "/v1/ws").await;
    let mut scoped = app.connect_to(1, "bob", "/ws/room").await;
    everything.round_trip().await;
    remove_in_silence(&app).await;
    tokio::time::sleep(TWO_SECONDS).await;
    app.say("room", "alice", "without bob").await;
    app.say("hall", "alice", "with bob").await;
    assert_eq!(everything.next_event("new_message").await["conversation_id"], "hall");
    scoped.expect_close(4003).await;
    let refused = everything.ask(json!({"type": "text", "conversation_id": "room", "content": "hi"})).await;
    assert_eq!(refused["data"]["code"], "forbidden");
}

/// Fills a room with more than the network keeps for a reader who does not read.
async fn fill(app: &App) {
    let (mut alice, text) = (app.connect("alice").await, "界".repeat(20_000));
    for batch in 0..MESSAGES / BATCH {
        let frame = |n| {
            let id = format!("{batch}-{n}");
            json!({"type": "text", "id": id, "conversation_id": "room", "content": text})
        };
        alice.send_all((0..BATCH).map(frame)).await;
        for _ in 0..BATCH {
            alice.next_event("ack").await;
        }
        alice.forget();
    }
    app.settle("room", "alice").await;
}

/// Reads to the end: how many messages came, and the code.
async fn read_to_the_end(mut reader: Client) -> (u64, u16) {
    let mut got = 0;
    loop {
        match reader.first_event().await {
            Ok(frame) => got += u64::from(frame["event"] == "new_message"),
            Err(code) => return (got, code),
        }
    }
}

/// A reader so slow that the replay still goes on long after leaving gets none of what was not on its way yet.
async fn leaving_ends_a_replay_in_its_middle(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    fill(&app).await;
    let mut bob = app.open_at(1, "/ws/room?after=0", &app.token("bob")).await;
    bob.expect_seqs([1]).await;
    // From here on it is not read, so the replay stands still in its middle.
    assert_eq!(app.delete("/v1/conversations/room/participants/bob", API_KEY).await.status, 204);
    tokio::time::sleep(TWO_SECONDS).await;
    let (got, code) = read_to_the_end(bob).await;
    assert!(code == 4003 && got < MESSAGES - 1, "closed with {code} after {got}");
}

/// The same for a token.
async fn revoking_ends_a_replay_in_its_middle(app: App) {
    app.conversation("room", &["alice"]).await;
    fill(&app).await;
    let lost = signed(&json!({"sub": "alice", "exp": now() + 600, "jti": "lost"}));
    let mut reader = app.open_at(1, "/ws/room?after=0", &lost).await;
    reader.expect_seqs([1]).await;
    app.revoke(json!({"jti": "lost", "exp": now() + 600})).await;
    tokio::time::sleep(TWO_SECONDS).await;
    let (got, code) = read_to_the_end(reader).await;
    assert!(code == 4001 && got < MESSAGES - 1, "closed with {code} after {got}");
}

on_every_engine!(
    leaving_counts_also_when_nobody_is_told,
    leaving_ends_a_replay_in_its_middle,
    revoking_ends_a_replay_in_its_middle,
);
