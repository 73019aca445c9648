//! Where a case plays: a fresh, empty log, whichever engine it is on.

use std::{fs, ops::Deref, path::Path, sync::Arc};

use everpost_core::{
    lease::Leases,
    log::{
        Durability, Log, LogError,
        redis::{RedisLog, RedisLogConfig},
        sqlite::SqliteLog,
    },
    partition::Partitions,
    recovery::Recovery,
    store::sqlite::SqliteStore,
};
use tempfile::TempDir;

use crate::harness::{eventually::eventually, redis::RedisServer};

/// A log with its leases.
pub(crate) trait Port: Log + Leases {}

impl<L: Log + Leases> Port for L {}

/// A log of one test.
pub(crate) struct Stage {
    log: Arc<dyn Port>,
    place: Place,
}

enum Place {
    /// With the store that vouches for its past.
    Redis(RedisServer, TempDir),
    Sqlite(TempDir),
}

impl Stage {
    /// A server of its own.
    pub(crate) async fn redis() -> Self {
        Self::open(Place::Redis(RedisServer::start().await, folder())).await
    }

    /// A file of its own.
    pub(crate) async fn sqlite() -> Self {
        Self::open(Place::Sqlite(folder())).await
    }

    /// A handle for another task.
    pub(crate) fn share(&self) -> Arc<dyn Port> {
        self.log.clone()
    }

    /// The same log, as the next process would find it after an orderly end.
    pub(crate) async fn reopen(self) -> Self {
        drop(self.log);
        Self::open(self.place).await
    }

    /// The same log after its engine was killed in the middle of whatever it did.
    pub(crate) async fn crash(self) -> Self {
        let place = match self.place {
            Place::Redis(mut server, folder) => {
                server.restart().await;
                let log = Arc::new(connect(&server, Durability::Fsync).await.expect("Redis runs"));
                let store = SqliteStore::open(&folder.path().join("store.db")).await.expect("the file opens");
                Recovery::open(log, Arc::new(store)).await.expect("it is mended");
                Place::Redis(server, folder)
            }
            Place::Sqlite(folder) => {
                let left = files(folder.path());
                drop(self.log);
                put_back(folder.path(), &left).await;
                return Self::open(Place::Sqlite(folder)).await;
            }
        };
        drop(self.log);
        Self::open(place).await
    }

    /// The server behind a log on Redis.
    pub(crate) fn server(&self) -> &RedisServer {
        match &self.place {
            Place::Redis(server, _) => server,
            Place::Sqlite(_) => panic!("there is no server behind a file"),
        }
    }

    async fn open(place: Place) -> Self {
        let log: Arc<dyn Port> = match &place {
            Place::Redis(server, _) => Arc::new(connect(server, Durability::Fsync).await.expect("Redis runs")),
            Place::Sqlite(folder) => Arc::new(open_file(folder.path()).await),
        };
        Self { log, place }
    }
}

impl Deref for Stage {
    type Target = dyn Port;

    fn deref(&self) -> &Self::Target {
        &*self.log
    }
}

/// Opens the log on a server.
pub(crate) async fn connect(server: &RedisServer, durability: Durability) -> Result<RedisLog, LogError> {
    let partitions = Partitions::new(4).expect("a power of two");
    let config = RedisLogConfig { url: server.url().into(), prefix: "everpost".into(), partitions, durability };
    RedisLog::open(&config, None).await
}

async fn open_file(folder: &Path) -> SqliteLog {
    SqliteLog::open(&folder.join("log.db"), Durability::Fsync).await.expect("the file opens")
}

/// What a killed process leaves: its files as they are, without its memory and its last checkpoint.
pub(crate) fn files(folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let content = |name| fs::read(folder.join(name)).expect("it is there while the log is open");
    ["log.db", "log.db-wal"].map(|name| (name, content(name))).into()
}

/// Waits until a log that was dropped is closed, and writes files over those it left.
pub(crate) async fn put_back(folder: &Path, files: &[(&'static str, Vec<u8>)]) {
    eventually("the log is closed", async || !is_open(&folder.join("log.db"))).await;
    if !files.is_empty() {
        let _ = fs::remove_file(folder.join("log.db-wal")); // gone already if nobody was reading
        let _ = fs::remove_file(folder.join("log.db-shm"));
    }
    for (name, content) in files {
        fs::write(folder.join(name), content).expect("writable");
    }
}

/// Whether this process has the file open.
fn is_open(file: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").expect("there is /proc").filter_map(|entry| entry.ok());
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|path| path == file)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
