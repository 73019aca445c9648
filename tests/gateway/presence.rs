//! Who is connected, who is told of it, and how many may be.

use std::time::Duration;

use everpost::gateway::auth::Claims;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    app::{API_KEY, App, claims, on_every_engine, token},
    client::Client,
    eventually::{eventually, within},
    postgres::PostgresServer,
    process::{self, Cluster, Ways},
    redis::RedisServer,
};

/// Long enough for a reconnect in a test, short enough to wait for.
const TELLING: [(&str, &str); 2] = [("presence", "conversations"), ("presence_grace", "1s")];

async fn told(embedded: bool) -> App {
    let app = if embedded { App::embedded_with(&TELLING).await } else { App::distributed_with(&TELLING).await };
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("hall", &["alice", "bob", "carol"]).await;
    app
}

/// Makes each case a test on each engine, with people told.
macro_rules! when_told {
    ($($case:ident),* $(,)?) => {
        mod told_on_embedded { $(#[tokio::test] async fn $case() { super::$case(super::told(true).await).await })* }
        mod told_on_distributed { $(#[tokio::test] async fn $case() { super::$case(super::told(false).await).await })* }
    };
}

fn on_device(user: &str, id: &str, kind: &str) -> Claims {
    Claims { device_id: Some(id.to_owned()), device_type: Some(kind.to_owned()), ..claims(user, 3_600) }
}

/// A greeted connection of a device at a gateway.
async fn connect(app: &App, gateway: usize, user: &str, id: &str, kind: &str) -> Client {
    let token = token(&on_device(user, id, kind));
    let mut client = Client::open(app.address(gateway), "/v1/ws", Some(&token)).await;
    client.greeted().await;
    client
}

async fn presence(app: &App, user: &str) -> Value {
    app.get(&format!("/v1/users/{user}/presence"), API_KEY).await.ok()
}

async fn is_online(app: &App, user: &str) -> bool {
    presence(app, user).await["online"] == true
}

/// Whatever was under way has been told, and this client heard nothing of that kind.
async fn heard_nothing_of(app: &App, client: &mut Client, event: &str) {
    let frames = async {
        // Two looks of every gateway, so that what is due has been told.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        app.say("room", "alice", "marker").await;
        client.next_event("new_message").await;
    };
    frames.await;
    let waiting = client.waiting(event);
    assert!(waiting.is_empty(), "{waiting:?}");
}

async fn online_is_told_once_and_offline_after_the_last_device(app: App) {
    let mut alice = app.connect("alice").await;
    let phone = connect(&app, 1, "bob", "p1", "ios").await;
    let online = alice.next_event("user_online").await;
    assert_eq!((&online["data"]["user_id"], &online["conversation_id"]), (&json!("bob"), &Value::Null));
    let laptop = connect(&app, 0, "bob", "l1", "web").await;
    phone.close().await;
    heard_nothing_of(&app, &mut alice, "user_online").await;
    assert!(alice.waiting("user_offline").is_empty() && is_online(&app, "bob").await);
    laptop.close().await;
    let offline = alice.next_event("user_offline").await;
    assert_eq!(offline["data"]["user_id"], "bob");
    let after = presence(&app, "bob").await;
    assert_eq!((&after["online"], &after["devices"]), (&json!(false), &json!([])));
    let saved = eventually("it is saved", async || {
        Some(presence(&app, "bob").await["last_seen"].clone()).filter(Value::is_string)
    });
    assert_eq!(saved.await, offline["data"]["last_seen"]);
}

async fn coming_back_in_time_is_no_news(app: App) {
    let mut alice = app.connect("alice").await;
    let mut bob = connect(&app, 1, "bob", "p1", "ios").await;
    alice.next_event("user_online").await;
    for gateway in [0, 1, 0] {
        bob.close().await;
        bob = connect(&app, gateway, "bob", "p1", "ios").await;
    }
    heard_nothing_of(&app, &mut alice, "user_offline").await;
    assert!(alice.waiting("user_online").is_empty());
    bob.close().await;
    alice.next_event("user_offline").await;
}

async fn only_those_who_share_a_conversation_are_told(app: App) {
    app.conversation("elsewhere", &["alice", "mallory"]).await;
    let (mut alice, mut mallory) = (app.connect("alice").await, app.connect_to(1, "mallory", "/v1/ws").await);
    let mut scoped = app.connect_to(1, "carol", "/ws/hall").await;
    let _bob = connect(&app, 1, "bob", "p1", "ios").await;
    for client in [&mut alice, &mut scoped] {
        client.next_where("bob", |frame| frame["event"] == "user_online" && frame["data"]["user_id"] == "bob").await;
    }
    app.say("elsewhere", "alice", "marker").await;
    mallory.next_event("new_message").await;
    let of_bob = |frame: &&Value| frame["data"]["user_id"] == "bob";
    assert_eq!(mallory.waiting("user_online").iter().filter(of_bob).count(), 0);
}

async fn own_devices_are_told_of_each_other(app: App) {
    let mut phone = connect(&app, 0, "bob", "p1", "ios").await;
    let laptop = connect(&app, 1, "bob", "l1", "web").await;
    let connected = phone.next_event("device_connected").await;
    assert_eq!((&connected["data"]["device_id"], &connected["data"]["device_type"]), (&json!("l1"), &json!("web")));
    laptop.close().await;
    assert_eq!(phone.next_event("device_disconnected").await["data"]["device_id"], "l1");
}

/// No close frame and no heartbeat has to be waited for.
async fn a_connection_that_breaks_is_gone_at_once(app: App) {
    let mut phone = connect(&app, 0, "bob", "p1", "ios").await;
    let laptop = connect(&app, 1, "bob", "l1", "web").await;
    drop(laptop);
    assert_eq!(phone.next_event("device_disconnected").await["data"]["device_id"], "l1");
    drop(phone);
    eventually("nobody is there", async || !is_online(&app, "bob").await).await;
}

async fn presence_tells_the_devices_to_those_who_may_know(app: App) {
    let _phone = connect(&app, 0, "bob", "p1", "ios").await;
    let _laptop = connect(&app, 1, "bob", "l1", "web").await;
    for who in [API_KEY.to_owned(), app.token("bob"), app.token("carol")] {
        let answer = app.ask(1, Method::GET, "/v1/users/bob/presence", &who, None).await.ok();
        assert_eq!((&answer["user_id"], &answer["online"]), (&json!("bob"), &json!(true)), "{answer}");
        let devices = answer["devices"].as_array().expect("a list");
        let ids: Vec<_> = devices.iter().map(|device| (&device["device_id"], &device["device_type"])).collect();
        assert_eq!(ids, [(&json!("p1"), &json!("ios")), (&json!("l1"), &json!("web"))]);
        assert!(devices[0]["connected_at"].is_string() && devices[0].get("address").is_none());
    }
    for user in ["bob", "nobody"] {
        let refused = app.get(&format!("/v1/users/{user}/presence"), &app.token("mallory")).await;
        assert_eq!((refused.status, refused.code()), (403, "forbidden"), "it does not tell who exists");
    }
}

when_told!(
    online_is_told_once_and_offline_after_the_last_device,
    coming_back_in_time_is_no_news,
    only_those_who_share_a_conversation_are_told,
    own_devices_are_told_of_each_other,
    a_connection_that_breaks_is_gone_at_once,
    presence_tells_the_devices_to_those_who_may_know,
);

async fn who_does_not_want_it_told_can_still_be_asked(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let mut alice = app.connect("alice").await;
    let _bob = app.connect_to(1, "bob", "/v1/ws").await;
    assert!(is_online(&app, "bob").await);
    app.say("room", "bob", "marker").await;
    alice.next_event("new_message").await;
    assert!(alice.waiting("user_online").is_empty(), "the harness turns it off");
}

on_every_engine!(who_does_not_want_it_told_can_still_be_asked);

#[tokio::test]
async fn limits_count_over_all_instances() {
    let app = App::distributed_with(&[("max_connections_per_user", "2"), ("max_connections_per_address", "3")]).await;
    let (first, _second) = (app.connect_to(0, "alice", "/v1/ws").await, app.connect_to(1, "alice", "/v1/ws").await);
    for gateway in [0, 1] {
        let mut third = Client::open(app.address(gateway), "/v1/ws", Some(&app.token("alice"))).await;
        assert!(third.expect_close(4029).await.contains("user"));
    }
    let _bob = app.connect_to(1, "bob", "/v1/ws").await;
    for gateway in [0, 1, 0] {
        let mut backend = Client::open(app.address(gateway), "/v1/ws", Some(API_KEY)).await;
        backend.greeted().await; // backends may have as many as an instance takes
        backend.close().await;
    }
    for gateway in [0, 1] {
        let mut carol = Client::open(app.address(gateway), "/v1/ws", Some(&app.token("carol"))).await;
        assert!(carol.expect_close(4029).await.contains("address"));
    }
    first.close().await;
    eventually("the place is free at the other gateway", async || {
        let mut third = Client::open(app.address(1), "/v1/ws", Some(&app.token("alice"))).await;
        third.first_event().await.is_ok_and(|frame| frame["event"] == "connected")
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_stops_leaves_nobody_behind() {
    let mut app = App::distributed().await;
    let (mut alice, mut bob) = (app.connect("alice").await, app.connect_to(1, "bob", "/v1/ws").await);
    app.stop().await;
    alice.expect_close(1001).await;
    bob.expect_close(1001).await;
    for kind in ["user:", "address:", "users:", "addresses:"] {
        let left: Vec<String> = app.redis().run(&["KEYS", &format!("*roster:{kind}*")]).await;
        assert_eq!(left, Vec::<String>::new());
    }
}

#[tokio::test]
async fn joins_and_replays_are_counted() {
    let app = App::embedded_with(&[("join_rate", "1"), ("replay_rate", "1")]).await;
    app.conversation("room", &["alice"]).await;
    let mut alice = app.connect("alice").await;
    let cursor = alice.cursor();
    alice.send_all((0..20).map(|_| json!({"type": "subscribe", "conversation_id": "room"}))).await;
    alice.round_trip().await;
    let refused = alice.waiting("error");
    assert!((1..=18).contains(&refused.len()), "a burst of two is fine, the rest is not: {}", refused.len());
    assert!(refused.iter().all(|error| error["data"]["code"] == "rate_limited" && error["data"]["retryable"] == true));
    let token = app.token("alice");
    let path = format!("/v1/ws?cursor={cursor}");
    let resumed = (0..10).map(|_| async {
        let mut client = app.open(&path, Some(&token)).await;
        client.first_event().await.map(|frame| frame["event"].clone())
    });
    let resumed = futures_util::future::join_all(resumed).await;
    assert!(resumed.contains(&Ok(json!("connected"))) && resumed.contains(&Err(4029)), "{resumed:?}");
    app.connect("alice").await;
}

#[tokio::test]
async fn what_redis_forgot_is_entered_again() {
    let app = App::distributed_with(&[TELLING[0], ("presence_grace", "2s"), ("max_connections_per_user", "2")]).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut alice = app.connect("alice").await;
    let bob = connect(&app, 1, "bob", "p1", "ios").await;
    let leaving = connect(&app, 1, "bob", "l1", "web").await;
    alice.next_event("user_online").await;
    assert!(is_online(&app, "bob").await);
    app.redis().obey(&["FLUSHALL"]).await;
    for user in ["alice", "bob"] {
        eventually("everybody is online again", async || is_online(&app, user).await).await;
    }
    eventually("with every device", async || {
        presence(&app, "bob").await["devices"].as_array().is_some_and(|devices| devices.len() == 2)
    })
    .await;
    let mut third = Client::open(app.address(0), "/v1/ws", Some(&app.token("bob"))).await;
    third.expect_close(4029).await;
    assert!(alice.waiting("user_offline").is_empty());
    leaving.close().await;
    bob.close().await;
    alice.next_event("user_offline").await;
    assert!(!is_online(&app, "bob").await);
}

/// Without the note of who left a moment ago, bob would be online for ever.
#[tokio::test]
async fn who_left_before_redis_forgot_is_told_to_be_gone() {
    let app = App::distributed_with(&[TELLING[0], ("presence_grace", "3s")]).await;
    app.conversation("room", &["alice", "bob"]).await;
    let mut alice = app.connect("alice").await;
    let bob = connect(&app, 1, "bob", "p1", "ios").await;
    alice.next_event("user_online").await;
    bob.close().await;
    eventually("bob is gone", async || !is_online(&app, "bob").await).await;
    app.redis().obey(&["FLUSHALL"]).await;
    assert_eq!(alice.next_event("user_offline").await["data"]["user_id"], "bob");
}

#[tokio::test]
async fn people_of_a_killed_gateway_are_offline_within_seconds() {
    let postgres = PostgresServer::shared().await;
    let (redis, database) = (RedisServer::start().await, postgres.database().await);
    let database = secrecy::ExposeSecret::expose_secret(&database).to_owned();
    let ways = Ways { log: redis.url(), store: database.clone() };
    let ways = [ways.clone(), ways.clone(), ways.clone(), ways];
    let environment = [("EVERPOST_LOG", "debug"), ("EVERPOST_PRESENCE_GRACE", "1s")];
    let mut cluster = Cluster::wired(redis, database, &ways, &environment).await;
    let http = reqwest::Client::new();
    let base = format!("http://{}", cluster.gateways[0].address());
    let body = json!({"id": "room", "participants": ["alice", "bob"]});
    let made = http.post(format!("{base}/v1/conversations")).bearer_auth(process::API_KEY).json(&body).send().await;
    assert_eq!(made.expect("it answers").status(), 201);
    let token = |user| crate::harness::witness::client::token(user);
    let mut alice = Client::open(cluster.gateways[0].address(), "/v1/ws", Some(&token("alice"))).await;
    alice.greeted().await;
    let mut bob = Client::open(cluster.gateways[1].address(), "/v1/ws", Some(&token("bob"))).await;
    bob.greeted().await;
    alice.next_event("user_online").await;
    cluster.gateways[1].kill();
    assert_eq!(alice.next_event("user_offline").await["data"]["user_id"], "bob");
    within(Duration::from_secs(5), "it is known", async || {
        let asked = http.get(format!("{base}/v1/users/bob/presence")).bearer_auth(process::API_KEY).send().await;
        asked.expect("it answers").json::<Value>().await.expect("JSON")["online"] == false
    })
    .await;
}
