//! What only Postgres can do: be another process, go away, and come back.

use std::time::Duration;

use everpost_core::{
    event::{Event, Record},
    store::{Messages, Revocations, Revoked, StoreError, postgres::PostgresStore},
};
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

use super::records::{all, lease, persist, position, record, run};
use crate::harness::{eventually::eventually, postgres::PostgresServer};

#[tokio::test]
async fn a_lost_server_is_unavailable_until_it_is_back() {
    let mut server = PostgresServer::start().await;
    let (url, pid) = (server.database().await, server.pid());
    let store = PostgresStore::connect(&url).await.expect("it runs");
    let report = store.check().await.expect("it runs");
    assert!(report.fsync && report.synchronous_commit == "on" && report.migrated, "{report:?}");
    let records = run("general", 1..=5);
    persist(&store, &records).await;
    server.kill();
    let refused = store.tops(&[]).await.expect_err("nobody answers");
    assert!(refused.is_retryable(), "{refused:?}");
    server.restart().await;
    assert_ne!(server.pid(), pid);
    eventually("the pool finds the server again", async || store.tops(&[]).await.is_ok()).await;
    assert_eq!(all(&store, "general").await, records, "what was committed survives a crash");
}

#[tokio::test]
async fn the_schema_is_made_once_however_many_try() {
    let server = PostgresServer::shared().await;
    let store = PostgresStore::connect(&server.empty_database().await).await.expect("it runs");
    assert!(!store.check().await.expect("it runs").migrated);
    let (a, b) = tokio::join!(store.migrate(), store.migrate());
    a.and(b).expect("one does it, the other waits");
    let report = store.check().await.expect("it runs");
    assert!(report.migrated && report.version.starts_with(|first: char| first.is_ascii_digit()), "{report:?}");
    assert!(!report.fsync, "the shared server of the tests does not wait for its disk, and is found out");
    store.migrate().await.expect("a second time is harmless");
}

#[tokio::test]
async fn a_missing_table_is_nobodys_fault_and_spends_no_event() {
    let server = PostgresServer::shared().await;
    let store = PostgresStore::connect(&server.empty_database().await).await.expect("it runs");
    let refused = store.persist(&[lease(0, 1, position(1))], &[record("general", 1)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn text_it_cannot_hold_is_refused() {
    let store = PostgresStore::connect(&PostgresServer::shared().await.database().await).await.expect("it runs");
    let fine = record("general", 1);
    let nul = Record::of(&Event { data: "a\0b", ..fine.event().expect("well formed") });
    let refused = store.persist(&[lease(0, 1, position(1))], &[nul]).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(persist(&store, &[fine]).await, 1, "the connection goes on");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let store = PostgresStore::connect(&PostgresServer::shared().await.database().await).await.expect("it runs");
    store.close().await;
    assert!(matches!(store.stored(1).await, Err(StoreError::Closing)));
}

#[tokio::test]
async fn nobody_there_is_said_within_seconds() {
    let nobody = "postgres://postgres@127.0.0.1:1/nothing".to_owned().into();
    let asked = tokio::time::timeout(Duration::from_secs(10), PostgresStore::connect(&nobody)).await;
    let refused = asked.expect("the answer does not take forever").expect_err("nobody is there");
    assert!(refused.is_retryable(), "{refused:?}");
}

/// Numbers are given before a commit; a slow one must not show up behind a fast one that was read meanwhile.
#[tokio::test]
async fn a_slow_revocation_is_not_overtaken() {
    let database = PostgresServer::shared().await.database().await;
    let store = PostgresStore::connect(&database).await.expect("it runs");
    let mut owner = PgConnection::connect(database.expose_secret()).await.expect("it runs");
    let linger = "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS \
                  'BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END'; \
                  CREATE TRIGGER linger AFTER INSERT ON revocations FOR EACH ROW WHEN (NEW.token_id = 'slow') \
                  EXECUTE FUNCTION linger()";
    sqlx::raw_sql(linger).execute(&mut owner).await.expect("the owner may");
    let revoke = async |id: &str| store.revoke(&Revoked::Token(id.to_owned()), u64::MAX).await.expect("writable");
    let fast = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        revoke("fast").await
    };
    let reader = async {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let last = seen.last().map_or(0, |(number, _)| *number);
            let found = store.revocations(last, 10).await.expect("readable");
            seen.extend(found.into_iter().map(|entry| (entry.number, entry.what)));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seen
    };
    let all = async { tokio::join!(revoke("slow"), fast, reader) };
    let (_, _, seen) = tokio::time::timeout(Duration::from_secs(20), all).await.expect("both are read");
    assert_eq!(
        seen.into_iter().map(|(_, what)| what).collect::<Vec<_>>(),
        ["slow", "fast"].map(|id| Revoked::Token(id.to_owned()))
    );
}
