//! The engine: log, leases, relay and store, put together from settings. The only place that knows which one it is.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use everpost_core::{
    lease::Leases,
    log::{Log, redis::RedisLog, sqlite::SqliteLog},
    relay::{Relay, local::LocalRelay, redis::RedisRelay},
    store::{Store, postgres::PostgresStore, sqlite::SqliteStore},
};
use everpost_workers::Ports;

use crate::config::EngineSettings;

/// An open engine.
pub struct Engine {
    /// The four ports.
    pub ports: Ports,
    /// Held as long as the engine is open, so that no second process writes the same files.
    _lock: Option<std::fs::File>,
    /// What it is, for people.
    pub description: String,
}

impl Engine {
    /// Opens the engine the settings select.
    pub async fn open(settings: &EngineSettings) -> anyhow::Result<Self> {
        match settings {
            EngineSettings::Embedded { data_dir, durability } => {
                let lock = lock(data_dir)?;
                let log =
                    SqliteLog::open(&data_dir.join("log.db"), *durability).await.context("opening the event log")?;
                let store = SqliteStore::open(&data_dir.join("store.db")).await.context("opening the store")?;
                let log = Arc::new(log);
                let relay = Arc::new(LocalRelay::new());
                Self::new(log.clone(), log, relay, Arc::new(store), Some(lock), "embedded (SQLite)").await
            }
            EngineSettings::Distributed { log, database_url } => {
                let log = RedisLog::open(log).await.context("opening the event log in Redis")?;
                let store = PostgresStore::connect(database_url).await.context("connecting to Postgres")?;
                if !store.check().await.context("looking at the database")?.migrated {
                    anyhow::bail!("the database schema is not current: run `everpost migrate` first");
                }
                let relay = Arc::new(RedisRelay::beside(&log));
                let log = Arc::new(log);
                Self::new(log.clone(), log, relay, Arc::new(store), None, "distributed (Redis Streams + Postgres)")
                    .await
            }
        }
    }

    async fn new(
        log: Arc<dyn Log>,
        leases: Arc<dyn Leases>,
        relay: Arc<dyn Relay>,
        store: Arc<dyn Store>,
        lock: Option<std::fs::File>,
        description: &str,
    ) -> anyhow::Result<Self> {
        let tied = store.bind(log.epoch()).await.context("looking at the database")?;
        anyhow::ensure!(
            tied == log.epoch(),
            "this database belongs to another event log, and mixing their events would ruin both: give the Redis (or the \
             log.db) that goes with it, or an empty database; if Redis came back empty, restore its append-only file"
        );
        Ok(Self { ports: Ports { log, leases, relay, store }, _lock: lock, description: description.to_owned() })
    }
}

fn lock(data_dir: &Path) -> anyhow::Result<std::fs::File> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("creating the data directory {}", data_dir.display()))?;
    let file = std::fs::File::create(data_dir.join("lock")).context("opening the lock file")?;
    file.try_lock().with_context(|| {
        format!("another everpost process is using {}; stop it, or choose another --data-dir", data_dir.display())
    })?;
    Ok(file)
}
