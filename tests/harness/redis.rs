//! Redis servers of one test each, as durable as production ones.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    eventually::{START, within},
    server::{self, Launch, Server},
};

/// What the service's user needs.
pub(crate) const USER_RULES: &str = "~everpost:* -@all +@read +@write +@connection +eval +evalsha +script|load +@transaction +time -@dangerous -function +info +config|get";

/// A Redis that belongs to one test.
pub(crate) struct RedisServer {
    server: Option<Server>,
    folder: PathBuf,
    port: u16,
    /// What its command begins with: an environment.
    prefix: Vec<String>,
}

impl RedisServer {
    /// Starts an empty one and waits until it answers.
    pub(crate) async fn start() -> Self {
        Self::start_in(|| server::folder("everpost-redis"), &[]).await
    }

    /// Starts an empty one in a folder, with words before its command.
    pub(crate) async fn start_in(folder: impl Fn() -> PathBuf, prefix: &[String]) -> Self {
        loop {
            let (folder, port) = (folder(), server::free_port());
            let mut redis = Self { server: None, folder, port, prefix: prefix.to_vec() };
            if redis.launch().await {
                return redis;
            }
        }
    }

    /// The folder its files are in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        self.server.as_ref().expect("it was killed").signal(name);
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.server.as_ref().is_none_or(Server::has_ended)
    }

    /// Asks it to write everything down and end, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        within(Duration::from_secs(20), "Redis ends", async || self.has_ended()).await;
        let _ = self.server.take().and_then(Server::kill); // it has ended in order
    }

    /// Gives it a command, past every proxy, and waits for the answer no longer than a moment.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let client = redis::Client::open(self.url()).expect("a valid address");
        let asking = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&patient()).await.ok()?;
            redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
        };
        tokio::time::timeout(Duration::from_secs(10), asking).await.ok()?
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("a valid address");
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient()).await.expect("it runs");
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query_async(&mut connection).await.expect("Redis obeys")
    }

    /// Changes a setting while it runs.
    pub(crate) async fn set(&self, setting: &str, value: &str) {
        self.run::<()>(&["CONFIG", "SET", setting, value]).await;
    }

    /// Makes a user who may do what the service needs and nothing else, as docs/security.md has it, and returns the
    /// address for it.
    pub(crate) async fn with_user(&self, password: &str) -> String {
        let password_rule = format!(">{password}");
        let mut rules = vec!["ACL", "SETUSER", "everpost", "on", &password_rule];
        rules.extend(USER_RULES.split(' '));
        self.run::<()>(&rules).await;
        self.url().replace("redis://", &format!("redis://everpost:{password}@"))
    }

    /// How many bytes it uses.
    pub(crate) async fn used_memory(&self) -> u64 {
        let info: String = self.run(&["INFO", "memory"]).await;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.expect("it is told").parse().expect("a number")
    }

    /// The process id of the running server.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().expect("it was killed").pid()
    }

    /// Lets it do something; the answer is of no interest.
    pub(crate) async fn obey(&self, words: &[&str]) {
        let client = redis::Client::open(self.url()).expect("a valid address");
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient()).await.expect("Redis runs");
        redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut connection).await.expect("Redis obeys");
    }

    /// Ends it with SIGKILL; what it had on disk stays.
    pub(crate) fn kill(&mut self) {
        self.server.take().expect("it was killed before").kill();
    }

    /// Starts it again on the same port, with what it had on disk; kills it first if it still runs.
    pub(crate) async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        assert!(self.launch().await, "somebody took port {} meanwhile", self.port);
    }

    /// Runs the server; `false` if the port went to somebody else.
    async fn launch(&mut self) -> bool {
        let launch = Launch { folder: &self.folder, signal: "KILL", prefix: &[], command: self.command() };
        let server = self.server.insert(Server::start(launch));
        let process = format!("process_id:{}\r\n", server.pid());
        let (url, folder) = (self.url(), &self.folder);
        within(START, "Redis answers", async || {
            let is_ours = info(&url).await.is_some_and(|info| info.contains(&process));
            if is_ours { Some(true) } else { server::lost_its_port(folder).then_some(false) }
        })
        .await
    }

    fn command(&self) -> Vec<String> {
        let redis = server::executable("redis-server", &[]);
        let (port, folder) = (self.port.to_string(), self.folder.to_str().expect("a plain name"));
        let place = [&*redis, "--port", &port, "--bind", "127.0.0.1", "--dir", folder];
        // Commands that only faults need.
        let debug = ["--enable-debug-command", "local"];
        let durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
        let whole = ["--maxmemory-policy", "noeviction"];
        let server = place.into_iter().chain(durable).chain(whole).chain(debug).map(str::to_owned);
        self.prefix.iter().cloned().chain(server).collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = fs::remove_dir_all(&self.folder); // gone already, unless the server was killed before
    }
}

/// The client would give up after half a second, which a busy machine needs now and then.
fn patient() -> redis::AsyncConnectionConfig {
    redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(Duration::from_secs(10)))
}

/// What the server says about itself, once it has read its files.
async fn info(url: &str) -> Option<String> {
    let client = redis::Client::open(url).expect("a valid address");
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient()).await.ok()?;
    redis::cmd("PING").query_async::<String>(&mut connection).await.ok()?;
    redis::cmd("INFO").arg("server").query_async(&mut connection).await.ok()
}

#[tokio::test]
async fn a_killed_redis_comes_back_with_its_data() {
    let mut server = RedisServer::start().await;
    let client = redis::Client::open(server.url()).expect("a valid address");
    let mut before = client.get_multiplexed_async_connection_with_config(&patient()).await.expect("it runs");
    redis::cmd("SET").arg("a").arg(1).exec_async(&mut before).await.expect("it is writable");
    let (pid, folder) = (server.pid(), server.folder.clone());
    server.kill();
    assert!(info(&server.url()).await.is_none());
    server.restart().await;
    assert_ne!(server.pid(), pid);
    let mut after = client.get_multiplexed_async_connection_with_config(&patient()).await.expect("it runs again");
    assert_eq!(redis::cmd("GET").arg("a").query_async::<i32>(&mut after).await.expect("it is readable"), 1);
    drop(server);
    assert!(!folder.exists(), "nothing is left behind");
}
