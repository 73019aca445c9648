//! Redis servers of one test each, as durable as production ones.

use std::{fs, path::PathBuf};

use super::{
    eventually::eventually,
    server::{self, Launch, Server},
};

/// A Redis that belongs to one test.
pub(crate) struct RedisServer {
    server: Option<Server>,
    folder: PathBuf,
    port: u16,
}

impl RedisServer {
    /// Starts an empty one and waits until it answers.
    pub(crate) async fn start() -> Self {
        loop {
            let mut redis = Self { server: None, folder: server::folder("everpost-redis"), port: server::free_port() };
            if redis.launch().await {
                return redis;
            }
        }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The process id of the running server.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().expect("it was killed").pid()
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
        eventually("Redis answers", async || {
            let is_ours = info(&url).await.is_some_and(|info| info.contains(&process));
            if is_ours { Some(true) } else { server::lost_its_port(folder).then_some(false) }
        })
        .await
    }

    fn command(&self) -> Vec<String> {
        let redis = server::executable("redis-server", &[]);
        let (port, folder) = (self.port.to_string(), self.folder.to_str().expect("a plain name"));
        let place = [&redis, "--port", &port, "--bind", "127.0.0.1", "--dir", folder];
        let durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
        let whole = ["--maxmemory-policy", "noeviction"];
        place.into_iter().chain(durable).chain(whole).map(str::to_owned).collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = fs::remove_dir_all(&self.folder); // gone already, unless the server was killed before
    }
}

/// What the server says about itself, once it has read its files.
async fn info(url: &str) -> Option<String> {
    let client = redis::Client::open(url).expect("a valid address");
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    redis::cmd("PING").query_async::<String>(&mut connection).await.ok()?;
    redis::cmd("INFO").arg("server").query_async(&mut connection).await.ok()
}

#[tokio::test]
async fn a_killed_redis_comes_back_with_its_data() {
    let mut server = RedisServer::start().await;
    let client = redis::Client::open(server.url()).expect("a valid address");
    let mut before = client.get_multiplexed_async_connection().await.expect("it runs");
    redis::cmd("SET").arg("a").arg(1).exec_async(&mut before).await.expect("it is writable");
    let (pid, folder) = (server.pid(), server.folder.clone());
    server.kill();
    assert!(info(&server.url()).await.is_none());
    server.restart().await;
    assert_ne!(server.pid(), pid);
    let mut after = client.get_multiplexed_async_connection().await.expect("it runs again");
    assert_eq!(redis::cmd("GET").arg("a").query_async::<i32>(&mut after).await.expect("it is readable"), 1);
    drop(server);
    assert!(!folder.exists(), "nothing is left behind");
}
