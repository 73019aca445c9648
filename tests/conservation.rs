//! Sabotage: events are taken away behind the service's back, and it notices.

use everpost_core::role::Role;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use crate::harness::{
    app::{API_KEY, App, on_every_engine},
    eventually::eventually,
};

/// What the persist worker finds missing.
async fn gap(app: &App, cause: &str) -> Option<f64> {
    app.worker_metric(&format!(r#"everpost_conservation_gap{{cause="{cause}"}}"#)).await
}

async fn missing(app: &App, cause: &str, events: f64) {
    eventually(&format!("{events} events are {cause}"), async || gap(app, cause).await == Some(events)).await;
}

/// Runs statements in the database, past the service.
async fn run(app: &App, postgres: &'static str, sqlite: &'static str) {
    if let Some(database) = app.database() {
        PgConnection::connect(database).await.expect("it runs").execute(postgres).await.expect("it is ours");
    } else {
        let file = app.file("store.db");
        SqliteConnection::connect(&file).await.expect("it is there").execute(sqlite).await.expect("it is ours");
    }
}

/// Rows with a word in them are dropped, without an error.
const SWALLOW: [&str; 2] = [
    "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER swallow BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.data LIKE '%sabotage%')
     EXECUTE FUNCTION swallow()",
    "CREATE TRIGGER swallow AFTER INSERT ON messages WHEN NEW.data LIKE '%sabotage%' BEGIN
     DELETE FROM messages WHERE conversation_id = NEW.conversation_id AND seq = NEW.seq; END",
];

async fn a_row_that_was_never_written_raises_the_alarm(app: App) {
    app.conversation("room", &["alice"]).await;
    run(&app, SWALLOW[0], SWALLOW[1]).await;
    app.say("room", "alice", "fine").await;
    app.settle("room", "alice").await;
    missing(&app, "absent", 0.0).await;
    for text in ["sabotage", "fine", "sabotage"] {
        app.say("room", "alice", text).await;
    }
    missing(&app, "absent", 2.0).await;
    assert_eq!((gap(&app, "skipped").await, gap(&app, "unstored").await), (Some(0.0), Some(0.0)));
}

async fn a_store_older_than_the_log_raises_the_alarm(app: App) {
    app.conversation("room", &["alice"]).await;
    for _ in 0..3 {
        app.say("room", "alice", "hi").await;
    }
    app.settle("room", "alice").await;
    missing(&app, "unstored", 0.0).await;
    const BACK: &str = "UPDATE progress SET position = position - 2 WHERE role = 'persist' AND position > 2";
    const FORTH: &str = "UPDATE progress SET position = position + 2 WHERE role = 'persist' AND position > 0";
    run(&app, BACK, BACK).await;
    missing(&app, "unstored", 2.0).await;
    run(&app, FORTH, FORTH).await;
    missing(&app, "unstored", 0.0).await;
}

on_every_engine!(a_row_that_was_never_written_raises_the_alarm, a_store_older_than_the_log_raises_the_alarm);

/// An entry nobody had read yet disappears from the stream: a reader is not told, its neighbours just follow.
#[tokio::test]
async fn an_event_that_vanished_from_the_log_raises_the_alarm() {
    let mut app = App::distributed().await;
    app.conversation("room", &["alice"]).await;
    app.settle("room", "alice").await;
    app.restart_with(&[Role::Fanout]).await;
    let streams: Vec<String> = app.redis().run(&["KEYS", "everpost:{*}:log"]).await;
    for _ in 0..4 {
        app.say("room", "alice", "hi").await;
    }
    for stream in streams {
        app.redis().run::<u64>(&["XDEL", &stream, "1-3"]).await;
    }
    app.restart_with(&Role::ALL).await;
    missing(&app, "skipped", 1.0).await;
    assert_eq!(app.get("/v1/conversations/room", API_KEY).await.status, 200);
}
