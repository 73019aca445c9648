//! An append-only `SQLite` table: one writer, an integer key, one fsync a batch.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::PAYLOAD;

/// Rows a statement, and so a commit.
const BATCH: usize = 64;

/// Rows a second into a scratch file in `folder`.
pub(crate) async fn sqlite(folder: &Path, seconds: u64) -> Result<f64> {
    let file = folder.join(format!("everpost-bench-{}.db", uuid::Uuid::new_v4().simple()));
    let rate = measure(&file, seconds).await;
    remove(&file);
    rate
}

async fn measure(file: &Path, seconds: u64) -> Result<f64> {
    let mut connection = open(file).await.with_context(|| format!("opening {}", file.display()))?;
    let values = ["(?)"; BATCH].join(",");
    let insert: Arc<str> = format!("INSERT INTO log (body) VALUES {values}").into();
    let (started, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut rows = 0;
    while started.elapsed() < time {
        let statement = sqlx::query(AssertSqlSafe(Arc::clone(&insert)));
        let bound = (0..BATCH).fold(statement, |statement, _| statement.bind(&PAYLOAD[..]));
        rows += bound.execute(&mut connection).await?.rows_affected();
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(rate)
}

async fn open(file: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = options.connect().await?;
    sqlx::query("CREATE TABLE log (position INTEGER PRIMARY KEY, body BLOB NOT NULL)").execute(&mut connection).await?;
    Ok(connection)
}

fn remove(file: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        // A file that was never made need not be removed.
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}
