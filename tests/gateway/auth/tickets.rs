//! A ticket opens one connection, once, soon, anywhere.

use reqwest::Method;
use serde_json::json;

use super::{now, signed};
use crate::harness::{
    app::{API_KEY, App, on_every_engine},
    client::Client,
    eventually::eventually,
};

async fn ticket(app: &App, token: &str) -> String {
    let answer = app.post("/v1/tickets", token, json!({})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body["ticket"].as_str().expect("a ticket").to_owned()
}

/// The code a connection with a ticket is closed with; nothing if it is welcome.
async fn refusal(app: &App, gateway: usize, path: &str) -> Option<u16> {
    Client::open(app.address(gateway), path, None).await.first_event().await.err()
}

async fn a_ticket_opens_one_connection_on_any_instance(app: App) {
    app.conversation("room", &["alice"]).await;
    let ticket = ticket(&app, &signed(&json!({"sub": "alice", "exp": now() + 60, "role": "agent"}))).await;
    let path = format!("/ws/room?ticket={ticket}");
    let mut alice = Client::open(app.address(1), &path, None).await;
    assert_eq!(alice.greeted().await["data"]["user_id"], "alice");
    alice.text("room", "hi").await;
    assert_eq!(alice.next_event("new_message").await["data"]["sender_type"], "agent", "all the token said");
    for gateway in [0, 1] {
        assert_eq!(refusal(&app, gateway, &path).await, Some(4001), "it was used");
    }
}

async fn of_many_who_show_a_ticket_one_is_let_in(app: App) {
    let path = format!("/v1/ws?ticket={}", ticket(&app, &app.token("alice")).await);
    let tries = (0..8).map(|at| refusal(&app, at, &path));
    let refused = futures_util::future::join_all(tries).await;
    assert_eq!(refused.iter().filter(|code| code.is_none()).count(), 1, "{refused:?}");
}

async fn a_ticket_is_worth_no_more_than_its_token(app: App) {
    let ticket = ticket(&app, &signed(&json!({"sub": "alice", "exp": now() + 60, "jti": "lost"}))).await;
    app.revoke(json!({"jti": "lost", "exp": now() + 60})).await;
    eventually("the token is refused", async || {
        let token = signed(&json!({"sub": "alice", "exp": now() + 60, "jti": "lost"}));
        app.ask(1, Method::GET, "/v1/conversations", &token, None).await.status == 401
    })
    .await;
    assert_eq!(refusal(&app, 1, &format!("/v1/ws?ticket={ticket}")).await, Some(4001));
}

on_every_engine!(
    a_ticket_opens_one_connection_on_any_instance,
    of_many_who_show_a_ticket_one_is_let_in,
    a_ticket_is_worth_no_more_than_its_token,
);

#[tokio::test]
async fn a_ticket_is_good_for_a_moment() {
    for mut app in
        [App::embedded_with(&[("ticket_ttl", "300ms")]).await, App::distributed_with(&[("ticket_ttl", "300ms")]).await]
    {
        let late = ticket(&app, &app.token("alice")).await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        assert_eq!(refusal(&app, 1, &format!("/v1/ws?ticket={late}")).await, Some(4001));
        app.stop().await;
    }
}

#[tokio::test]
async fn what_is_no_ticket_opens_nothing() {
    let app = App::embedded_with(&[("query_tokens", "false")]).await;
    for wrong in ["", "x", "ticket:", &"f".repeat(64), &"f".repeat(5_000), "%00", "../install"] {
        assert_eq!(refusal(&app, 0, &format!("/v1/ws?ticket={wrong}")).await, Some(4001), "{wrong:?}");
    }
    let ticket = ticket(&app, &app.token("alice")).await;
    assert_eq!(app.get("/v1/conversations", &ticket).await.status, 401, "a ticket is no token");
    let query = format!("/v1/ws?token={}", app.token("alice"));
    assert_eq!(refusal(&app, 0, &query).await, Some(4001), "tokens in addresses can be turned off");
    assert_eq!(refusal(&app, 0, &format!("/v1/ws?ticket={ticket}")).await, None, "tickets go on");
}

#[tokio::test]
async fn tickets_are_for_users_and_not_without_end() {
    let app = App::embedded().await;
    for (credential, status) in [("", 401), ("garbage", 401), (API_KEY, 403)] {
        assert_eq!(app.post("/v1/tickets", credential, json!({})).await.status, status, "{credential:?}");
    }
    let mut given = 0;
    while app.post("/v1/tickets", &app.token("alice"), json!({})).await.status == 201 {
        given += 1;
        assert!(given < 1_000, "it goes on for ever");
    }
    assert!(given >= 30, "{given}");
    ticket(&app, &app.token("bob")).await;
}
