//! What a scenario plays on: two gateways and two workers with load on them, and ways between them that can break.

use std::{
    fs,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::PathBuf,
    time::{Duration, Instant},
};

use secrecy::ExposeSecret;
use tokio::task::JoinError;
use url::Url;

use super::{
    harness::{
        postgres::PostgresServer,
        process::{Cluster, Everpost, Ways},
        proxy::{Fault, Proxy},
        redis::RedisServer,
        witness::{Load, Witness, publisher::PAYLOAD, violation::Violation},
    },
    scenario::Outcome,
    sentry::Sentry,
};

/// Clients and gateways find out soon that the other side is gone.
pub(crate) const SETTINGS: [(&str, &str); 3] =
    [("EVERPOST_LOG", "info"), ("EVERPOST_HEARTBEAT", "2s"), ("EVERPOST_HEARTBEAT_TIMEOUT", "6s")];
/// What passes before a fault, so that it meets everything at work.
const WARM_UP: usize = 600;
/// What nobody may exceed in any scenario.
const MAX_MEMORY_KIB: u64 = 512 * 1_024;
/// Warnings and errors a second of one process: one for each of 16 partitions.
const MAX_COMPLAINTS: u64 = 16;

/// How a stage is built.
pub(crate) struct Setup {
    pub(crate) load: Load,
    /// Whether Postgres may be hurt, or is the one all scenarios share.
    pub(crate) own_postgres: bool,
    /// Whether everything passes through proxies.
    pub(crate) proxied: bool,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) postgres: Option<PostgresServer>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

impl Default for Setup {
    fn default() -> Self {
        let environment = SETTINGS.to_vec();
        Self { load: Load::WIDE, own_postgres: false, proxied: false, redis: None, postgres: None, environment }
    }
}

/// The proxies, one for each gateway or worker; none where nothing can break.
#[derive(Default)]
pub(crate) struct Lines {
    pub(crate) clients: Vec<Proxy>,
    /// From gateways to Redis.
    pub(crate) gateways: Vec<Proxy>,
    /// From workers to Redis.
    pub(crate) workers: Vec<Proxy>,
    /// From everybody to Postgres, gateways first.
    pub(crate) store: Vec<Proxy>,
}

impl Lines {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.clients.iter().chain(&self.gateways).chain(&self.workers).chain(&self.store)
    }

    pub(crate) fn heal(&self) {
        self.all().for_each(Proxy::heal);
    }
}

/// Begins a fault on some ways.
pub(crate) fn suffer(proxies: &[Proxy], fault: Fault) {
    proxies.iter().for_each(|proxy| proxy.suffer(fault));
}

pub(crate) struct Stage {
    pub(crate) cluster: Kept,
    /// Present if it may be hurt.
    pub(crate) postgres: Option<PostgresServer>,
    pub(crate) lines: Lines,
    pub(crate) witness: Witness,
    pub(crate) outcome: Outcome,
    sentry: Sentry,
    began: Instant,
}

impl Stage {
    /// Builds it, starts the load and waits until everything is at work.
    pub(crate) async fn start(setup: Setup) -> Self {
        let postgres = match setup.postgres {
            Some(postgres) => Some(postgres),
            None if setup.own_postgres => Some(PostgresServer::start().await),
            None => None,
        };
        let database = match &postgres {
            Some(postgres) => postgres.database().await,
            None => PostgresServer::shared().await.database().await,
        };
        let redis = match setup.redis {
            Some(redis) => redis,
            None => RedisServer::start().await,
        };
        let database = database.expose_secret().to_owned();
        let mut lines = Lines::default();
        let ways = ways(&redis, &database, setup.proxied, &mut lines).await;
        let watched = (!setup.load.renumbers).then(|| redis.url());
        let sentry = Sentry::post(database.clone(), watched);
        let cluster = Kept(Cluster::wired(redis, database, &ways, &setup.environment).await);
        let mut addresses: Vec<SocketAddr> = cluster.gateways.iter().map(Everpost::address).collect();
        if setup.proxied {
            for address in &mut addresses {
                lines.clients.push(Proxy::start(*address).await);
                *address = lines.clients.last().expect("it was pushed").address();
            }
        }
        let witness = Witness::start_with(&addresses, setup.load).await;
        witness.more(WARM_UP).await;
        Self { cluster, postgres, lines, witness, outcome: Outcome::default(), sentry, began: Instant::now() }
    }

    /// The same for most scenarios.
    pub(crate) async fn plain() -> Self {
        Self::start(Setup::default()).await
    }

    /// With proxies everywhere.
    pub(crate) async fn proxied() -> Self {
        Self::start(Setup { proxied: true, ..Setup::default() }).await
    }

    /// Counts a round, and waits until every client has got something written after that moment stored and delivered.
    pub(crate) async fn recovers(&mut self, moment: Instant, limit: Duration) {
        self.outcome.rounds += 1;
        let taken = self.witness.recovers(moment, limit * 3).await;
        let what = format!("recovery {}", self.witness.lacking(moment));
        self.outcome.bound(what.trim_end(), taken, limit);
        self.outcome.recoveries.extend(taken);
    }

    /// Waits until nobody can wait any more, compares, and tells what came of it.
    pub(crate) async fn finish(mut self) -> Outcome {
        self.outcome.events = self.witness.sent();
        let mut outcome = std::mem::take(&mut self.outcome);
        let (transcript, violations) = self.witness.finish(&self.cluster.database).await;
        outcome.events = transcript.sent.len();
        outcome.violations.extend(violations);
        outcome.violations.extend(self.sentry.relieve());
        for process in self.cluster.processes() {
            examine(&mut outcome, process, self.began.elapsed());
        }
        judge(&outcome, self.cluster.processes());
        outcome
    }
}

/// What must be so of every process in every scenario.
pub(crate) fn examine(outcome: &mut Outcome, process: &Everpost, ran: Duration) {
    let log = process.log();
    if let Some(panic) = log.lines().find(|line| line.contains("panicked at")) {
        outcome.violations.push(Violation::Broken { what: panic.to_owned() });
    }
    outcome.expect("no message shows in a log", !log.contains(PAYLOAD));
    let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR ")).count() as u64;
    outcome.at_most("warnings and errors of one process", complaints, MAX_COMPLAINTS * ran.as_secs().max(1));
    if process.runs() {
        outcome.at_most("memory in KiB", peak_memory(process.pid()), MAX_MEMORY_KIB);
    }
}

/// Keeps the logs, gateways first, if something was wrong.
pub(crate) fn judge<'a>(outcome: &Outcome, processes: impl Iterator<Item = &'a Everpost>) {
    if !outcome.violations.is_empty() {
        keep_logs(processes);
    }
}

/// The most memory a process has had.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

/// The ways of two gateways and two workers.
async fn ways(redis: &RedisServer, database: &str, proxied: bool, lines: &mut Lines) -> [Ways; 4] {
    let direct = Ways { log: redis.url(), store: database.to_owned() };
    let mut ways = [direct.clone(), direct.clone(), direct.clone(), direct];
    for (at, way) in ways.iter_mut().enumerate().filter(|_| proxied) {
        let log = detour(&mut way.log).await;
        if at < 2 { &mut lines.gateways } else { &mut lines.workers }.push(log);
        lines.store.push(detour(&mut way.store).await);
    }
    ways
}

/// Leads a URL through a new proxy.
async fn detour(url: &mut String) -> Proxy {
    let mut parsed = Url::parse(url).expect("it was a URL");
    let target: SocketAddr = ([127, 0, 0, 1], parsed.port().expect("it has a port")).into();
    let proxy = Proxy::start(target).await;
    parsed.set_port(Some(proxy.address().port())).expect("it takes a port");
    *url = parsed.to_string();
    proxy
}

/// Where logs of broken scenarios are kept.
pub(crate) fn kept_logs() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults")
}

fn keep_logs<'a>(processes: impl Iterator<Item = &'a Everpost>) {
    let folder = kept_logs().join(uuid::Uuid::now_v7().to_string());
    fs::create_dir_all(&folder).expect("the folder of the build is writable");
    for (at, process) in processes.enumerate() {
        fs::write(folder.join(format!("{at}.log")), process.log()).expect("the folder is writable");
    }
}

/// A cluster whose logs are kept when the scenario breaks.
pub(crate) struct Kept(Cluster);

impl Deref for Kept {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_logs(self.0.processes());
        }
    }
}

/// What a task that panicked said.
pub(crate) fn message_of(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
