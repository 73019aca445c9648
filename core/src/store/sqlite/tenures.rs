//! Tenures in SQLite.

use async_trait::async_trait;
use sqlx::Row;

use super::{SqliteStore, failed};
use crate::{
    lease::Lease,
    position::Position,
    store::{
        Legacy, StoreError, Tenures, columns,
        tenures::{Tenure, legacy},
    },
};

const BEFORE: &str =
    "SELECT worker, open, position, crashes, suspect, token FROM tenures WHERE role = ?1 AND partition = ?2";

const BEGIN: &str = "
INSERT INTO tenures (role, partition, token, worker, open, position, crashes, suspect)
VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7)
ON CONFLICT (role, partition) DO UPDATE
SET token = excluded.token, worker = excluded.worker, open = excluded.open, position = excluded.position,
    crashes = excluded.crashes, suspect = excluded.suspect";

const SUSPECT: &str = "UPDATE tenures SET suspect = ?4 WHERE role = ?1 AND partition = ?2 AND token = ?3";

const END: &str = "UPDATE tenures SET open = 0 WHERE role = ?1 AND partition = ?2 AND token = ?3";

#[async_trait]
impl Tenures for SqliteStore {
    async fn begin_tenure(&self, lease: &Lease, worker: &str, at: Position) -> Result<Legacy, StoreError> {
        let mut open = self.begin().await?;
        let (role, partition) = (lease.role.as_str(), i32::from(lease.partition.0));
        let before = sqlx::query(BEFORE).bind(role).bind(partition).fetch_optional(&mut *open);
        let before = before.await.map_err(failed)?.map(|row| {
            Ok(Tenure {
                token: columns::from_column(row.try_get(5)?),
                worker: row.try_get(0)?,
                open: row.try_get(1)?,
                at: Position::from_column(row.try_get(2)?),
                crashes: u32::try_from(row.try_get::<i32, _>(3)?).unwrap_or_default(),
                suspect: Position::from_column(row.try_get(4)?),
            })
        });
        let legacy = legacy(before.transpose().map_err(failed)?.as_ref(), lease, worker, at);
        let begin = sqlx::query(BEGIN)
            .bind(role)
            .bind(partition)
            .bind(columns::to_column(lease.token))
            .bind(worker)
            .bind(at.to_column())
            .bind(i32::try_from(legacy.crashes).unwrap_or(i32::MAX))
            .bind(legacy.suspect.unwrap_or(Position::ZERO).to_column());
        begin.execute(&mut *open).await.map_err(failed)?;
        self.commit(open).await?;
        Ok(legacy)
    }

    async fn suspect(&self, lease: &Lease, at: Position) -> Result<(), StoreError> {
        let suspect = sqlx::query(SUSPECT)
            .bind(lease.role.as_str())
            .bind(i32::from(lease.partition.0))
            .bind(columns::to_column(lease.token))
            .bind(at.to_column());
        suspect.execute(&self.writer).await.map(drop).map_err(failed)
    }

    async fn end_tenure(&self, lease: &Lease) -> Result<(), StoreError> {
        let end = sqlx::query(END)
            .bind(lease.role.as_str())
            .bind(i32::from(lease.partition.0))
            .bind(columns::to_column(lease.token));
        end.execute(&self.writer).await.map(drop).map_err(failed)
    }
}
