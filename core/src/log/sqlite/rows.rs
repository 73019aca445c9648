//! The file: its tables, and the statements over them.

use std::{collections::HashMap, fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::GENERATION;
use crate::{
    event::Record,
    lease::LeaseView,
    log::{Durability, LogError},
    position::Position,
    role::Role,
};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS install (epoch INTEGER NOT NULL, layout INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS log (last INTEGER PRIMARY KEY, records BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS roles (role TEXT PRIMARY KEY, acked INTEGER NOT NULL, token INTEGER NOT NULL) STRICT;
    INSERT INTO install (epoch, layout) SELECT abs(random() % 4294967296), 1
        WHERE NOT EXISTS (SELECT 1 FROM install);";
const LAYOUT: i64 = 1;

pub(super) async fn connect(path: &Path, durability: Durability) -> Result<SqliteConnection, LogError> {
    let synchronous = match durability {
        Durability::Memory => SqliteSynchronous::Normal,
        Durability::Fsync | Durability::Stored => SqliteSynchronous::Full,
    };
    make_private(path).map_err(LogError::unavailable)?;
    options(path).synchronous(synchronous).connect().await.map_err(failed)
}

/// Makes the file, for its owner's eyes only, before SQLite would make it for everybody's.
fn make_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

pub(super) async fn readers(path: &Path) -> Result<SqlitePool, LogError> {
    let pool = SqlitePoolOptions::new().max_connections(4);
    pool.connect_with(options(path).read_only(true)).await.map_err(failed)
}

/// Creates what is missing and returns the epoch of the installation.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<u32, LogError> {
    sqlx::raw_sql(TABLES).execute(&mut *connection).await.map_err(failed)?;
    let install = sqlx::query("SELECT epoch, layout FROM install").fetch_one(connection).await.map_err(failed)?;
    let (epoch, layout): (i64, i64) = (install.get(0), install.get(1));
    match layout {
        LAYOUT => Ok(epoch as u32),
        other => Err(LogError::Unsuitable(format!("the log file has layout {other}, this version knows {LAYOUT}"))),
    }
}

/// The last offset; also when everything was trimmed, because the last row never is.
pub(super) async fn end(connection: &mut SqliteConnection) -> Result<u64, LogError> {
    let last = sqlx::query_scalar::<_, Option<i64>>("SELECT max(last) FROM log").fetch_one(connection).await;
    Ok(last.map_err(failed)?.unwrap_or(0) as u64)
}

/// Hands every record in the file to `take`, in order.
pub(super) async fn replay(connection: &mut SqliteConnection, mut take: impl FnMut(Record)) -> Result<(), LogError> {
    let mut after = 0_i64;
    loop {
        let found = sqlx::query("SELECT last, records FROM log WHERE last > ? ORDER BY last LIMIT 64")
            .bind(after)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let Some(last) = found.last() else { return Ok(()) };
        after = last.get(0);
        for row in &found {
            unpack(row.get(0), row.get(1))?.into_iter().for_each(&mut take);
        }
    }
}

pub(super) async fn progress(connection: &mut SqliteConnection) -> Result<HashMap<Role, Position>, LogError> {
    roles(connection, |acked, _| place(acked)).await
}

pub(super) async fn tokens(connection: &mut SqliteConnection) -> Result<HashMap<Role, LeaseView>, LogError> {
    roles(connection, |_, token| LeaseView { owner: None, token: token as u64, beat: 0 }).await
}

async fn roles<T>(connection: &mut SqliteConnection, of: impl Fn(i64, i64) -> T) -> Result<HashMap<Role, T>, LogError> {
    let found = sqlx::query("SELECT role, acked, token FROM roles").fetch_all(connection).await.map_err(failed)?;
    let known = found.iter().filter_map(|row| Some((row.get::<&str, _>(0).parse().ok()?, of(row.get(1), row.get(2)))));
    Ok(known.collect())
}

/// About `max` records after a position, in order; those of a whole row at a time.
pub(super) async fn after(readers: &SqlitePool, after: Position, max: usize) -> Result<Vec<Record>, LogError> {
    let rows = sqlx::query("SELECT last, records FROM log WHERE last > ? ORDER BY last LIMIT ?")
        .bind(after.offset() as i64)
        .bind(max.div_ceil(64).max(1) as i64)
        .fetch_all(readers)
        .await
        .map_err(failed)?;
    let records = rows.iter().map(|row| unpack(row.get(0), row.get(1))).collect::<Result<Vec<_>, _>>()?;
    Ok(records.into_iter().flatten().collect())
}

/// One commit: the records, how far the roles have come, and what may go.
#[derive(Default)]
pub(super) struct Commit<'a> {
    pub(super) records: &'a [Record],
    pub(super) roles: &'a [(Role, Position, u64)],
    pub(super) trim_to: Option<u64>,
}

impl Commit<'_> {
    /// Writes all of it or nothing and returns how many rows were trimmed. When it returns, it is on disk.
    pub(super) async fn write(&self, connection: &mut SqliteConnection) -> Result<u64, LogError> {
        if self.roles.is_empty() && self.trim_to.is_none() {
            return self.insert(connection).await.map(|()| 0).map_err(failed);
        }
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        self.insert(&mut transaction).await.map_err(failed)?;
        for &(role, acked, token) in self.roles {
            sqlx::query("INSERT OR REPLACE INTO roles (role, acked, token) VALUES (?, ?, ?)")
                .bind(role.as_str())
                .bind(acked.offset() as i64)
                .bind(token as i64)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        let mut removed = 0;
        if let Some(offset) = self.trim_to {
            let delete = sqlx::query("DELETE FROM log WHERE last <= ?").bind(offset as i64);
            removed = delete.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        }
        transaction.commit().await.map_err(failed)?;
        Ok(removed)
    }

    async fn insert(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let Some(last) = self.records.last() else { return Ok(()) };
        sqlx::query("INSERT INTO log (last, records) VALUES (?, ?)")
            .bind(last.position.offset() as i64)
            .bind(pack(self.records))
            .execute(connection)
            .await
            .map(drop)
    }
}

fn place(offset: i64) -> Position {
    if offset == 0 { Position::ZERO } else { Position::new(GENERATION, offset as u64) }
}

/// Length and bytes of header and data, record after record.
fn pack(records: &[Record]) -> Vec<u8> {
    let size = records.iter().map(|record| 8 + record.header.len() + record.data.len()).sum();
    let mut packed = BytesMut::with_capacity(size);
    for part in records.iter().flat_map(|record| [&record.header, &record.data]) {
        packed.put_u32(part.len() as u32);
        packed.put_slice(part);
    }
    packed.into()
}

fn unpack(last: i64, packed: Vec<u8>) -> Result<Vec<Record>, LogError> {
    let mut rest = Bytes::from(packed);
    let mut parts = Vec::new();
    while rest.has_remaining() {
        let length = rest.try_get_u32().ok().map(|length| length as usize).filter(|&length| length <= rest.len());
        let Some(length) = length else {
            return Err(LogError::Damaged(format!("the row ending at {last} is cut short")));
        };
        parts.push(rest.split_to(length));
    }
    let first = last as u64 + 1 - (parts.len() / 2) as u64;
    let record = |(at, pair): (usize, &[Bytes])| Record {
        position: Position::new(GENERATION, first + at as u64),
        header: pair[0].clone(),
        data: pair[1].clone(),
    };
    Ok(parts.chunks_exact(2).enumerate().map(record).collect())
}

fn failed(error: sqlx::Error) -> LogError {
    match error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned())).as_deref() {
        Some("13") => LogError::Full,
        _ => LogError::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_unpack_to_what_was_packed() {
        let record = |offset, header: &'static [u8], data: &'static [u8]| Record {
            position: Position::new(GENERATION, offset),
            header: header.into(),
            data: data.into(),
        };
        let records = vec![record(6, b"h", b"{}"), record(7, b"", b"data")];
        assert_eq!(unpack(7, pack(&records)).expect("whole"), records);
    }

    #[test]
    fn a_row_cut_short_is_damage() {
        let whole = pack(&[Record { position: Position::ZERO, header: "header".into(), data: "data".into() }]);
        for cut in [1, 5, whole.len() - 1] {
            assert!(matches!(unpack(1, whole[..cut].to_vec()), Err(LogError::Damaged(_))), "{cut}");
        }
    }
}
