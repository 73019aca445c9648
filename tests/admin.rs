//! What the admin listener tells about an installation.

use everpost::admin::status::Status;
use everpost_core::role::Role;
use reqwest::Method;

use crate::harness::{
    app::{API_KEY, App, on_every_engine},
    eventually::eventually,
};

async fn status(app: &App) -> Status {
    serde_json::from_value(app.admin(0, "/v1/admin/status").await.ok()).expect("a status")
}

async fn the_status_shows_who_does_what_and_how_far_behind(mut app: App) {
    app.conversation("room", &["alice"]).await;
    app.say("room", "alice", "stored").await;
    app.settle("room", "alice").await;
    eventually("nobody is behind", async || {
        let status = status(&app).await;
        let roles = || status.partitions.iter().flat_map(|partition| partition.roles.values());
        let accepted: u64 = status.partitions.iter().map(|partition| partition.accepted).sum();
        accepted == 2 && roles().all(|role| role.lag == 0 && role.owner.is_some())
    })
    .await;

    app.restart_with(&[Role::Fanout]).await;
    app.say("room", "alice", "not stored").await;
    let behind = eventually("persist is behind, fan-out is not", async || {
        let status = status(&app).await;
        let lag = |role: &str| status.partitions.iter().map(|partition| partition.roles[role].lag).sum::<u64>();
        (lag("persist") == 1 && lag("fanout") == 0).then_some(status.clone())
    })
    .await;
    assert_eq!(behind.pressure.backlog, 1, "{behind:?}");
    assert_eq!((behind.pressure.level.as_str(), behind.durability.as_str()), ("green", "fsync"));
    assert_eq!(behind.instances.len(), app.gateways(), "{behind:?}");
    assert!(behind.partitions.iter().map(|partition| partition.partition).eq(0..behind.partitions.len() as u16));
    eventually("the oldest unstored event ages", async || {
        app.metric("everpost_log_oldest_unstored_seconds").await.is_some_and(|age| age > 0.0)
    })
    .await;
    assert_eq!(app.metric(r#"everpost_log_backlog{role="persist"}"#).await, Some(1.0));
}

async fn gateways_and_their_connections_are_told_by_pages(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    app.conversation("hall", &["alice", "bob"]).await;
    let _alice = app.connect("alice").await;
    let _bob = app.connect_to(1, "bob", "/ws/room").await;
    let _carol = app.connect_to(1, "carol", "/v1/ws").await;
    let instances = app.admin(0, "/v1/admin/instances").await.ok()["instances"].clone();
    let instances = instances.as_array().expect("a list");
    let counts = instances.iter().map(|instance| instance["connections"].as_u64().expect("a number"));
    assert_eq!((instances.len(), counts.sum::<u64>()), (app.gateways(), 3));
    let (mut told, mut next) = (Vec::new(), String::new());
    loop {
        let page = app.admin(1, &format!("/v1/admin/connections?limit=2{next}")).await.ok();
        told.extend(page["connections"].as_array().expect("a list").clone());
        let Some(after) = page["next"].as_str() else { break };
        next = format!("&after={after}");
    }
    let mut users: Vec<_> = told.iter().map(|connection| connection["user_id"].as_str().expect("a name")).collect();
    users.sort_unstable();
    assert_eq!(users, ["alice", "bob", "carol"]);
    assert!(told.iter().all(|connection| connection["address"] == "127.0.0.1"), "{told:?}");
    assert!(!format!("{told:?}").contains(&app.token("alice")[..16]), "no tokens");
    for (query, expected) in [("user_id=bob", 1), ("conversation_id=room", 2), ("conversation_id=hall", 1)] {
        let found = app.admin(0, &format!("/v1/admin/connections?{query}")).await.ok();
        assert_eq!(found["connections"].as_array().expect("a list").len(), expected, "{query}: {found}");
    }
    let one = instances.iter().find(|instance| instance["connections"] != 0).expect("somebody is somewhere");
    let of_one = format!("/v1/admin/connections?instance_id={}", one["instance_id"].as_str().expect("a name"));
    let found = app.admin(0, &of_one).await.ok()["connections"].as_array().expect("a list").len();
    assert_eq!(found as u64, one["connections"]);
    assert_eq!(app.admin(0, "/v1/admin/connections?after=nonsense").await.status, 400);
}

on_every_engine!(the_status_shows_who_does_what_and_how_far_behind, gateways_and_their_connections_are_told_by_pages);

/// A key of its own: what opens the conversations of everybody does not open this, nor the other way round.
#[tokio::test]
async fn the_admin_listener_has_a_key_of_its_own() {
    let key = "an-admin-key-that-only-the-tests-ever-use";
    let app = App::embedded_with(&[("admin_key", key)]).await;
    let (http, admin) = (reqwest::Client::new(), format!("http://{}", app.admin_address()));
    let routes = [
        (Method::GET, "/"),
        (Method::GET, "/healthz"),
        (Method::GET, "/metrics"),
        (Method::GET, "/v1/admin/status"),
        (Method::GET, "/v1/admin/dead-letters"),
        (Method::DELETE, "/v1/admin/dead-letters/0191e7c4-7d6a-7bde-8a54-0242ac120002?by=x"),
        (Method::POST, "/v1/admin/dead-letters/0191e7c4-7d6a-7bde-8a54-0242ac120002/redrive"),
        (Method::POST, "/v1/admin/revocations"),
        (Method::GET, "/no/such/route"),
    ];
    for (method, path) in routes {
        let ask = || http.request(method.clone(), format!("{admin}{path}"));
        for wrong in [
            ask(),
            ask().bearer_auth(API_KEY),
            ask().bearer_auth(app.token("alice")),
            ask().basic_auth(key, None::<&str>),
        ] {
            assert_eq!(wrong.send().await.expect("it runs").status(), 401, "{method} {path}");
        }
        let right = ask().bearer_auth(key).send().await.expect("it runs").status();
        assert_ne!(right, 401, "{method} {path}");
        let page = ask().bearer_auth(key).header("origin", "https://evil.example").send().await.expect("it runs");
        assert_eq!(page.status(), 403, "{method} {path} for a page of others");
    }
    assert_eq!(app.get("/v1/conversations", key).await.status, 401);
}

/// Without a key it is for programs of this machine. A page that a browser shows is not one, whatever name it points here.
#[tokio::test]
async fn without_a_key_pages_of_others_are_kept_out() {
    let app = App::embedded().await;
    let (http, admin) = (reqwest::Client::new(), format!("http://{}/v1/admin/status", app.admin_address()));
    let status =
        async |name: &str, value: &str| http.get(&admin).header(name, value).send().await.expect("it runs").status();
    assert_eq!(status("x-nothing", "special").await, 200);
    assert_eq!(status("host", "rebound.evil.example").await, 403);
    assert_eq!(status("origin", "https://evil.example").await, 403);
    assert_eq!(status("origin", "null").await, 403);
}
