//! The store in Postgres.

mod conversations;
mod dead_letters;
mod error;
mod generations;
mod jobs;
mod marks;
mod messages;
mod overviews;
mod presence;
mod revocations;
mod tenures;

use std::{collections::HashSet, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Row,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use self::error::{failed, failed_migration};
use super::StoreError;

/// How many connections one process opens at most.
const MAX_CONNECTIONS: u32 = 16;
/// How long a caller waits for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection is replaced after this long, so that a moved database is found and memory is given back.
const MAX_LIFETIME: Duration = Duration::from_secs(1_800);
/// No statement of ours takes this long on a healthy server, and no lock is held as long; a transaction nobody goes on
/// with is one whose process is gone, and it holds the partition's fence. Whatever the database's default is, a
/// statement must see what others committed before it: a conflict is to be looked at, not to fail.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; SET statement_timeout = '15s'; \
     SET lock_timeout = '5s'; SET idle_in_transaction_session_timeout = '10s'";

/// The schema. Newer migrations than these are none of our business: the next version made them.
fn migrations() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/postgres");
    migrator.set_ignore_missing(true);
    migrator
}

/// The store in a Postgres database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
}

/// What matters about a server before relying on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresReport {
    /// Its version as it says it.
    pub version: String,
    /// What a commit waits for; `off` would lose stored events in a crash of the server.
    pub synchronous_commit: String,
    /// Whether it writes to stable storage at all.
    pub fsync: bool,
    /// Whether every migration this code knows was applied.
    pub migrated: bool,
}

impl PostgresStore {
    /// Connects to `postgres://user:password@host/database`. Nothing is migrated.
    pub async fn connect(url: &SecretString) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose_secret()).map_err(failed)?;
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .max_lifetime(MAX_LIFETIME)
            .test_before_acquire(true)
            .after_connect(|connection, _| {
                Box::pin(async move { sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop) })
            })
            .connect_with(options.application_name("everpost").disable_statement_logging());
        Ok(Self { pool: pool.await.map_err(failed)? })
    }

    /// Brings the schema up to date. Several processes may try at once; one does it, the others wait.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // A connection of its own: an index may take longer to build than any limit of the pool allows.
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await.map_err(failed)?;
        migrations().run(&mut connection).await.map_err(failed_migration)?;
        connection.close().await.map_err(failed)
    }

    /// Looks at the server's settings and at the schema.
    pub async fn check(&self) -> Result<PostgresReport, StoreError> {
        let settings = "SELECT current_setting('server_version'), current_setting('synchronous_commit'), \
             current_setting('fsync') = 'on'";
        let row = sqlx::query(settings).fetch_one(&self.pool).await.map_err(failed)?;
        Ok(PostgresReport {
            version: row.try_get(0).map_err(failed)?,
            synchronous_commit: row.try_get(1).map_err(failed)?,
            fsync: row.try_get(2).map_err(failed)?,
            migrated: self.is_migrated().await?,
        })
    }

    /// Gives every connection back. What is under way is finished, what comes later is [`StoreError::Closing`].
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn is_migrated(&self) -> Result<bool, StoreError> {
        let known = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        if !sqlx::query_scalar::<_, bool>(known).fetch_one(&self.pool).await.map_err(failed)? {
            return Ok(false);
        }
        let applied = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(&self.pool);
        let applied: HashSet<i64> = applied.await.map_err(failed)?.into_iter().collect();
        Ok(migrations().iter().all(|migration| applied.contains(&migration.version)))
    }
}
