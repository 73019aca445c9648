//! The real executable in real processes, to be signalled, killed and started again with the same port and folder.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use secrecy::ExposeSecret;

use super::{
    disk::Disk,
    eventually::within,
    postgres::PostgresServer,
    redis::RedisServer,
    server::{self, Launch, Server},
};

/// What every process of a test signs tokens with. It must never be seen in a log.
pub(crate) const TOKEN_SECRET: &str = "canary-token-secret-0123456789abcdef";
/// What backends of a test authenticate with. It must never be seen in a log.
pub(crate) const API_KEY: &str = "canary-api-key-0123456789abcdefghijk";
/// Longer than any honest start or drain takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// Many clients of a test come from one address, and all of them come back at once.
const ROOM: [&str; 4] = ["--max-connections-per-address", "1000", "--max-connections-per-user", "100"];

const SERVE: [&str; 3] = ["serve", "--admin-listen", "127.0.0.1:0"];

/// One process of ours with a folder of its own, in which it also runs.
pub(crate) struct Everpost {
    server: Option<Server>,
    folder: PathBuf,
    port: u16,
    command: Vec<String>,
    /// How much of the log was written before the present start.
    read: usize,
}

impl Everpost {
    /// Starts a command with the secrets of the tests; one that serves clients listens on [`Everpost::address`].
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--log", "debug"]).collect();
        Self::start_with(&[], &arguments).await
    }

    /// The same with more in the environment.
    pub(crate) async fn start_with(environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let secrets = [("EVERPOST_TOKEN_SECRET", TOKEN_SECRET), ("EVERPOST_API_KEY", API_KEY)];
        let environment: Vec<_> = secrets.iter().chain(environment).copied().collect();
        Self::start_in(&environment, arguments).await
    }

    /// Starts a command with these arguments and nothing in the environment but what is given.
    pub(crate) async fn start_in(environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        loop {
            let mut process = Self::prepare(environment, arguments);
            process.launch();
            if process.is_up().await {
                return process;
            }
        }
    }

    fn prepare(environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let (folder, port) = (server::folder("everpost-process"), server::free_port());
        let listen = format!("127.0.0.1:{port}");
        let variables = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let words = [executable()].into_iter().chain(arguments.iter().copied()).chain(["--listen", &listen]);
        let start = ["env", "-i"].map(str::to_owned).into_iter();
        let command = start.chain(variables).chain(words.map(str::to_owned)).collect();
        Self { server: None, folder, port, command, read: 0 }
    }

    fn launch(&mut self) {
        self.read = self.log().len();
        let launch = Launch { folder: &self.folder, signal: "KILL", prefix: &[], command: self.command.clone() };
        self.server = Some(Server::start(launch));
    }

    /// Waits until it says that it starts; `false` if somebody else took its port.
    async fn is_up(&self) -> bool {
        within(PATIENCE, &format!("{} starts", self.command.join(" ")), async || {
            if self.log()[self.read..].contains("everpost is starting") {
                return Some(true);
            }
            assert!(!self.running().has_ended() || self.log().contains("cannot listen"), "{}", self.log());
            self.running().has_ended().then_some(false)
        })
        .await
    }

    /// Waits until it can serve clients.
    pub(crate) async fn ready(&self) {
        let url = format!("http://{}/readyz", self.address());
        within(PATIENCE, "the gateway is ready", async || {
            reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The folder it runs in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything it wrote, since its first start.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("server.log")).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written these words since its last start.
    pub(crate) async fn says(&self, words: &str) {
        within(PATIENCE, words, async || self.log()[self.read..].contains(words)).await;
    }

    /// Waits until it writes these words once more.
    pub(crate) async fn says_again(&self, words: &str) {
        let read = self.log().len();
        within(PATIENCE, words, async || self.log()[read..].contains(words)).await;
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        self.running().signal(name);
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Whether it is there, and has not ended by itself.
    pub(crate) fn runs(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.has_ended())
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.server.take().expect("it was killed before").kill(); // a crash has no exit code worth knowing
    }

    /// Starts it again, with the same command, port and folder; kills it first if it still runs.
    pub(crate) async fn restart(&mut self) {
        let _ = self.server.take().map(Server::kill);
        self.launch();
        assert!(self.is_up().await, "somebody took port {} meanwhile", self.port);
    }

    /// Waits until it has ended by itself, and tells with which code.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        within(PATIENCE, "it ends", async || self.running().has_ended()).await;
        self.server.take().and_then(Server::kill)
    }

    fn running(&self) -> &Server {
        self.server.as_ref().expect("it was killed")
    }
}

impl Drop for Everpost {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = fs::remove_dir_all(&self.folder); // gone already, unless the process was killed before
    }
}

/// A deployment of two gateways and two workers around a Redis of its own.
pub(crate) struct Cluster {
    pub(crate) redis: RedisServer,
    pub(crate) database: String,
    pub(crate) gateways: [Everpost; 2],
    pub(crate) workers: [Everpost; 2],
}

/// Where a process finds the log and the store.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) log: String,
    pub(crate) store: String,
}

impl Cluster {
    /// Starts one on a new database of that Postgres and waits until both gateways serve.
    pub(crate) async fn start(postgres: &PostgresServer) -> Self {
        let redis = RedisServer::start().await;
        let database = postgres.database().await.expose_secret().to_owned();
        let ways = Ways { log: redis.url(), store: database.clone() };
        let ways = [ways.clone(), ways.clone(), ways.clone(), ways];
        Self::wired(redis, database, &ways, &[("EVERPOST_LOG", "debug")]).await
    }

    /// Starts one whose gateways and workers, in this order, take these ways.
    pub(crate) async fn wired(
        redis: RedisServer,
        database: String,
        ways: &[Ways; 4],
        environment: &[(&str, &str)],
    ) -> Self {
        let start = async |command: &[&str], ways: &Ways| {
            let engine = ["--redis-url", &ways.log, "--database-url", &ways.store];
            let arguments: Vec<&str> = command.iter().copied().chain(engine).collect();
            Everpost::start_with(environment, &arguments).await
        };
        let gateway: Vec<&str> = ["gateway"].into_iter().chain(ROOM).collect();
        let worker = ["worker", "--roles", "persist,fanout"];
        let (a, b, c, d) = tokio::join!(
            start(&gateway, &ways[0]),
            start(&gateway, &ways[1]),
            start(&worker, &ways[2]),
            start(&worker, &ways[3])
        );
        a.ready().await;
        b.ready().await;
        Self { redis, database, gateways: [a, b], workers: [c, d] }
    }

    /// Every process of ours.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Everpost> {
        self.gateways.iter().chain(&self.workers)
    }
}

/// Starts `everpost serve` on the embedded engine and waits until it serves.
pub(crate) async fn serve() -> Everpost {
    serve_with(&[("EVERPOST_LOG", "debug")]).await
}

/// The same with settings from the environment.
pub(crate) async fn serve_with(environment: &[(&str, &str)]) -> Everpost {
    let arguments: Vec<&str> = SERVE.into_iter().chain(ROOM).collect();
    let process = Everpost::start_with(environment, &arguments).await;
    process.ready().await;
    process
}

/// The same on a disk that can be told to fail.
pub(crate) async fn serve_on(disk: &Disk) -> Everpost {
    let disk = disk.environment();
    let talkative = [("EVERPOST_LOG", "debug")].into_iter();
    let environment: Vec<_> = talkative.chain(disk.iter().map(|(name, value)| (*name, &**value))).collect();
    serve_with(&environment).await
}

/// Where a process on the embedded engine has its store.
pub(crate) fn store_of(process: &Everpost) -> String {
    format!("sqlite://{}/everpost-data/store.db", process.folder().display())
}

/// Runs a command to its end in a folder, with nothing in the environment but what is given.
pub(crate) fn run(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(executable());
    command.args(arguments).current_dir(folder).env_clear().envs(environment.iter().copied());
    command.output().expect("the executable starts")
}

/// The program under test.
pub(crate) fn executable() -> &'static str {
    env!("CARGO_BIN_EXE_everpost")
}
