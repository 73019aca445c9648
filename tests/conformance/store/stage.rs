//! Where a case plays: a fresh, empty store, whichever database it is in.

use std::{ops::Deref, path::PathBuf};

use everpost_core::store::{Store, postgres::PostgresStore, sqlite::SqliteStore};
use secrecy::SecretString;
use tempfile::TempDir;

use crate::harness::postgres::PostgresServer;

/// A store of one test.
pub(crate) struct Stage {
    store: Box<dyn Store>,
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

    async fn open(place: Place) -> Self {
        let store: Box<dyn Store> = match &place {
            Place::Postgres(url) => Box::new(PostgresStore::connect(url).await.expect("Postgres runs")),
            Place::Sqlite(folder) => Box::new(SqliteStore::open(&file(folder)).await.expect("the file opens")),
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
