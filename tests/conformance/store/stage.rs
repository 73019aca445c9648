//! Where a case plays: a fresh, empty store, whichever database it is in.

use std::{ops::Deref, path::PathBuf, sync::Arc};

use everpost_core::store::{Store, postgres::PostgresStore, sqlite::SqliteStore};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::harness::postgres::PostgresServer;

/// A store of one test.
pub(crate) struct Stage {
    store: Arc<dyn Store>,
    place: Place,
}

enum Place {
    Postgres(SecretString),
    Sqlite(TempDir),
}

impl Stage {
    /// A database of its own on the shared server.
    pub(crate) async fn postgres() -> Self {
        Self::open(Place::Postgres(PostgresServer::shared().await.database().await)).await
    }

    /// A file of its own.
    pub(crate) async fn sqlite() -> Self {
        Self::open(Place::Sqlite(tempfile::tempdir().expect("a temporary folder"))).await
    }

    /// The same data, as the next process would find it.
    pub(crate) async fn reopen(self) -> Self {
        drop(self.store);
        Self::open(self.place).await
    }

    /// The store, for somebody who keeps it.
    pub(crate) fn shared(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// From now on the database takes no row in which a column has this text.
    pub(crate) async fn refuse(&self, column: &str, text: &str) {
        match &self.place {
            Place::Postgres(_) => {
                let check = format!("CHECK ({column} NOT LIKE '%{text}%') NOT VALID");
                self.execute(format!("ALTER TABLE messages ADD CONSTRAINT refused {check}")).await;
            }
            Place::Sqlite(_) => {
                for event in ["INSERT", "UPDATE"] {
                    let when = format!("BEFORE {event} ON messages WHEN NEW.{column} LIKE '%{text}%'");
                    let body = "BEGIN SELECT RAISE(ABORT, 'refused'); END";
                    self.execute(format!("CREATE TRIGGER refused_{event} {when} {body}")).await;
                }
            }
        }
    }

    /// Takes them again.
    pub(crate) async fn forgive(&self) {
        match &self.place {
            Place::Postgres(_) => self.execute("ALTER TABLE messages DROP CONSTRAINT refused".to_owned()).await,
            Place::Sqlite(_) => {
                self.execute("DROP TRIGGER refused_INSERT; DROP TRIGGER refused_UPDATE".to_owned()).await;
            }
        }
    }

    async fn execute(&self, statement: String) {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        match &self.place {
            Place::Postgres(url) => {
                let mut connection = PgConnection::connect(url.expose_secret()).await.expect("Postgres runs");
                statement.execute(&mut connection).await.expect("the owner may");
            }
            Place::Sqlite(folder) => {
                let url = format!("sqlite://{}", file(folder).display());
                let mut connection = SqliteConnection::connect(&url).await.expect("the file opens");
                statement.execute(&mut connection).await.expect("the owner may");
            }
        }
    }

    async fn open(place: Place) -> Self {
        let store: Arc<dyn Store> = match &place {
            Place::Postgres(url) => Arc::new(PostgresStore::connect(url).await.expect("Postgres runs")),
            Place::Sqlite(folder) => Arc::new(SqliteStore::open(&file(folder)).await.expect("the file opens")),
        };
        Self { store, place }
    }
}

impl Deref for Stage {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("everpost.db")
}
