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
};
use tempfile::TempDir;

use crate::harness::redis::RedisServer;

/// A log with its leases.
pub(crate) trait Port: Log + Leases {}

impl<L: Log + Leases> Port for L {}

/// A log of one test.
pub(crate) struct Stage {
    log: Arc<dyn Port>,
    place: Place,
}

enum Place {
    Redis(RedisServer),
    Sqlite(TempDir),
}

impl Stage {
    /// A server of its own.
    pub(crate) async fn redis() -> Self {
        Self::open(Place::Redis(RedisServer::start().await)).await
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
            Place::Redis(mut server) => {
                server.restart().await;
                Place::Redis(server)
            }
            Place::Sqlite(folder) => Place::Sqlite(killed(&folder)),
        };
        drop(self.log);
        Self::open(place).await
    }

    /// The server behind a log on Redis.
    pub(crate) fn server(&self) -> &RedisServer {
        match &self.place {
            Place::Redis(server) => server,
            Place::Sqlite(_) => panic!("there is no server behind a file"),
        }
    }

    async fn open(place: Place) -> Self {
        let log: Arc<dyn Port> = match &place {
            Place::Redis(server) => Arc::new(connect(server, Durability::Fsync).await.expect("Redis runs")),
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
    RedisLog::open(&RedisLogConfig { url: server.url().into(), prefix: "everpost".into(), partitions, durability })
        .await
}

async fn open_file(folder: &Path) -> SqliteLog {
    SqliteLog::open(&folder.join("log.db"), Durability::Fsync).await.expect("the file opens")
}

/// What a killed process would have left: its files as they are, without its memory and its last checkpoint.
fn killed(folder: &TempDir) -> TempDir {
    let copy = self::folder();
    for name in ["log.db", "log.db-wal"] {
        fs::copy(folder.path().join(name), copy.path().join(name)).expect("it is there while the log is open");
    }
    copy
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
