//! `everpost doctor`: is everything a promise rests on as it should be?

use std::process::ExitCode;

use everpost_core::{
    log::{redis::RedisLog, redis::RedisLogConfig},
    store::{postgres::PostgresStore, sqlite::SqliteStore},
};
use secrecy::SecretString;

use super::{explain, flags::Flags};
use crate::{config::EngineSettings, gateway::jwks::JwksSource, open_files};

/// One thing looked at: fine, or what to change.
struct Finding {
    subject: &'static str,
    fine: bool,
    words: String,
}

impl Finding {
    fn fine(subject: &'static str, words: impl Into<String>) -> Self {
        Self { subject, fine: true, words: words.into() }
    }

    fn wrong(subject: &'static str, words: impl Into<String>) -> Self {
        Self { subject, fine: false, words: words.into() }
    }
}

pub(super) async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let settings = flags.settings()?;
    let mut findings = match settings.engine()? {
        EngineSettings::Embedded { data_dir, .. } => sqlite(&data_dir.join("store.db")).await,
        EngineSettings::Distributed { log, database_url } => {
            let mut findings = redis(&log).await;
            findings.extend(postgres(&database_url).await);
            findings
        }
    };
    if let Some(source) = settings.jwks()? {
        findings.push(jwks(&source).await);
    }
    findings.push(limits(settings.limits().max_connections));
    for Finding { subject, fine, words } in &findings {
        println!("{} {subject:<10} {words}", if *fine { "ok  " } else { "FIX " });
    }
    let sound = findings.iter().all(|finding| finding.fine);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn redis(config: &RedisLogConfig) -> Vec<Finding> {
    let settings = match RedisLog::settings(&config.url).await {
        Ok(settings) => settings,
        Err(error) => return vec![Finding::wrong("redis", explain(&error.into()))],
    };
    let mut faults = settings.faults_for(config.durability);
    if settings.maxmemory == 0 {
        faults.push("maxmemory is not set: Redis would take all memory; set it below what the machine has".to_owned());
    }
    if faults.is_empty() {
        let words = format!("{}, appendfsync {}, {}", settings.version, settings.appendfsync, settings.eviction);
        return vec![Finding::fine("redis", words)];
    }
    faults.into_iter().map(|fault| Finding::wrong("redis", fault)).collect()
}

async fn postgres(url: &SecretString) -> Vec<Finding> {
    let report = match PostgresStore::connect(url).await {
        Ok(store) => store.check().await,
        Err(error) => Err(error),
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![Finding::wrong("database", explain(&error.into()))],
    };
    let mut findings = Vec::new();
    if !report.fsync || report.synchronous_commit == "off" {
        findings
            .push(Finding::wrong("database", "a crash may lose stored events: set fsync and synchronous_commit on"));
    }
    if !report.migrated {
        findings.push(Finding::wrong("database", "the schema is not current: run `everpost migrate`"));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("database", format!("Postgres {}, schema current", report.version)));
    }
    findings
}

async fn sqlite(path: &std::path::Path) -> Vec<Finding> {
    if !path.exists() {
        return vec![Finding::fine("database", "no data yet; `everpost` creates it")];
    }
    let report = match SqliteStore::open(path).await {
        Ok(store) => store.check().await,
        Err(error) => Err(error),
    };
    match report {
        Ok(report) => {
            vec![Finding::fine("database", format!("SQLite {}, {} journal", report.version, report.journal_mode))]
        }
        Err(error) => vec![Finding::wrong("database", explain(&error.into()))],
    }
}

/// Whether the public keys of tokens can be had from here.
async fn jwks(source: &JwksSource) -> Finding {
    match source.look().await {
        Ok(keys) => Finding::fine("jwks", format!("{keys} keys that tokens can be signed with")),
        Err(error) => Finding::wrong("jwks", explain(&error.into())),
    }
}

/// Whether the hard limit of open files, to which a gateway raises its own, is enough for its connections.
fn limits(max_connections: usize) -> Finding {
    match open_files::shortage(max_connections) {
        Some(shortage) => Finding::wrong("limits", shortage),
        None => Finding::fine("limits", format!("enough open files for {max_connections} connections")),
    }
}
