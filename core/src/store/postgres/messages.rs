//! Sequenced events in Postgres.

use std::borrow::Cow;

use async_trait::async_trait;
use sqlx::{
    FromRow, Postgres, Row, Transaction,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{PostgresStore, failed};
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

/// Fence and insert as one statement. The fence locks the partitions' rows, in order, so that a former owner waits here
/// and then finds the newer token; if one lease fails, the insert selects nothing.
macro_rules! write {
    ($conflict:literal, $answer:literal) => {
        concat!(
            "
WITH held AS (
    INSERT INTO progress AS p (role, partition, token, position)
    SELECT * FROM UNNEST($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS lease (role, partition, token, position)
    ORDER BY role, partition
    ON CONFLICT (role, partition) DO UPDATE
    SET token = EXCLUDED.token, position = GREATEST(p.position, EXCLUDED.position)
    WHERE p.token <= EXCLUDED.token
    RETURNING 1
), stored AS (
    INSERT INTO messages (conversation_id, seq, position, created_ms, message_id, body, event, sender_id, key, data)
    SELECT * FROM UNNEST($5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::uuid[], $10::bytea[], $11::text[],
                         $12::text[], $13::text[], $14::text[])
    WHERE (SELECT count(*) FROM held) = cardinality($1) ",
            $conflict,
            ") SELECT ",
            $answer
        )
    };
}

/// For a batch that meets nothing, as nearly all do: a transaction by itself. What it meets is an error that undoes it,
/// a lost fence by a division by zero; looking out for conflicts would cost a third of the rows a second.
const WRITE_NEW: &str = write!("", "1 / CASE (SELECT count(*) FROM held) WHEN cardinality($1) THEN 1 ELSE 0 END");

/// For a batch that met something: inserts what it can, and counts.
const WRITE_FREE: &str =
    write!("ON CONFLICT DO NOTHING RETURNING 1", "(SELECT count(*) FROM held), (SELECT count(*) FROM stored)");

/// Subqueries and not joins here and below: each is one look into an index, whatever the planner thinks of the sizes.
const LOOK: &str = "
SELECT (SELECT m.message_id FROM messages m
        WHERE m.conversation_id = asked.conversation_id AND m.seq = asked.seq),
       (SELECT m.seq FROM messages m
        WHERE m.conversation_id = asked.conversation_id AND m.sender_id = asked.sender_id
          AND m.key = asked.key)
FROM UNNEST($1::text[], $2::bigint[], $3::text[], $4::text[])
     WITH ORDINALITY AS asked (conversation_id, seq, sender_id, key, n)
ORDER BY asked.n";

const STORED: &str = "SELECT partition, position FROM progress WHERE role = $1";

const COUNT: &str = "
SELECT (SELECT count(*) FROM messages m
        WHERE m.conversation_id = asked.conversation_id AND m.seq BETWEEN asked.first AND asked.last)
FROM UNNEST($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS asked (conversation_id, first, last, n)
ORDER BY asked.n";

const AFTER: &str = "
SELECT page.*, asked.n
FROM UNNEST($1::text[], $2::bigint[]) WITH ORDINALITY AS asked (conversation_id, seq, n)
CROSS JOIN LATERAL (
    SELECT m.conversation_id, m.seq, m.position, m.created_ms, m.message_id, m.body, m.event, m.sender_id, m.key, m.data
    FROM messages m
    WHERE m.conversation_id = asked.conversation_id AND m.seq > asked.seq
    ORDER BY m.seq LIMIT $3
) page";

const BEFORE: &str = "
SELECT conversation_id, seq, position, created_ms, message_id, body, event, sender_id, key, data
FROM messages WHERE conversation_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";

const TOPS: &str = "
SELECT COALESCE((SELECT max(m.seq) FROM messages m WHERE m.conversation_id = asked.id), 0)
FROM UNNEST($1::text[]) WITH ORDINALITY AS asked (id, n)
ORDER BY asked.n";

/// Positions grow with sequence numbers. Most who ask were away for a moment, so the last few events are looked
/// through; for the others the sequence is halved until the place is found, however long they were away.
const LOCATE: &str = "
SELECT COALESCE(
    (SELECT m.seq FROM messages m
     WHERE m.conversation_id = asked.conversation_id AND m.seq > top.seq - 32 AND m.position <= asked.position
     ORDER BY m.seq DESC LIMIT 1),
    (WITH RECURSIVE span (low, high) AS (
         SELECT 0::bigint, top.seq - 32
         UNION ALL
         SELECT CASE WHEN probe.early THEN probe.seq ELSE low END,
                CASE WHEN probe.early THEN high ELSE probe.seq - 1 END
         FROM span CROSS JOIN LATERAL (
             SELECT m.seq, m.position <= asked.position AS early FROM messages m
             WHERE m.conversation_id = asked.conversation_id AND m.seq = (low + high + 1) / 2 LIMIT 1
         ) probe
         WHERE low < high
     ) SELECT low FROM span WHERE low >= high),
    0)
FROM UNNEST($1::text[], $2::bigint[]) WITH ORDINALITY AS asked (conversation_id, position, n)
CROSS JOIN LATERAL (
    SELECT COALESCE(max(m.seq), 0) AS seq FROM messages m WHERE m.conversation_id = asked.conversation_id
) top
ORDER BY asked.n";

const PRIORS: &str = "
SELECT first.seq, first.position, first.message_id, first.body
FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (conversation_id, sender_id, key, n)
LEFT JOIN LATERAL (
    SELECT m.seq, m.position, m.message_id, m.body FROM messages m
    WHERE m.conversation_id = asked.conversation_id AND m.sender_id = asked.sender_id
      AND m.key = asked.key
    LIMIT 1
) first ON true
ORDER BY asked.n";

#[async_trait]
impl Messages for PostgresStore {
    async fn persist(&self, done: &[(Lease, Position)], records: &[Record]) -> Result<u64, StoreError> {
        let events = events(records)?;
        match bind(WRITE_NEW, done, &events).execute(&self.pool).await {
            Ok(_) => Ok(events.len() as u64),
            Err(error) if code(&error) == Some("22012".into()) => Err(StoreError::Fenced),
            Err(error) if code(&error) == Some("23505".into()) => self.persist_free(done, &events).await,
            Err(error) => Err(failed(error)),
        }
    }

    async fn stored(&self, partitions: usize) -> Result<Vec<Position>, StoreError> {
        let rows = sqlx::query_as(STORED).bind(Role::Persist.as_str()).fetch_all(&self.pool);
        let mut stored = vec![Position::ZERO; partitions];
        for (partition, position) in rows.await.map_err(failed)? as Vec<(i32, i64)> {
            if let Some(at) = usize::try_from(partition).ok().and_then(|index| stored.get_mut(index)) {
                *at = Position::from_column(position);
            }
        }
        Ok(stored)
    }

    async fn count(&self, stretches: &[Stretch]) -> Result<Vec<u64>, StoreError> {
        let counts = sqlx::query_scalar(COUNT)
            .bind(stretches.iter().map(|stretch| stretch.conversation.as_str()).collect::<Vec<_>>())
            .bind(stretches.iter().map(|stretch| columns::to_column(stretch.first)).collect::<Vec<_>>())
            .bind(stretches.iter().map(|stretch| columns::to_column(stretch.last)).collect::<Vec<_>>())
            .fetch_all(&self.pool);
        Ok(counts.await.map_err(failed)?.into_iter().map(columns::from_column).collect())
    }

    async fn after(&self, wants: &[Want], limit: usize) -> Result<Vec<Vec<Record>>, StoreError> {
        let rows = sqlx::query(AFTER)
            .bind(wants.iter().map(|want| want.conversation.as_str()).collect::<Vec<_>>())
            .bind(wants.iter().map(|want| columns::to_column(want.after)).collect::<Vec<_>>())
            .bind(columns::limit(limit))
            .fetch_all(&self.pool);
        let mut pages = vec![Vec::new(); wants.len()];
        for row in &rows.await.map_err(failed)? {
            let n: i64 = row.try_get("n").map_err(failed)?;
            pages[n as usize - 1].push(record(row)?);
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
            .fetch_all(&self.pool);
        rows.await.map_err(failed)?.iter().rev().map(record).collect()
    }

    async fn tops(&self, conversations: &[ConversationId]) -> Result<Vec<Top>, StoreError> {
        let ids: Vec<&str> = conversations.iter().map(ConversationId::as_str).collect();
        let tops: Vec<i64> = sqlx::query_scalar(TOPS).bind(ids).fetch_all(&self.pool).await.map_err(failed)?;
        let top = |(id, seq): (&ConversationId, i64)| Top { conversation: id.clone(), seq: columns::from_column(seq) };
        Ok(conversations.iter().zip(tops).map(top).collect())
    }

    async fn locate(&self, at: &[(ConversationId, Position)]) -> Result<Vec<u64>, StoreError> {
        let (ids, positions): (Vec<&str>, Vec<i64>) = at.iter().map(|(id, at)| (id.as_str(), at.to_column())).unzip();
        let located = sqlx::query_scalar(LOCATE).bind(ids).bind(positions).fetch_all(&self.pool);
        Ok(located.await.map_err(failed)?.into_iter().map(columns::from_column).collect())
    }

    async fn priors(&self, asks: &[Ask]) -> Result<Vec<Option<Prior>>, StoreError> {
        let rows = sqlx::query(PRIORS)
            .bind(asks.iter().map(|(id, _, _)| id.as_str()).collect::<Vec<_>>())
            .bind(asks.iter().map(|(_, sender, _)| sender.as_str()).collect::<Vec<_>>())
            .bind(asks.iter().map(|(_, _, key)| key.as_str()).collect::<Vec<_>>())
            .fetch_all(&self.pool);
        rows.await.map_err(failed)?.iter().map(|row| prior(row).map_err(failed)).collect()
    }
}

pub(super) type Open = Transaction<'static, Postgres>;

impl PostgresStore {
    /// Stores a batch of which something is stored already, or shares a key with what is.
    async fn persist_free(&self, done: &[(Lease, Position)], events: &[Event<'_>]) -> Result<u64, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        let mut new = write_free(&mut open, done, events).await?;
        if new < events.len() as u64 {
            new += resolve(&mut open, events).await?;
        }
        open.commit().await.map_err(failed)?;
        Ok(new)
    }
}

/// Fences the leases and inserts what finds its place and key free; returns how many did.
pub(super) async fn write_free(
    open: &mut Open,
    done: &[(Lease, Position)],
    events: &[Event<'_>],
) -> Result<u64, StoreError> {
    let row = bind(WRITE_FREE, done, events).fetch_one(&mut **open).await.map_err(failed)?;
    let (held, stored): (i64, i64) = FromRow::from_row(&row).map_err(failed)?;
    if held == done.len() as i64 { Ok(columns::from_column(stored)) } else { Err(StoreError::Fenced) }
}

fn bind<'q>(sql: &'static str, done: &[(Lease, Position)], events: &[Event<'_>]) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(sql)
        .bind(done.iter().map(|(lease, _)| lease.role.as_str()).collect::<Vec<_>>())
        .bind(done.iter().map(|(lease, _)| i32::from(lease.partition.0)).collect::<Vec<_>>())
        .bind(done.iter().map(|(lease, _)| columns::to_column(lease.token)).collect::<Vec<_>>())
        .bind(done.iter().map(|(_, position)| position.to_column()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.conversation).collect::<Vec<_>>())
        .bind(events.iter().map(|event| columns::to_column(event.seq)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.position.to_column()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| columns::to_column(event.created_ms)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.message_id).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.body.0.as_slice()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.name).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.sender).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.key).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.data).collect::<Vec<_>>())
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Finds out what was in the way of the events and lays tombstones for duplicates; returns how many it laid.
async fn resolve(open: &mut Open, events: &[Event<'_>]) -> Result<u64, StoreError> {
    let duplicates = settle(events, &look(open, events).await?)?;
    let tombstones = tombstones(events, &duplicates);
    if tombstones.is_empty() {
        return Ok(0);
    }
    let laid = write_free(open, &[], &tombstones).await?;
    if laid < tombstones.len() as u64 {
        settle(&tombstones, &look(open, &tombstones).await?)?; // one place twice in the batch
    }
    Ok(laid)
}

pub(super) async fn look(open: &mut Open, events: &[Event<'_>]) -> Result<Vec<Found>, StoreError> {
    let rows = sqlx::query_as(LOOK)
        .bind(events.iter().map(|event| event.conversation).collect::<Vec<_>>())
        .bind(events.iter().map(|event| columns::to_column(event.seq)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.sender).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.key).collect::<Vec<_>>())
        .fetch_all(&mut **open);
    let found = |(in_place, key_at): (_, Option<i64>)| Found { in_place, key_at: key_at.map(columns::from_column) };
    Ok(rows.await.map_err(failed)?.into_iter().map(found).collect())
}

/// Reads a record from the first ten columns.
pub(super) fn record(row: &PgRow) -> Result<Record, StoreError> {
    read(row).map_err(failed)
}

fn read(row: &PgRow) -> Result<Record, sqlx::Error> {
    Ok(Record::of(&Event {
        conversation: row.try_get(0)?,
        seq: columns::from_column(row.try_get(1)?),
        position: Position::from_column(row.try_get(2)?),
        created_ms: columns::from_column(row.try_get(3)?),
        message_id: row.try_get(4)?,
        body: Digest(row.try_get(5)?),
        name: row.try_get(6)?,
        sender: row.try_get(7)?,
        key: row.try_get(8)?,
        data: row.try_get(9)?,
    }))
}

fn prior(row: &PgRow) -> Result<Option<Prior>, sqlx::Error> {
    let Some(seq) = row.try_get::<Option<i64>, _>(0)? else { return Ok(None) };
    Ok(Some(Prior {
        seq: columns::from_column(seq),
        position: Position::from_column(row.try_get(1)?),
        message_id: row.try_get(2)?,
        body: Digest(row.try_get(3)?),
    }))
}
