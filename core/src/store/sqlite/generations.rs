//! Installation and generations in SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed};
use crate::{
    clock::now_ms,
    generation::{Generation, History},
    partition::Partition,
    position::Position,
    role::Role,
    store::{
        StoreError, columns,
        generations::{Begun, Generations, Installation},
    },
};

const BIND: &str = "
INSERT INTO installation AS i (one, epoch, partitions) VALUES (1, ?, ?)
ON CONFLICT (one) DO UPDATE SET partitions = COALESCE(i.partitions, excluded.partitions)
RETURNING epoch, partitions";

const GENERATIONS: &str = "SELECT partition, number, base FROM generations ORDER BY partition, number";

const FENCE: &str = "
INSERT INTO progress AS p (role, partition, token, position) VALUES (?, ?, ?, 0)
ON CONFLICT (role, partition) DO UPDATE SET token = max(p.token, excluded.token)
RETURNING position";

const BEGIN: &str = "
INSERT INTO generations (partition, number, base, reason, begun_ms)
SELECT ?1, ?2, ?3, ?4, ?5
WHERE COALESCE((SELECT max(number) FROM generations WHERE partition = ?1), 1) = ?2 - 1
ON CONFLICT DO NOTHING";

#[async_trait]
impl Generations for SqliteStore {
    async fn installation(&self) -> Result<Option<Installation>, StoreError> {
        let row = sqlx::query_as("SELECT epoch, partitions FROM installation").fetch_optional(&self.readers).await;
        let row: Option<(i64, Option<i64>)> = row.map_err(failed)?;
        Ok(row.and_then(|(epoch, partitions)| columns::installation(epoch, partitions?)))
    }

    async fn bind(&self, log: Installation) -> Result<Installation, StoreError> {
        let tied = sqlx::query_as(BIND).bind(i64::from(log.epoch)).bind(i32::from(log.partitions));
        let (epoch, partitions): (i64, i64) = tied.fetch_one(&self.writer).await.map_err(failed)?;
        columns::installation(epoch, partitions).ok_or_else(|| StoreError::Damaged("its installation is none".into()))
    }

    async fn generations(&self, partitions: usize) -> Result<History, StoreError> {
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(GENERATIONS).fetch_all(&self.readers).await.map_err(failed)?;
        Ok(columns::history(partitions, rows))
    }

    async fn begin(
        &self,
        partition: Partition,
        present: u16,
        survived: u64,
        reason: &str,
    ) -> Result<Option<Begun>, StoreError> {
        let generation = Generation { number: present + 1, base: 0 };
        let mut open = self.begin().await?;
        let fence = sqlx::query_scalar(FENCE)
            .bind(Role::Persist.as_str())
            .bind(i32::from(partition.0))
            .bind(columns::to_column(generation.fence()));
        let stored = Position::from_column(fence.fetch_one(&mut *open).await.map_err(failed)?);
        let generation = Generation { base: survived.max(stored.offset()), ..generation };
        let begin = sqlx::query(BEGIN)
            .bind(i32::from(partition.0))
            .bind(i32::from(generation.number))
            .bind(columns::to_column(generation.base))
            .bind(reason)
            .bind(columns::to_column(now_ms()));
        if begin.execute(&mut *open).await.map_err(failed)?.rows_affected() == 0 {
            return Ok(None); // what was fenced is rolled back with the rest
        }
        self.commit(open).await?;
        Ok(Some(Begun { generation, stored }))
    }
}
