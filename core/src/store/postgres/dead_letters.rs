//! Dead letters in Postgres.

use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore, failed,
    messages::{Open, look, write_free},
};
use crate::{
    clock::now_ms,
    event::{Event, Record},
    position::Position,
    role::Role,
    store::{
        DeadLetter, DeadLetters, Death, Decision, Fate, Redriven, Sieve, StoreError,
        burial::{Burial, Laid, legible, why_not},
        columns,
    },
};

const KEEP: &str = "
INSERT INTO dead_letters (id, role, partition, position, conversation_id, seq, message_id, sender_id, key, event,
                          reason, detail, attempts, first_failed_ms, last_failed_ms, header, data, fate)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 'dead')
ON CONFLICT (role, partition, position) DO NOTHING";

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, role, partition, position, conversation_id, seq, message_id, sender_id, key, event, reason, \
             detail, attempts, first_failed_ms, last_failed_ms, fate, decided_by, decided_why, decided_ms \
             FROM dead_letters ",
            $rest
        )
    };
}

const PAGE: &str = select!(
    "WHERE ($1::text IS NULL OR role = $1) AND ($2::text IS NULL OR conversation_id = $2)
     AND ($3::text IS NULL OR fate = $3) AND ($4::uuid IS NULL OR id > $4) ORDER BY id LIMIT $5"
);

const ONE: &str = select!("WHERE id = $1");

const COUNT: &str = "
SELECT count(*) FROM dead_letters
WHERE ($1::text IS NULL OR role = $1) AND ($2::text IS NULL OR conversation_id = $2)
  AND ($3::text IS NULL OR fate = $3)";

const TAKE: &str = "SELECT role, position, fate, header, data FROM dead_letters WHERE id = $1 FOR UPDATE";

/// A tombstone that is not this event's own is none of our business.
const FILL: &str = "
UPDATE messages SET created_ms = $4, body = $5, event = $6, sender_id = $7, key = $8, data = $9
WHERE conversation_id = $1 AND seq = $2 AND message_id = $3 AND event = 'tombstone'";

const DECIDE: &str = "
UPDATE dead_letters SET fate = $2, decided_by = $3, decided_why = $4, decided_ms = $5 WHERE id = $1";

const DELETE: &str = "
UPDATE dead_letters SET fate = 'deleted', header = NULL, data = NULL,
                        decided_by = $2, decided_why = $3, decided_ms = $4
WHERE id = $1 AND fate <> 'deleted'";

const TRIED: &str = "UPDATE dead_letters SET attempts = attempts + 1, last_failed_ms = $2 WHERE id = $1";

#[async_trait]
impl DeadLetters for PostgresStore {
    async fn bury(&self, death: &Death<'_>) -> Result<Option<Uuid>, StoreError> {
        let burial = Burial::of(death);
        let mut outcome = Ok(Laid::Already);
        for tombstone in burial.tombstones() {
            outcome = self.lay(&burial, tombstone).await;
            if !burial.goes_on(&outcome) {
                break;
            }
        }
        match outcome? {
            Laid::New => Ok(Some(burial.id)),
            Laid::Already | Laid::KeyTaken => Ok(None),
        }
    }

    async fn dead_letters(
        &self,
        sieve: &Sieve,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let page = sqlx::query(PAGE)
            .bind(sieve.role.map(Role::as_str))
            .bind(sieve.conversation.as_ref().map(|id| id.as_str()))
            .bind(sieve.fate.map(Fate::as_str))
            .bind(after)
            .bind(columns::limit(limit))
            .fetch_all(&self.pool);
        page.await.map_err(failed)?.iter().map(letter).collect()
    }

    async fn dead_letter(&self, id: Uuid) -> Result<Option<DeadLetter>, StoreError> {
        let row = sqlx::query(ONE).bind(id).fetch_optional(&self.pool).await.map_err(failed)?;
        row.as_ref().map(letter).transpose()
    }

    async fn dead_letter_payload(&self, id: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        let data = sqlx::query_scalar("SELECT data FROM dead_letters WHERE id = $1").bind(id);
        let data: Option<Option<Vec<u8>>> = data.fetch_optional(&self.pool).await.map_err(failed)?;
        Ok(data.flatten())
    }

    async fn count_dead_letters(&self, sieve: &Sieve) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar(COUNT)
            .bind(sieve.role.map(Role::as_str))
            .bind(sieve.conversation.as_ref().map(|id| id.as_str()))
            .bind(sieve.fate.map(Fate::as_str))
            .fetch_one(&self.pool);
        Ok(columns::from_column(count.await.map_err(failed)?))
    }

    async fn redrive(&self, id: Uuid, decision: &Decision) -> Result<Redriven, StoreError> {
        match self.fill(id, decision).await {
            Err(StoreError::Refused(cause)) => {
                let tried = sqlx::query(TRIED).bind(id).bind(columns::to_column(now_ms()));
                tried.execute(&self.pool).await.map_err(failed)?;
                Ok(Redriven::Refused(format!("the database still refuses it: {}", legible(&cause.to_string()))))
            }
            outcome => outcome,
        }
    }

    async fn delete_dead_letter(&self, id: Uuid, decision: &Decision) -> Result<Option<bool>, StoreError> {
        let delete = sqlx::query(DELETE)
            .bind(id)
            .bind(decision.by.as_str())
            .bind(decision.why.as_str())
            .bind(columns::to_column(decision.at_ms))
            .execute(&self.pool);
        if delete.await.map_err(failed)?.rows_affected() > 0 {
            return Ok(Some(true));
        }
        Ok(self.dead_letter(id).await?.map(|_| false))
    }
}

impl PostgresStore {
    /// Lays one tombstone, or none, and keeps the letter: one transaction.
    async fn lay(&self, burial: &Burial<'_>, tombstone: Option<Event<'_>>) -> Result<Laid, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        let fence = (burial.death.lease, burial.death.record.position);
        let laid = write_free(&mut open, &[fence], tombstone.as_slice()).await?;
        let laid = match tombstone {
            Some(tombstone) if laid == 0 => {
                let found = look(&mut open, &[tombstone]).await?;
                why_not(tombstone, found.into_iter().next().unwrap_or_default())?
            }
            _ => keep(&mut open, burial).await?,
        };
        open.commit().await.map_err(failed)?;
        Ok(laid)
    }

    /// Puts the event of a letter where its tombstone is and notes who wanted it: one transaction.
    async fn fill(&self, id: Uuid, decision: &Decision) -> Result<Redriven, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        let Some(row) = sqlx::query(TAKE).bind(id).fetch_optional(&mut *open).await.map_err(failed)? else {
            return Ok(Redriven::Unknown);
        };
        let (role, record) = match taken(&row).map_err(failed)? {
            Taken::Dead(role, record) => (role, record),
            Taken::Redriven => return Ok(Redriven::Already),
            Taken::Gone => return Ok(Redriven::Refused("its payload was deleted".to_owned())),
        };
        let event = match record.event() {
            Ok(event) => event,
            Err(error) => return Ok(Redriven::Refused(error.to_string())),
        };
        let outcome = if role == Role::Persist.as_str() { put(&mut open, &event).await? } else { Redriven::Done };
        if matches!(outcome, Redriven::Done | Redriven::Already) {
            decide(&mut open, id, Fate::Redriven, decision).await?;
            open.commit().await.map_err(failed)?;
        }
        Ok(outcome)
    }
}

async fn keep(open: &mut Open, burial: &Burial<'_>) -> Result<Laid, StoreError> {
    let (death, (header, data)) = (burial.death, burial.bytes());
    let kept = sqlx::query(KEEP)
        .bind(burial.id)
        .bind(death.lease.role.as_str())
        .bind(i32::from(death.lease.partition.0))
        .bind(death.record.position.to_column())
        .bind(burial.shown(|event| Some(event.conversation)))
        .bind(burial.event.map(|event| columns::to_column(event.seq)))
        .bind(burial.event.map(|event| event.message_id))
        .bind(burial.shown(|event| Some(event.sender)))
        .bind(burial.shown(|event| event.key))
        .bind(burial.shown(|event| Some(event.name)))
        .bind(death.reason.as_str())
        .bind(legible(&death.detail))
        .bind(i32::try_from(death.attempts).unwrap_or(i32::MAX))
        .bind(columns::to_column(death.first_failed_ms))
        .bind(columns::to_column(death.last_failed_ms))
        .bind(header)
        .bind(data)
        .execute(&mut **open);
    Ok(if kept.await.map_err(failed)?.rows_affected() > 0 { Laid::New } else { Laid::Already })
}

/// Fills the tombstone of an event.
async fn put(open: &mut Open, event: &Event<'_>) -> Result<Redriven, StoreError> {
    let filled = sqlx::query(FILL)
        .bind(event.conversation)
        .bind(columns::to_column(event.seq))
        .bind(event.message_id)
        .bind(columns::to_column(event.created_ms))
        .bind(event.body.0.as_slice())
        .bind(event.name)
        .bind(event.sender)
        .bind(event.key)
        .bind(event.data)
        .execute(&mut **open);
    if filled.await.map_err(failed)?.rows_affected() > 0 {
        return Ok(Redriven::Done);
    }
    let found = look(open, std::slice::from_ref(event)).await?.into_iter().next().unwrap_or_default();
    Ok(match found.in_place {
        Some(id) if id == event.message_id => Redriven::Already,
        Some(_) => Redriven::Refused("its place is taken by another event".to_owned()),
        None => Redriven::Refused("its place is empty".to_owned()),
    })
}

async fn decide(open: &mut Open, id: Uuid, fate: Fate, decision: &Decision) -> Result<(), StoreError> {
    let decide = sqlx::query(DECIDE)
        .bind(id)
        .bind(fate.as_str())
        .bind(decision.by.as_str())
        .bind(decision.why.as_str())
        .bind(columns::to_column(decision.at_ms))
        .execute(&mut **open);
    decide.await.map(drop).map_err(failed)
}

/// A letter about to be redriven.
enum Taken {
    Dead(String, Record),
    Redriven,
    Gone,
}

fn taken(row: &PgRow) -> Result<Taken, sqlx::Error> {
    let (header, data): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.try_get(3)?, row.try_get(4)?);
    Ok(match (row.try_get(2)?, header, data) {
        ("redriven", ..) => Taken::Redriven,
        ("dead", Some(header), Some(data)) => {
            let position = Position::from_column(row.try_get(1)?);
            Taken::Dead(row.try_get(0)?, Record { position, header: header.into(), data: data.into() })
        }
        _ => Taken::Gone,
    })
}

fn letter(row: &PgRow) -> Result<DeadLetter, StoreError> {
    read(row).map_err(failed)
}

fn read(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let fate: &str = row.try_get(15)?;
    Ok(DeadLetter {
        id: row.try_get(0)?,
        role: row.try_get(1)?,
        partition: u16::try_from(row.try_get::<i32, _>(2)?).unwrap_or_default(),
        position: Position::from_column(row.try_get(3)?),
        conversation: row.try_get(4)?,
        seq: row.try_get::<Option<i64>, _>(5)?.map(columns::from_column),
        message_id: row.try_get(6)?,
        sender: row.try_get(7)?,
        key: row.try_get(8)?,
        event: row.try_get(9)?,
        reason: row.try_get(10)?,
        detail: row.try_get(11)?,
        attempts: u32::try_from(row.try_get::<i32, _>(12)?).unwrap_or_default(),
        first_failed_ms: columns::from_column(row.try_get(13)?),
        last_failed_ms: columns::from_column(row.try_get(14)?),
        fate: fate
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::<crate::store::dead_letters::UnknownFate>::new(error)))?,
        decision: decision(row)?,
    })
}

fn decision(row: &PgRow) -> Result<Option<Decision>, sqlx::Error> {
    let Some(by) = row.try_get(16)? else { return Ok(None) };
    let why: Option<String> = row.try_get(17)?;
    let at_ms = columns::from_column(row.try_get::<Option<i64>, _>(18)?.unwrap_or_default());
    Ok(Some(Decision { by, why: why.unwrap_or_default(), at_ms }))
}
