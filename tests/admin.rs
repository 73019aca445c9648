//! What the admin listener tells about an installation.

use everpost::admin::status::Status;
use everpost_core::role::Role;

use crate::harness::{
    app::{App, on_every_engine},
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
