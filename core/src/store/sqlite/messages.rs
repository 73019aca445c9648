//! Sequenced events in SQLite.

use async_trait::async_trait;
use sqlx::{Row, Sqlite, Transaction, sqlite::SqliteRow};

use super::{SqliteStore, failed, list};
use crate::{
    event::{Event, Record},
    identity::Digest,
    lease::Lease,
    log::{Prior, Top},
    name::ConversationId,
    position::Position,
    role::Role,
    store::{
        Ask, Messages, StoreError, Stretch, Want, columns,
        conflicts::{Found, events, settle, tombstones},
    },
};

const HOLD: &str = "
INSERT INTO progress AS p (role, partition, token, position) VALUES (?, ?, ?, ?)
ON CONFLICT (role, partition) DO UPDATE
SET token = excluded.token, position = max(p.position, excluded.position) WHERE p.token <= excluded.token";

const LOOK: &str = "
SELECT (SELECT m.message_id FROM messages m
        WHERE m.conversation_id = asked.value ->> 0 AND m.seq = asked.value ->> 1),
       (SELECT m.seq FROM messages m
        WHERE m.conversation_id = asked.value ->> 0 AND m.sender_id = asked.value ->> 2 AND m.key = asked.value ->> 3)
FROM json_each(?) AS asked
ORDER BY asked.key";

const STORED: &str = "SELECT partition, position FROM progress WHERE role = ?";

const COUNT: &str = "
SELECT (SELECT count(*) FROM messages m
        WHERE m.conversation_id = asked.value ->> 0 AND m.seq BETWEEN asked.value ->> 1 AND asked.value ->> 2)
FROM json_each(?) AS asked
ORDER BY asked.key";

/// The upper end stands for LIMIT, which a join has none of; that is enough because the sequence has no holes.
const AFTER: &str = "
SELECT m.conversation_id, m.seq, m.position, m.created_ms, m.message_id, m.body, m.event, m.sender_id, m.key, m.data,
       asked.key
FROM json_each(?) AS asked
CROSS JOIN messages m
ON m.conversation_id = asked.value ->> 0 AND m.seq > asked.value ->> 1 AND m.seq <= asked.value ->> 2
ORDER BY asked.key, m.seq";

const BEFORE: &str = "
SELECT conversation_id, seq, position, created_ms, message_id, body, event, sender_id, key, data
FROM messages WHERE conversation_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?";

const TOPS: &str = "
SELECT COALESCE((SELECT max(m.seq) FROM messages m WHERE m.conversation_id = asked.value), 0)
FROM json_each(?) AS asked
ORDER BY asked.key";

/// Positions grow with sequence numbers. Most who ask were away for a moment, so the last few events are looked
/// through; for the others the sequence is halved until the place is found, however long they were away.
const LOCATE: &str = "
WITH asked AS (
    SELECT one.key AS n, one.value ->> 0 AS conversation_id, one.value ->> 1 AS position,
           COALESCE((SELECT max(m.seq) FROM messages m WHERE m.conversation_id = one.value ->> 0), 0) AS top
    FROM json_each(?) AS one
)
SELECT COALESCE(
    (SELECT m.seq FROM messages m
     WHERE m.conversation_id = asked.conversation_id AND m.seq > asked.top - 32 AND m.position <= asked.position
     ORDER BY m.seq DESC LIMIT 1),
    (WITH RECURSIVE span (low, high) AS (
         SELECT 0, asked.top - 32
         UNION ALL
         SELECT iif(m.position <= asked.position, m.seq, low), iif(m.position <= asked.position, high, m.seq - 1)
         FROM span CROSS JOIN messages m
         ON m.conversation_id = asked.conversation_id AND m.seq = (low + high + 1) / 2
         WHERE low < high
     ) SELECT low FROM span WHERE low >= high),
    0)
FROM asked
ORDER BY asked.n";

const PRIORS: &str = "
SELECT m.seq, m.position, m.message_id, m.body
FROM json_each(?) AS asked
LEFT JOIN messages m
ON m.conversation_id = asked.value ->> 0 AND m.sender_id = asked.value ->> 1 AND m.key = asked.value ->> 2
ORDER BY asked.key";

#[async_trait]
impl Messages for SqliteStore {
    async fn persist(&self, done: &[(Lease, Position)], records: &[Record]) -> Result<u64, StoreError> {
        let events = events(records)?;
        let mut open = self.begin().await?;
        for (lease, position) in done {
            hold(&mut open, lease, *position).await?;
        }
        let mut new = self.inserts.run(&mut open, &events).await?;
        if new < events.len() as u64 {
            new += self.resolve(&mut open, &events).await?;
        }
        self.commit(open).await?;
        Ok(new)
    }

    async fn stored(&self, partitions: usize) -> Result<Vec<Position>, StoreError> {
        let rows = sqlx::query_as(STORED).bind(Role::Persist.as_str()).fetch_all(&self.readers);
        let mut stored = vec![Position::ZERO; partitions];
        for (partition, position) in rows.await.map_err(failed)? as Vec<(i64, i64)> {
            if let Some(at) = usize::try_from(partition).ok().and_then(|index| stored.get_mut(index)) {
                *at = Position::from_column(position);
            }
        }
        Ok(stored)
    }

    async fn count(&self, stretches: &[Stretch]) -> Result<Vec<u64>, StoreError> {
        let asked =
            stretches.iter().map(|s| (&s.conversation, columns::to_column(s.first), columns::to_column(s.last)));
        let asked: Vec<_> = asked.collect();
        let counts = sqlx::query_scalar(COUNT).bind(list(&asked)?).fetch_all(&self.readers);
        Ok(counts.await.map_err(failed)?.into_iter().map(columns::from_column).collect())
    }

    async fn after(&self, wants: &[Want], limit: usize) -> Result<Vec<Vec<Record>>, StoreError> {
        let range = |want: &Want| {
            let after = columns::to_column(want.after);
            (want.conversation.clone(), after, after.saturating_add(columns::limit(limit)))
        };
        let ranges: Vec<_> = wants.iter().map(range).collect();
        let rows = sqlx::query(AFTER).bind(list(&ranges)?).fetch_all(&self.readers).await.map_err(failed)?;
        let mut pages = vec![Vec::new(); wants.len()];
        for row in &rows {
            let n: i64 = row.try_get(10).map_err(failed)?;
            pages[n as usize].push(record(row)?);
        }
        Ok(pages)
    }

    async fn before(
        &self,
        conversation: &ConversationId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let rows = sqlx::query(BEFORE)
            .bind(conversation.as_str())
            .bind(before.map_or(i64::MAX, columns::to_column))
            .bind(columns::limit(limit))
            .fetch_all(&self.readers);
        rows.await.map_err(failed)?.iter().rev().map(record).collect()
    }

    async fn tops(&self, conversations: &[ConversationId]) -> Result<Vec<Top>, StoreError> {
        let tops = sqlx::query_scalar(TOPS).bind(list(conversations)?).fetch_all(&self.readers);
        let tops: Vec<i64> = tops.await.map_err(failed)?;
        let top = |(id, seq): (&ConversationId, i64)| Top { conversation: id.clone(), seq: columns::from_column(seq) };
        Ok(conversations.iter().zip(tops).map(top).collect())
    }

    async fn locate(&self, at: &[(ConversationId, Position)]) -> Result<Vec<u64>, StoreError> {
        let at: Vec<_> = at.iter().map(|(conversation, at)| (conversation, at.to_column())).collect();
        let located = sqlx::query_scalar(LOCATE).bind(list(&at)?).fetch_all(&self.readers);
        Ok(located.await.map_err(failed)?.into_iter().map(columns::from_column).collect())
    }

    async fn priors(&self, asks: &[Ask]) -> Result<Vec<Option<Prior>>, StoreError> {
        let asks: Vec<_> = asks.iter().map(|(id, sender, key)| (id, sender, key.as_str())).collect();
        let rows = sqlx::query(PRIORS).bind(list(&asks)?).fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(|row| prior(row).map_err(failed)).collect()
    }
}

pub(super) type Open = Transaction<'static, Sqlite>;

impl SqliteStore {
    /// Finds out what was in the way of the events and lays tombstones for duplicates; returns how many it laid.
    async fn resolve(&self, open: &mut Open, events: &[Event<'_>]) -> Result<u64, StoreError> {
        let duplicates = settle(events, &look(open, events).await?)?;
        let tombstones = tombstones(events, &duplicates);
        let laid = self.inserts.run(open, &tombstones).await?;
        if laid < tombstones.len() as u64 {
            settle(&tombstones, &look(open, &tombstones).await?)?; // one place twice in the batch
        }
        Ok(laid)
    }
}

/// Shows a lease, with how far it has come; refused when a newer one was shown before.
pub(super) async fn hold(open: &mut Open, lease: &Lease, position: Position) -> Result<(), StoreError> {
    let held = sqlx::query(HOLD)
        .bind(lease.role.as_str())
        .bind(i64::from(lease.partition.0))
        .bind(columns::to_column(lease.token))
        .bind(position.to_column())
        .execute(&mut **open);
    if held.await.map_err(failed)?.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Fenced) }
}

pub(super) async fn look(open: &mut Open, events: &[Event<'_>]) -> Result<Vec<Found>, StoreError> {
    let seq = |event: &Event<'_>| columns::to_column(event.seq);
    let asked: Vec<_> = events.iter().map(|e| (e.conversation, seq(e), e.sender, e.key)).collect();
    let rows = sqlx::query_as(LOOK).bind(list(&asked)?).fetch_all(&mut **open);
    let found = |(in_place, key_at): (_, Option<i64>)| Found { in_place, key_at: key_at.map(columns::from_column) };
    Ok(rows.await.map_err(failed)?.into_iter().map(found).collect())
}

/// Reads a record from the first ten columns.
pub(super) fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    read(row).map_err(failed)
}

fn read(row: &SqliteRow) -> Result<Record, sqlx::Error> {
    Ok(Record::of(&Event {
        conversation: row.try_get(0)?,
        seq: columns::from_column(row.try_get(1)?),
        position: Position::from_column(row.try_get(2)?),
        created_ms: columns::from_column(row.try_get(3)?),
        message_id: row.try_get(4)?,
        body: digest(row.try_get(5)?)?,
        name: row.try_get(6)?,
        sender: row.try_get(7)?,
        key: row.try_get(8)?,
        data: row.try_get(9)?,
    }))
}

fn digest(column: &[u8]) -> Result<Digest, sqlx::Error> {
    column.try_into().map(Digest).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn prior(row: &SqliteRow) -> Result<Option<Prior>, sqlx::Error> {
    let Some(seq) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
    Ok(Some(Prior {
        seq: columns::from_column(seq),
        position: Position::from_column(row.try_get(1)?),
        message_id: row.try_get(2)?,
        body: digest(row.try_get(3)?)?,
    }))
}
