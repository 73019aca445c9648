//! Tokens that are taken back end what was opened with them, on every instance.

use reqwest::Method;
use serde_json::json;

use super::{now, signed};
use crate::harness::{
    app::{App, on_every_engine},
    eventually::eventually,
};

fn token(user: &str, id: &str) -> String {
    signed(&json!({"sub": user, "exp": now() + 600, "iat": now() - 60, "jti": id}))
}

/// Whether a gateway takes a token.
async fn is_taken(app: &App, gateway: usize, token: &str) -> bool {
    app.ask(gateway, Method::GET, "/v1/conversations", token, None).await.status == 200
}

async fn a_token_is_revoked_by_its_id_everywhere(app: App) {
    app.conversation("room", &["alice"]).await;
    let (lost, kept) = (token("alice", "lost"), token("alice", "kept"));
    let mut opened = Vec::new();
    for gateway in 0..app.gateways() {
        for path in ["/v1/ws", "/ws/room"] {
            let mut client = crate::harness::client::Client::open(app.address(gateway), path, Some(&lost)).await;
            client.greeted().await;
            opened.push(client);
        }
    }
    let mut other = app.open("/v1/ws", Some(&kept)).await;
    other.greeted().await;
    app.revoke(json!({"jti": "lost", "exp": now() + 600})).await;
    for client in &mut opened {
        assert!(client.expect_close(4001).await.contains("revoked"));
    }
    for gateway in 0..app.gateways() {
        assert!(!is_taken(&app, gateway, &lost).await && is_taken(&app, gateway, &kept).await);
    }
    app.open("/v1/ws", Some(&lost)).await.expect_close(4001).await;
    let refused = other.ask(json!({"type": "refresh", "token": lost})).await;
    assert_eq!(refused["data"]["code"], "unauthenticated");
    other.text("room", "the other token goes on").await;
}

async fn every_token_of_a_user_is_revoked_up_to_an_instant(app: App) {
    let issued = |user: &str, iat: u64| signed(&json!({"sub": user, "exp": now() + 600, "iat": iat}));
    let dateless = signed(&json!({"sub": "alice", "exp": now() + 600}));
    let (old, new, of_bob) = (issued("alice", now() - 60), issued("alice", now() - 10), issued("bob", now() - 60));
    let mut alice = app.open("/v1/ws", Some(&old)).await;
    alice.greeted().await;
    app.revoke(json!({"user_id": "alice", "issued_before": now() - 30})).await;
    alice.expect_close(4001).await;
    eventually("the other gateway knows", async || !is_taken(&app, 1, &old).await).await;
    for (token, taken) in [(&old, false), (&dateless, false), (&new, true), (&of_bob, true)] {
        assert_eq!(is_taken(&app, 1, token).await, taken);
    }
    app.revoke(json!({"user_id": "alice"})).await;
    eventually("all of them are", async || !is_taken(&app, 1, &new).await).await;
    assert!(is_taken(&app, 1, &of_bob).await);
}

async fn what_was_revoked_stays_so_after_a_restart(mut app: App) {
    let lost = token("alice", "lost");
    app.revoke(json!({"jti": "lost", "exp": now() + 600})).await;
    app.restart().await;
    assert!(!is_taken(&app, 0, &lost).await, "from the first request on");
    assert!(is_taken(&app, 0, &token("alice", "kept")).await);
}

on_every_engine!(
    a_token_is_revoked_by_its_id_everywhere,
    every_token_of_a_user_is_revoked_up_to_an_instant,
    what_was_revoked_stays_so_after_a_restart,
);

#[tokio::test]
async fn what_cannot_be_revoked_is_said_so() {
    let app = App::embedded().await;
    for wrong in [
        json!({}),
        json!({"jti": "a"}),
        json!({"jti": "", "exp": 1}),
        json!({"jti": "x".repeat(300), "exp": 1}),
        json!({"jti": "a", "exp": 1, "user_id": "alice"}),
        json!({"user_id": "not a name"}),
        json!({"user_id": "alice", "issued_before": -1}),
        json!({"user_id": "alice", "dance": 1}),
        json!([]),
    ] {
        let answer = app.admin_post("/v1/admin/revocations", wrong.clone()).await;
        assert_eq!(answer.status, 400, "{wrong}");
        answer.code();
    }
}
