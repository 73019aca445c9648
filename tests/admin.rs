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

on_every_engine!(the_status_shows_who_does_what_and_how_far_behind);

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
