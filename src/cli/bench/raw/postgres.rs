//! The database of the deployment: how far it is, and how fast it takes rows by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::PAYLOAD;

/// Rows a statement.
const BATCH: i64 = 1_000;
/// Statements under way at once.
const WRITERS: usize = 2;
/// Conversations the rows spread over, as the publishers' messages do.
const CONVERSATIONS: i64 = 16;

const COLUMNS: &str = "conversation_id text, seq bigint, position bigint, message_id uuid, event text, sender_id text, \
                       key text, body bytea, created_ms bigint, data text";

/// A connection to the database the servers persist to.
pub(crate) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(WRITERS as u32 + 1).connect(url).await;
        Ok(Self { pool: pool.context("connecting to the database")? })
    }

    /// How many messages of these conversations are stored, by their highest numbers: an index look-up each.
    pub(crate) async fn reached(&self, conversations: &[String]) -> Result<u64> {
        let reached: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(last), 0)::bigint FROM unnest($1::text[]) AS wanted (id), \
             LATERAL (SELECT max(seq) AS last FROM messages WHERE conversation_id = wanted.id) AS found",
        )
        .bind(conversations)
        .fetch_one(&self.pool)
        .await?;
        Ok(reached as u64)
    }

    /// How many messages of these conversations there really are.
    pub(crate) async fn rows(&self, conversations: &[String]) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM messages WHERE conversation_id = ANY($1)")
            .bind(conversations)
            .fetch_one(&self.pool)
            .await?;
        Ok(count as u64)
    }

    /// The length of `body` and `data` in a stored message, so that the reference writes as much;
    /// without any, the length of its text.
    pub(crate) async fn sizes(&self, conversation: &str) -> Result<(usize, usize)> {
        let sizes: Option<(i32, i32)> = sqlx::query_as(
            "SELECT coalesce(octet_length(body), 0), coalesce(octet_length(data), 0) \
             FROM messages WHERE conversation_id = $1 LIMIT 1",
        )
        .bind(conversation)
        .fetch_optional(&self.pool)
        .await?;
        Ok(sizes.map_or((PAYLOAD.len(), 0), |(body, data)| (body as usize, data as usize)))
    }

    /// Rows a second into a scratch table of the same shape, which is dropped afterwards.
    pub(crate) async fn inserts(&self, sizes: (usize, usize), seconds: u64) -> Result<f64> {
        let table = format!("everpost_bench_{}", Uuid::new_v4().simple());
        self.execute(format!("CREATE TABLE {table} ({COLUMNS}, PRIMARY KEY (conversation_id, seq))")).await?;
        let rate = self.measure(&table, sizes, seconds).await;
        self.execute(format!("DROP TABLE {table}")).await?;
        rate
    }

    async fn measure(&self, table: &str, sizes: (usize, usize), seconds: u64) -> Result<f64> {
        let unique = format!("CREATE UNIQUE INDEX ON {table} (conversation_id, sender_id, key) WHERE key IS NOT NULL");
        self.execute(unique).await?;
        let started = Instant::now();
        let until = started + Duration::from_secs(seconds);
        let writers = (0..WRITERS).map(|writer| self.write(table, writer, sizes, until));
        let rows = futures_util::future::try_join_all(writers).await?.into_iter().sum::<u64>();
        Ok(rows as f64 / started.elapsed().as_secs_f64())
    }

    async fn write(&self, table: &str, writer: usize, sizes: (usize, usize), until: Instant) -> Result<u64> {
        let insert = format!(
            "INSERT INTO {table} SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[], \
             $6::text[], $7::text[], $8::bytea[], $9::bigint[], $10::text[]) ON CONFLICT DO NOTHING"
        );
        let mut rows = 0;
        while Instant::now() < until {
            rows += self.write_batch(&insert, writer, rows as i64, sizes).await?;
        }
        Ok(rows)
    }

    /// `first` counts the rows of this writer, so that no two of its rows have the same key.
    async fn write_batch(&self, insert: &str, writer: usize, first: i64, sizes: (usize, usize)) -> Result<u64> {
        let numbers = || first..first + BATCH;
        let texts = |text: &dyn Fn(i64) -> String| numbers().map(text).collect::<Vec<_>>();
        let inserted = sqlx::query(AssertSqlSafe(insert))
            .bind(texts(&|number| format!("bench-{writer}-{}", number % CONVERSATIONS)))
            .bind(numbers().map(|number| number / CONVERSATIONS).collect::<Vec<_>>())
            .bind(numbers().collect::<Vec<_>>())
            .bind(numbers().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
            .bind(texts(&|_| "new_message".to_owned()))
            .bind(texts(&|number| format!("bench-{writer}-{}-0", number % CONVERSATIONS)))
            .bind(texts(&|_| Uuid::now_v7().to_string()))
            .bind(numbers().map(|_| vec![b'x'; sizes.0]).collect::<Vec<_>>())
            .bind(numbers().collect::<Vec<_>>())
            .bind(texts(&|_| "x".repeat(sizes.1)))
            .execute(&self.pool)
            .await?;
        Ok(inserted.rows_affected())
    }

    async fn execute(&self, sql: String) -> Result<()> {
        sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await?;
        Ok(())
    }
}
