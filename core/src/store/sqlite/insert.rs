//! Inserting many events with few statements.
//!
//! A statement costs more than a row, so rows go in by the hundred; but every text is prepared once and kept, so there
//! are four texts and not one for each length of a batch.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Sqlite, Transaction, query::Query, sqlite::SqliteArguments};

use super::failed;
use crate::{
    event::Event,
    store::{StoreError, columns},
};

/// Rows for each statement, the largest first. Ten columns each, far below the 32,766 values a statement may have.
const SIZES: [usize; 4] = [256, 32, 8, 1];

/// The insert statements, by how many rows they take.
#[derive(Debug, Clone)]
pub(super) struct Inserts([(usize, Arc<str>); SIZES.len()]);

impl Inserts {
    /// Writes the texts.
    pub(super) fn new() -> Self {
        Self(SIZES.map(|rows| (rows, text(rows).into())))
    }

    /// Inserts the events whose place and key are free and returns how many were.
    pub(super) async fn run(
        &self,
        open: &mut Transaction<'static, Sqlite>,
        mut events: &[Event<'_>],
    ) -> Result<u64, StoreError> {
        let mut new = 0;
        for (rows, text) in &self.0 {
            while let Some((chunk, rest)) = events.split_at_checked(*rows) {
                let insert = chunk.iter().fold(sqlx::query(AssertSqlSafe(text.clone())), bind);
                new += insert.execute(&mut **open).await.map_err(failed)?.rows_affected();
                events = rest;
            }
        }
        Ok(new)
    }
}

fn text(rows: usize) -> String {
    let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows].join(", ");
    format!(
        "INSERT INTO messages \
         (conversation_id, seq, position, created_ms, message_id, body, event, sender_id, key, data) \
         VALUES {rows} ON CONFLICT DO NOTHING"
    )
}

type Insert<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind<'q>(insert: Insert<'q>, event: &Event<'q>) -> Insert<'q> {
    insert
        .bind(event.conversation)
        .bind(columns::to_column(event.seq))
        .bind(event.position.to_column())
        .bind(columns::to_column(event.created_ms))
        .bind(event.message_id)
        .bind(event.body.0.to_vec())
        .bind(event.name)
        .bind(event.sender)
        .bind(event.key)
        .bind(event.data)
}
