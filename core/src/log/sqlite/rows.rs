//! The file: its tables, and the statements over them.

use std::{collections::HashMap, fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sqlx::{
    ConnectOptions, Row, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{generations::Generations, origin::Origin};
use crate::{
    disk::{DiskFailed, Failure},
    event::Record,
    generation::Generation,
    lease::LeaseView,
    log::{Durability, LogError},
    position::Position,
    role::Role,
};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS install (epoch INTEGER NOT NULL, layout INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS log (last INTEGER PRIMARY KEY, records BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS generations (generation INTEGER PRIMARY KEY, base INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS run (nonce INTEGER NOT NULL, inode INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS roles (role TEXT PRIMARY KEY, acked INTEGER NOT NULL, token INTEGER NOT NULL) STRICT;";
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

/// Creates what is missing, for a given epoch or a new one; tells whether everything was.
pub(super) async fn prepare(connection: &mut SqliteConnection, epoch: Option<u32>) -> Result<bool, LogError> {
    sqlx::raw_sql(TABLES).execute(&mut *connection).await.map_err(failed)?;
    let install = "INSERT INTO install (epoch, layout) SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM install)";
    let epoch = epoch.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u32);
    let install = sqlx::query(install).bind(i64::from(epoch)).bind(LAYOUT).execute(connection).await;
    Ok(install.map_err(failed)?.rows_affected() > 0)
}

/// The epoch of the installation.
pub(super) async fn epoch(connection: &mut SqliteConnection) -> Result<u32, LogError> {
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

/// The generations the file has seen.
pub(super) async fn generations(connection: &mut SqliteConnection) -> Result<Generations, LogError> {
    let later = sqlx::query("SELECT generation, base FROM generations ORDER BY generation").fetch_all(connection).await;
    let later = later.map_err(failed)?;
    Ok(Generations::new(later.iter().map(|row| (row.get::<i64, _>(0) as u16, row.get::<i64, _>(1) as u64))))
}

/// Notes in the file which process uses it.
pub(super) async fn sign(connection: &mut SqliteConnection, origin: &Origin) -> Result<(), LogError> {
    let (nonce, inode) = origin.row();
    statement(connection, "DELETE FROM run").await?;
    let run = sqlx::query("INSERT INTO run (nonce, inode) VALUES (?, ?)").bind(nonce).bind(inode);
    run.execute(connection).await.map(drop).map_err(failed)
}

/// Begins a generation. Tokens of earlier ones lose their force; and if the file ends before the base, all roles go on
/// behind it, because the store has what is missing.
pub(super) async fn begin(connection: &mut SqliteConnection, generation: Generation) -> Result<(), LogError> {
    let base = generation.base as i64;
    let insert = sqlx::query("INSERT INTO generations (generation, base) VALUES (?, ?)");
    insert.bind(i64::from(generation.number)).bind(base).execute(&mut *connection).await.map_err(failed)?;
    let is_behind = end(connection).await? < generation.base;
    for role in Role::ALL {
        sqlx::query(
            "INSERT INTO roles (role, acked, token) VALUES (?1, iif(?4, ?2, 0), ?3)
             ON CONFLICT DO UPDATE SET acked = iif(?4, ?2, acked), token = max(token, ?3)",
        )
        .bind(role.as_str())
        .bind(base)
        .bind(generation.fence() as i64)
        .bind(is_behind)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

/// Runs statements as one transaction. The driver's own would take a transaction that a failed disk has ended for open
/// for ever, and refuse every later one.
pub(super) async fn whole<T>(
    connection: &mut SqliteConnection,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, LogError>,
) -> Result<T, LogError> {
    statement(connection, "BEGIN IMMEDIATE").await?;
    let done = match work(connection).await {
        Ok(done) => statement(connection, "COMMIT").await.map(|()| done),
        Err(error) => Err(error),
    };
    if done.is_err() {
        let _ = statement(connection, "ROLLBACK").await; // there may be nothing left to undo
    }
    done
}

async fn statement(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), LogError> {
    sqlx::query(sql).execute(connection).await.map(drop).map_err(failed)
}

/// Hands every record in the file to `take`, in order.
pub(super) async fn replay(
    connection: &mut SqliteConnection,
    generations: &Generations,
    mut take: impl FnMut(Record),
) -> Result<(), LogError> {
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
            unpack(row.get(0), row.get(1), generations)?.into_iter().for_each(&mut take);
        }
    }
}

pub(super) async fn progress(
    connection: &mut SqliteConnection,
    generations: &Generations,
) -> Result<HashMap<Role, Position>, LogError> {
    roles(connection, |acked, _| generations.place(acked as u64)).await
}

pub(super) async fn tokens(connection: &mut SqliteConnection) -> Result<HashMap<Role, LeaseView>, LogError> {
    roles(connection, |_, token| LeaseView { owner: None, token: token as u64, beat: 0 }).await
}

async fn roles<T>(connection: &mut SqliteConnection, of: impl Fn(i64, i64) -> T) -> Result<HashMap<Role, T>, LogError> {
    let found = sqlx::query("SELECT role, acked, token FROM roles").fetch_all(connection).await.map_err(failed)?;
    let known = found.iter().filter_map(|row| Some((row.get::<&str, _>(0).parse().ok()?, of(row.get(1), row.get(2)))));
    Ok(known.collect())
}

/// About `max` records after an offset, in order; those of a whole row at a time.
pub(super) async fn after(
    readers: &SqlitePool,
    generations: &Generations,
    after: u64,
    max: usize,
) -> Result<Vec<Record>, LogError> {
    let rows = sqlx::query("SELECT last, records FROM log WHERE last > ? ORDER BY last LIMIT ?")
        .bind(after as i64)
        .bind(max.div_ceil(64).max(1) as i64)
        .fetch_all(readers)
        .await
        .map_err(failed)?;
    let records = rows.iter().map(|row| unpack(row.get(0), row.get(1), generations)).collect::<Result<Vec<_>, _>>()?;
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
            return self.insert(connection).await.map(|()| 0);
        }
        whole(connection, async |connection| {
            self.insert(connection).await?;
            self.note(connection).await?;
            self.trim(connection).await
        })
        .await
    }

    async fn insert(&self, connection: &mut SqliteConnection) -> Result<(), LogError> {
        let Some(last) = self.records.last() else { return Ok(()) };
        sqlx::query("INSERT INTO log (last, records) VALUES (?, ?)")
            .bind(last.position.offset() as i64)
            .bind(pack(self.records))
            .execute(connection)
            .await
            .map(drop)
            .map_err(failed)
    }

    async fn note(&self, connection: &mut SqliteConnection) -> Result<(), LogError> {
        for &(role, acked, token) in self.roles {
            sqlx::query("INSERT OR REPLACE INTO roles (role, acked, token) VALUES (?, ?, ?)")
                .bind(role.as_str())
                .bind(acked.offset() as i64)
                .bind(token as i64)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    async fn trim(&self, connection: &mut SqliteConnection) -> Result<u64, LogError> {
        let Some(offset) = self.trim_to else { return Ok(0) };
        let delete = sqlx::query("DELETE FROM log WHERE last <= ?").bind(offset as i64);
        delete.execute(connection).await.map(|deleted| deleted.rows_affected()).map_err(failed)
    }
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

fn unpack(last: i64, packed: Vec<u8>, generations: &Generations) -> Result<Vec<Record>, LogError> {
    let mut rest = Bytes::from(packed);
    let mut parts = Vec::new();
    while rest.has_remaining() {
        let length = rest.try_get_u32().ok().map(|length| length as usize).filter(|&length| length <= rest.len());
        let Some(length) = length else {
            return Err(LogError::Damaged(format!("the row ending at {last} is cut short")));
        };
        parts.push(rest.split_to(length));
    }
    let count = (parts.len() / 2) as u64;
    let first = u64::try_from(last).ok().and_then(|last| (last + 1).checked_sub(count)).filter(|&first| first > 0);
    let Some(first) = first.filter(|_| parts.len() % 2 == 0) else {
        return Err(LogError::Damaged(format!("the row ending at {last} cannot hold {} parts", parts.len())));
    };
    let record = |(at, pair): (usize, &[Bytes])| Record {
        position: generations.place(first + at as u64),
        header: pair[0].clone(),
        data: pair[1].clone(),
    };
    Ok(parts.chunks_exact(2).enumerate().map(record).collect())
}

pub(super) fn failed(error: sqlx::Error) -> LogError {
    let code = error.as_database_error().and_then(|error| error.code());
    match Failure::of(code.as_deref()) {
        Failure::Full => LogError::Full,
        Failure::Damaged => LogError::Damaged(error.to_string()),
        Failure::Passing => LogError::unavailable(error),
        Failure::Unknown => DiskFailed::new("log.db", &error).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Generations {
        Generations::new([])
    }

    #[test]
    fn rows_unpack_to_what_was_packed() {
        let record = |offset, header: &'static [u8], data: &'static [u8]| Record {
            position: Position::new(1, offset),
            header: header.into(),
            data: data.into(),
        };
        let records = vec![record(6, b"h", b"{}"), record(7, b"", b"data")];
        assert_eq!(unpack(7, pack(&records), &first()).expect("whole"), records);
    }

    #[test]
    fn a_row_cut_short_is_damage() {
        let whole = pack(&[Record { position: Position::ZERO, header: "header".into(), data: "data".into() }]);
        for cut in [1, 5, 10, whole.len() - 1] {
            assert!(matches!(unpack(1, whole[..cut].to_vec(), &first()), Err(LogError::Damaged(_))), "{cut}");
        }
    }

    #[test]
    fn a_row_with_a_flipped_bit_is_read_or_is_damage_but_no_panic() {
        let record = |offset| Record { position: Position::new(1, offset), header: "header".into(), data: "{}".into() };
        let whole = pack(&[record(1), record(2)]);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = unpack(2, flipped, &first());
            assert!(matches!(read, Ok(_) | Err(LogError::Damaged(_))), "bit {bit}: {read:?}");
        }
        assert!(matches!(unpack(-1, whole.clone(), &first()), Err(LogError::Damaged(_))));
        assert!(matches!(unpack(1, whole, &first()), Err(LogError::Damaged(_))), "two records cannot end at the first");
    }
}
