//! The engine: log, leases, relay, roster and store, put together from settings. The only place that knows which one it is.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use everpost_core::{
    disk::{Alarm, DiskFailed},
    lease::Leases,
    log::{Log, redis::RedisLog, sqlite::SqliteLog},
    recovery::Recovery,
    relay::{Relay, local::LocalRelay, redis::RedisRelay},
    roster::{Roster, local::LocalRoster, redis::RedisRoster},
    store::{Generations, Installation, Store, postgres::PostgresStore, sqlite::SqliteStore},
};
use everpost_workers::Ports;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::config::EngineSettings;

/// What goes on between instances.
type Between = (Arc<dyn Relay>, Arc<dyn Roster>);

/// An open engine.
pub struct Engine {
    /// The ports.
    pub ports: Ports,
    /// What rings when a disk under it fails for good.
    alarms: Vec<Alarm>,
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
                let store = SqliteStore::open(&data_dir.join("store.db")).await.context("opening the store")?;
                let known = store.installation().await.context("looking at the store")?;
                let log = SqliteLog::open_as(known, &data_dir.join("log.db"), *durability).await;
                let log = Arc::new(log.context("opening the event log")?);
                let alarms = vec![log.alarm(), store.alarm()];
                let between: Between = (Arc::new(LocalRelay::new()), Arc::new(LocalRoster::new()));
                let store = Arc::new(store);
                let engine = Self::new(log.clone(), log, between, store, Some(lock), "embedded (SQLite)").await?;
                Ok(Self { alarms, ..engine })
            }
            EngineSettings::Distributed { log, database_url } => {
                let store = PostgresStore::connect(database_url).await.context("connecting to Postgres")?;
                if !store.check().await.context("looking at the database")?.migrated {
                    anyhow::bail!("the database schema is not current: run `everpost migrate` first");
                }
                let known = store.installation().await.context("looking at the database")?;
                let log = RedisLog::open(log, known).await.context("opening the event log in Redis")?;
                let between: Between = (Arc::new(RedisRelay::beside(&log)), Arc::new(RedisRoster::beside(&log)));
                let (log, store) = (Arc::new(log), Arc::new(store));
                Self::new(log.clone(), log, between, store, None, "distributed (Redis Streams + Postgres)").await
            }
        }
    }

    /// Waits until the disk under the engine has failed for good.
    pub fn failed(&self) -> impl Future<Output = DiskFailed> + Send + 'static {
        first_to_ring(self.alarms.clone())
    }

    async fn new(
        log: Arc<dyn Log>,
        leases: Arc<dyn Leases>,
        (relay, roster): Between,
        store: Arc<dyn Store>,
        lock: Option<std::fs::File>,
        description: &str,
    ) -> anyhow::Result<Self> {
        let here = Installation { epoch: log.epoch(), partitions: log.partitions().count() as u16 };
        let tied = store.bind(here).await.context("looking at the database")?;
        anyhow::ensure!(
            tied == here,
            "this database belongs to another event log, and mixing their events would ruin both: give the Redis (or the \
             log.db) that goes with it, or an empty database; to use this database with a new Redis, give an empty one"
        );
        let recovery = Recovery::open(log.clone(), store.clone()).await.context("looking after the event log")?;
        let ports = Ports { log, leases, relay, roster, store, recovery };
        Ok(Self { ports, alarms: Vec::new(), _lock: lock, description: description.to_owned() })
    }
}

/// Waits until a disk has failed for good.
async fn first_to_ring(alarms: Vec<Alarm>) -> DiskFailed {
    let mut rung: FuturesUnordered<_> = alarms.iter().map(Alarm::rung).collect();
    match rung.next().await {
        Some(failed) => failed,
        None => std::future::pending().await, // there is no disk of ours
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
