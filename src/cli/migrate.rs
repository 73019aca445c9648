//! `everpost migrate`: the database schema, up to date.

use anyhow::Context;
use everpost_core::store::{postgres::PostgresStore, sqlite::SqliteStore};

use super::flags::Flags;
use crate::config::EngineSettings;

pub(super) async fn run(flags: &Flags) -> anyhow::Result<()> {
    match flags.settings()?.engine()? {
        EngineSettings::Embedded { data_dir, .. } => {
            std::fs::create_dir_all(&data_dir)?;
            let file = data_dir.join("store.db");
            SqliteStore::open(&file).await.with_context(|| format!("migrating {}", file.display()))?;
        }
        EngineSettings::Distributed { database_url, .. } => {
            let store = PostgresStore::connect(&database_url).await.context("connecting to Postgres")?;
            store.migrate().await.context("migrating the database")?;
        }
    }
    println!("the database schema is up to date");
    Ok(())
}
