//! Jobs in Postgres.

use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{PostgresStore, failed, messages::Open};
use crate::{
    lease::Lease,
    position::Position,
    store::{Job, Jobs, NewJob, StoreError, Verdict, columns, jobs::milliseconds},
};

/// Shows a lease, and locks its row, so that a former owner waits here and then finds the newer token.
const HOLD: &str = "
INSERT INTO progress AS p (role, partition, token, position) VALUES ($1, $2, $3, 0)
ON CONFLICT (role, partition) DO UPDATE SET token = EXCLUDED.token WHERE p.token <= EXCLUDED.token
RETURNING position";

const NEWEST: &str = "SELECT token FROM progress WHERE role = $1 AND partition = $2";

const ADVANCE: &str = "
UPDATE progress SET position = $3
WHERE role = $1 AND partition = $2 AND position < $3";

const RECORD: &str = "
INSERT INTO jobs (id, role, partition, position, part, attempts, due_ms, task)
VALUES ($1, $2, $3, $4, $5, 0, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $6, $7)
ON CONFLICT (role, partition, position, part) DO NOTHING";

const DUE: &str = "
SELECT id, position, part, attempts, task FROM jobs
WHERE role = $1 AND partition = $2 AND due_ms <= (extract(epoch FROM clock_timestamp()) * 1000)::bigint
ORDER BY due_ms, position, part LIMIT $3";

const AGAIN: &str = "
UPDATE jobs SET attempts = attempts + 1, due_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $4
WHERE role = $1 AND partition = $2 AND id = $3";

const DONE: &str = "DELETE FROM jobs WHERE role = $1 AND partition = $2 AND id = $3";

#[async_trait]
impl Jobs for PostgresStore {
    async fn hand_off(&self, lease: &Lease, upto: Position, jobs: &[NewJob]) -> Result<u64, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        let passed = hold(&mut open, lease).await?;
        let mut new = 0;
        for job in jobs.iter().filter(|job| job.position > passed) {
            new += record(&mut open, lease, job).await?;
        }
        let advance =
            sqlx::query(ADVANCE).bind(lease.role.as_str()).bind(i32::from(lease.partition.0)).bind(upto.to_column());
        advance.execute(&mut *open).await.map_err(failed)?;
        open.commit().await.map_err(failed)?;
        Ok(new)
    }

    async fn due(&self, lease: &Lease, max: usize) -> Result<Vec<Job>, StoreError> {
        let (role, partition) = (lease.role.as_str(), i32::from(lease.partition.0));
        // Looking changes nothing, so it shows no lease either; it only respects one that was shown.
        let newest = sqlx::query_scalar(NEWEST).bind(role).bind(partition).fetch_optional(&self.pool);
        if newest.await.map_err(failed)?.map_or(0, columns::from_column) > lease.token {
            return Err(StoreError::Fenced);
        }
        let due = sqlx::query(DUE).bind(role).bind(partition).bind(columns::limit(max)).fetch_all(&self.pool);
        due.await.map_err(failed)?.iter().map(job).collect::<Result<_, _>>().map_err(failed)
    }

    async fn settle(&self, lease: &Lease, id: Uuid, verdict: Verdict) -> Result<bool, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        hold(&mut open, lease).await?;
        let of = |sql| sqlx::query(sql).bind(lease.role.as_str()).bind(i32::from(lease.partition.0)).bind(id);
        let settled = match verdict {
            Verdict::Done => of(DONE).execute(&mut *open).await,
            Verdict::Again(delay) => of(AGAIN).bind(milliseconds(delay)).execute(&mut *open).await,
        };
        let was_there = settled.map_err(failed)?.rows_affected() > 0;
        open.commit().await.map_err(failed)?;
        Ok(was_there)
    }

    async fn count_jobs(&self, lease: &Lease) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE role = $1 AND partition = $2")
            .bind(lease.role.as_str())
            .bind(i32::from(lease.partition.0))
            .fetch_one(&self.pool);
        Ok(columns::from_column(count.await.map_err(failed)?))
    }
}

/// Fences a lease and returns up to where its role has handed off.
async fn hold(open: &mut Open, lease: &Lease) -> Result<Position, StoreError> {
    let held = sqlx::query_scalar(HOLD)
        .bind(lease.role.as_str())
        .bind(i32::from(lease.partition.0))
        .bind(columns::to_column(lease.token))
        .fetch_optional(&mut **open);
    held.await.map_err(failed)?.map(Position::from_column).ok_or(StoreError::Fenced)
}

async fn record(open: &mut Open, lease: &Lease, job: &NewJob) -> Result<u64, StoreError> {
    let recorded = sqlx::query(RECORD)
        .bind(Uuid::now_v7())
        .bind(lease.role.as_str())
        .bind(i32::from(lease.partition.0))
        .bind(job.position.to_column())
        .bind(i32::from(job.part))
        .bind(milliseconds(job.delay))
        .bind(job.task.as_str())
        .execute(&mut **open);
    Ok(recorded.await.map_err(failed)?.rows_affected())
}

fn job(row: &PgRow) -> Result<Job, sqlx::Error> {
    Ok(Job {
        id: row.try_get(0)?,
        position: Position::from_column(row.try_get(1)?),
        part: u16::try_from(row.try_get::<i32, _>(2)?).unwrap_or_default(),
        attempts: u32::try_from(row.try_get::<i32, _>(3)?).unwrap_or_default(),
        task: row.try_get(4)?,
    })
}
