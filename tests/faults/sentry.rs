//! Watches what only moves forward: tokens and positions, in Redis and in the database.
//!
//! It looks past every proxy. What it cannot read at a moment tells nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use sqlx::{Connection, PgConnection};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::harness::witness::violation::Violation;

const EVERY: Duration = Duration::from_millis(200);
const ROLES: [&str; 2] = ["persist", "fanout"];
pub(crate) const PARTITIONS: u16 = 16;

/// Who owns a partition for a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) name: Option<String>,
    pub(crate) token: u64,
}

/// All leases of all roles.
pub(crate) type Owners = HashMap<(&'static str, u16), Owner>;

/// A connection past every proxy.
pub(crate) async fn connect(url: &str) -> Option<MultiplexedConnection> {
    let client = redis::Client::open(url).ok()?;
    timeout(Duration::from_secs(1), client.get_multiplexed_async_connection()).await.ok()?.ok()
}

/// Who owns what.
pub(crate) async fn owners(redis: &mut MultiplexedConnection) -> Option<Owners> {
    let all = || ROLES.into_iter().flat_map(|role| (0..PARTITIONS).map(move |partition| (role, partition)));
    let mut read = redis::pipe();
    for (role, partition) in all() {
        read.cmd("HMGET").arg(format!("everpost:{{{partition}}}:lease:{role}")).arg(&["owner", "token"]);
    }
    let leases: Vec<(Option<String>, Option<u64>)> =
        timeout(Duration::from_secs(1), read.query_async(redis)).await.ok()?.ok()?;
    let owner = |(name, token): (_, Option<u64>)| Owner { name, token: token.unwrap_or_default() };
    Some(all().zip(leases.into_iter().map(owner)).collect())
}

/// How far something has come, by its name.
type Marks = HashMap<String, u64>;

/// What one look at the database finds.
async fn stored(database: &str) -> Option<Marks> {
    let reading = async {
        let mut connection = PgConnection::connect(database).await.ok()?;
        let rows: Vec<(String, i32, i64, i64)> =
            sqlx::query_as("SELECT role, partition, token, position FROM progress")
                .fetch_all(&mut connection)
                .await
                .ok()?;
        Some(rows)
    };
    let rows = timeout(Duration::from_secs(1), reading).await.ok()??;
    let marks = rows.into_iter().flat_map(|(role, partition, token, position)| {
        let of = move |what: &str| format!("{what} of {role} {partition} in the database");
        [(of("token"), token.max(0) as u64), (of("position"), position.max(0) as u64)]
    });
    Some(marks.collect())
}

/// What one look at Redis finds.
async fn logged(redis: &mut MultiplexedConnection) -> Option<Marks> {
    let owners = owners(redis).await?;
    let tokens =
        owners.into_iter().map(|((role, partition), owner)| (format!("token of {role} {partition}"), owner.token));
    let mut marks: Marks = tokens.collect();
    let mut read = redis::pipe();
    for partition in 0..PARTITIONS {
        read.cmd("HMGET").arg(format!("everpost:{{{partition}}}:meta")).arg(&["last", "at:persist", "at:fanout"]);
    }
    let metas: Vec<[Option<String>; 3]> = timeout(Duration::from_secs(1), read.query_async(redis)).await.ok()?.ok()?;
    for (partition, meta) in metas.into_iter().enumerate() {
        for (name, value) in ["last", "at:persist", "at:fanout"].into_iter().zip(meta) {
            let offset = value.as_deref().and_then(|value| value.rsplit('-').next()?.parse().ok());
            marks.extend(offset.map(|offset| (format!("{name} of {partition}"), offset)));
        }
    }
    Some(marks)
}

#[derive(Default)]
struct Findings {
    marks: Marks,
    violations: Vec<Violation>,
}

impl Findings {
    fn compare(&mut self, marks: Marks) {
        for (name, value) in marks {
            let before = self.marks.entry(name.clone()).or_default();
            if value < *before {
                let what = format!("{name} went back from {before} to {value}");
                self.violations.push(Violation::Fence { what });
            }
            *before = value;
        }
    }
}

/// A watch under way.
pub(crate) struct Sentry {
    findings: Arc<Mutex<Findings>>,
    watching: JoinHandle<()>,
}

impl Sentry {
    /// Watches the database, and Redis unless its log may be lost.
    pub(crate) fn post(database: String, redis: Option<String>) -> Self {
        let findings = Arc::new(Mutex::new(Findings::default()));
        let found = findings.clone();
        let watching = tokio::spawn(async move {
            let mut connection = None;
            loop {
                if let Some(marks) = stored(&database).await {
                    found.lock().expect("nothing panics in here").compare(marks);
                }
                if let Some(url) = &redis {
                    if connection.is_none() {
                        connection = connect(url).await;
                    }
                    match async { logged(connection.as_mut()?).await }.await {
                        Some(marks) => found.lock().expect("nothing panics in here").compare(marks),
                        None => connection = None,
                    }
                }
                sleep(EVERY).await;
            }
        });
        Self { findings, watching }
    }

    /// Everything that went back.
    pub(crate) fn relieve(&self) -> Vec<Violation> {
        self.watching.abort();
        std::mem::take(&mut self.findings.lock().expect("nothing panics in here").violations)
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
