//! The store in one SQLite file.
//!
//! One connection writes, because SQLite has one writer anyway and a queue in front of it is fairer than its lock.
//! Every writing transaction begins with the lock (`BEGIN IMMEDIATE`): one that reads first and then wants it fails at
//! once when somebody was faster. Readers have a pool of their own and never wait for the writer.
//!
//! Lists go in as one JSON text, read by `json_each`, so that each question is one constant statement.

mod conversations;
mod dead_letters;
mod error;
mod generations;
mod insert;
mod jobs;
mod marks;
mod messages;
mod overviews;
mod presence;
mod revocations;
mod tenures;

use std::{path::Path, time::Duration};

use sqlx::{
    ConnectOptions, Row, Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use self::{
    error::{failed, failed_migration},
    insert::Inserts,
};
use super::StoreError;
use crate::disk::Alarm;

/// Older ones can corrupt a database in WAL mode when a checkpoint and a reset of the log meet.
const OLDEST_SQLITE: [u32; 3] = [3, 51, 3];
/// How long SQLite itself waits for a lock: a backup or a shell may hold one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for the writing connection.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;
const BEGIN: &str = "BEGIN IMMEDIATE";
/// Memory for pages of the writer, in KiB: a batch touches a page or two of each conversation in it, and the default of
/// two megabytes would write some of them twice.
const WRITER_CACHE: &str = "-16384";
/// How many pages the journal gathers before they move into the file. The default of a thousand is a single batch.
const CHECKPOINT_EVERY: &str = "4000";

/// The schema. Newer migrations than these are none of our business: the next version made them.
fn migrations() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/sqlite");
    migrator.set_ignore_missing(true);
    migrator
}

/// The store in a SQLite file. Clones share its connections.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    inserts: Inserts,
    alarm: Alarm,
}

/// What matters about the database before relying on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteReport {
    /// The library's version.
    pub version: String,
    /// How it keeps its journal; `wal`.
    pub journal_mode: String,
    /// What a commit waits for; 2 is `FULL`, the disk.
    pub synchronous: i64,
    /// How many milliseconds it waits for a lock.
    pub busy_timeout: i64,
    /// Whether references are enforced.
    pub foreign_keys: bool,
    /// How many bytes it maps into memory; 0, because an I/O error in a mapping is a signal and not an error.
    pub mmap_size: i64,
}

impl SqliteStore {
    /// Opens the file, makes it if there is none, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).await.map_err(StoreError::unavailable)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .pragma("mmap_size", "0")
            .disable_statement_logging();
        let writer = open_writer(options.clone()).await?;
        require_version(&writer).await?;
        migrations().run(&writer).await.map_err(failed_migration)?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(BUSY_TIMEOUT);
        let readers = readers.connect_with(options.read_only(true)).await.map_err(failed)?;
        Ok(Self { writer, readers, inserts: Inserts::new(), alarm: Alarm::new() })
    }

    /// Looks at the library and at the settings of the writing connection.
    pub async fn check(&self) -> Result<SqliteReport, StoreError> {
        let settings = "SELECT sqlite_version(), journal_mode, synchronous, timeout, foreign_keys FROM \
             pragma_journal_mode, pragma_synchronous, pragma_busy_timeout, pragma_foreign_keys";
        let row = sqlx::query(settings).fetch_one(&self.writer).await.map_err(failed)?;
        // A virtual file system without mappings answers with no row at all.
        let mapped = sqlx::query_scalar("PRAGMA mmap_size").fetch_optional(&self.writer).await.map_err(failed)?;
        Ok(SqliteReport {
            version: row.try_get(0).map_err(failed)?,
            journal_mode: row.try_get(1).map_err(failed)?,
            synchronous: row.try_get(2).map_err(failed)?,
            busy_timeout: row.try_get(3).map_err(failed)?,
            foreign_keys: row.try_get(4).map_err(failed)?,
            mmap_size: mapped.unwrap_or(0),
        })
    }

    /// Closes every connection; the last one moves the journal into the file. What comes later is
    /// [`StoreError::Closing`].
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Rings when nobody knows any more what is in the file. Nothing is written to it after that.
    pub fn alarm(&self) -> Alarm {
        self.alarm.clone()
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        if self.alarm.has_rung() {
            return Err(StoreError::Closing);
        }
        match self.writer.begin_with(BEGIN).await {
            // A failing disk ended a transaction behind the driver's back, which takes it for open for ever.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                self.writer.acquire().await.map_err(failed)?.close().await.map_err(failed)?;
                self.writer.begin_with(BEGIN).await.map_err(failed)
            }
            begun => begun.map_err(failed),
        }
    }

    async fn commit(&self, open: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        let committed = open.commit().await.map_err(failed);
        if let Err(StoreError::Disk(failed)) = &committed {
            self.alarm.ring(failed);
        }
        committed
    }
}

/// Creates the file so that only its owner can read it; SQLite gives its companions the same mode.
async fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    #[cfg(unix)]
    options.mode(0o600);
    options.append(true).create(true).open(path).await.map(drop)
}

async fn open_writer(options: SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", WRITER_CACHE)
        .pragma("wal_autocheckpoint", CHECKPOINT_EVERY);
    // It is never replaced: while it is open the journal stays, which readers need and which saves its making.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(WRITER_TIMEOUT);
    pool.connect_with(options).await.map_err(failed)
}

async fn require_version(pool: &SqlitePool) -> Result<(), StoreError> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await.map_err(failed)?;
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    if numbers.as_slice() >= OLDEST_SQLITE.as_slice() {
        return Ok(());
    }
    let [major, minor, patch] = OLDEST_SQLITE;
    Err(StoreError::refused(format!("SQLite {version} is older than {major}.{minor}.{patch}")))
}

/// A list as the one text `json_each` reads.
fn list<T: serde::Serialize>(items: &[T]) -> Result<String, StoreError> {
    serde_json::to_string(items).map_err(StoreError::refused)
}
