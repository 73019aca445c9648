//! Everpost in this process: a gateway with its workers on the embedded engine, or two gateways and a worker on the
//! distributed one.

use std::{net::SocketAddr, sync::Arc};

use everpost::{
    app::Plan,
    config::Settings,
    gateway::auth::{Claims, mint},
};
use everpost_core::{
    clock::now_ms,
    pressure::Level,
    role::Role,
    store::{Store, postgres::PostgresStore, sqlite::SqliteStore},
};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{client::Client, eventually::eventually, postgres::PostgresServer, redis::RedisServer};

/// What backends authenticate with.
pub(crate) const API_KEY: &str = "an-api-key-that-only-the-tests-ever-use";
/// What tokens are signed with.
pub(crate) const TOKEN_SECRET: &str = "a-token-secret-that-only-the-tests-ever-use";

/// One running part of the service.
struct Process {
    address: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Process {
    async fn start(flags: &[(&'static str, String)], gateway: bool, roles: Vec<Role>) -> Self {
        let flags: Vec<_> = flags.iter().map(|(name, value)| (*name, Some(value.clone()))).collect();
        let settings = Settings::load(None, &flags).expect("sound settings");
        let admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let app = everpost::app::App::open(&settings, Plan { gateway, roles, admin }).await.expect("it opens");
        let (address, admin, stop) = (app.address(), app.admin_address(), CancellationToken::new());
        let running = tokio::spawn(app.run(stop.clone()));
        Self { address, admin, stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("it does not panic").expect("it stops in order");
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// What `Retry-After` says.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
}

impl Answer {
    /// The stable code of a problem document, which it must be.
    pub(crate) fn code(&self) -> &str {
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert!(self.body["retryable"].is_boolean() && self.body["title"].is_string(), "{self:?}");
        self.body["code"].as_str().expect("a code")
    }

    /// The body, provided that all went well.
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }
}

/// The service of one test.
pub(crate) struct App {
    flags: Vec<(&'static str, String)>,
    gateways: Vec<Process>,
    /// Workers of their own; on the embedded engine the gateway's process has them.
    workers: Option<Process>,
    http: reqwest::Client,
    folder: TempDir,
    redis: Option<RedisServer>,
}

impl App {
    /// On files of its own.
    pub(crate) async fn embedded() -> Self {
        Self::embedded_with(&[]).await
    }

    /// The same with some settings of its own.
    pub(crate) async fn embedded_with(settings: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flags = flags(&folder, settings);
        let gateways = vec![Process::start(&flags, true, Role::ALL.to_vec()).await];
        Self { flags, gateways, workers: None, http: reqwest::Client::new(), folder, redis: None }
    }

    /// On a Redis and a database of its own, with two gateways.
    pub(crate) async fn distributed() -> Self {
        Self::distributed_with(&[]).await
    }

    /// The same with some settings of its own.
    pub(crate) async fn distributed_with(settings: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (redis, database) = (RedisServer::start().await, PostgresServer::shared().await.database().await);
        let mut flags = flags(&folder, settings);
        flags.extend([("redis_url", redis.url()), ("database_url", database.expose_secret().to_owned())]);
        let workers = Some(Process::start(&flags, false, Role::ALL.to_vec()).await);
        let gateways = vec![Process::start(&flags, true, vec![]).await, Process::start(&flags, true, vec![]).await];
        Self { flags, gateways, workers, http: reqwest::Client::new(), folder, redis: Some(redis) }
    }

    /// Goes on with these workers only. On the embedded engine connections are closed by it.
    pub(crate) async fn restart_with(&mut self, roles: &[Role]) {
        if let Some(workers) = self.workers.take() {
            workers.stop().await;
            self.workers = Some(Process::start(&self.flags, false, roles.to_vec()).await);
        } else {
            self.stop().await;
            self.gateways.push(Process::start(&self.flags, true, roles.to_vec()).await);
        }
    }

    /// The log's server, to be restarted.
    pub(crate) fn redis_mut(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("only the distributed engine has one")
    }

    /// Stops the gateways as SIGTERM would.
    pub(crate) async fn stop(&mut self) {
        futures_util::future::join_all(self.gateways.drain(..).map(Process::stop)).await;
    }

    /// Starts the gateways anew after [`App::stop`].
    pub(crate) async fn start_gateways(&mut self) {
        if self.workers.is_none() {
            self.gateways.push(Process::start(&self.flags, true, Role::ALL.to_vec()).await);
        } else {
            let (one, other) = (Process::start(&self.flags, true, vec![]), Process::start(&self.flags, true, vec![]));
            self.gateways = vec![one.await, other.await];
        }
    }

    /// Where a gateway listens. There are two on the distributed engine; asking for the second is always right.
    pub(crate) fn address(&self, gateway: usize) -> SocketAddr {
        self.gateways[gateway % self.gateways.len()].address.expect("it is a gateway")
    }

    /// How many gateways there are.
    pub(crate) fn gateways(&self) -> usize {
        self.gateways.len()
    }

    /// The Redis of the distributed engine.
    pub(crate) fn redis(&self) -> &RedisServer {
        self.redis.as_ref().expect("there is none on the embedded engine")
    }

    /// What a gateway's admin listener answers.
    pub(crate) async fn admin(&self, gateway: usize, path: &str) -> Answer {
        let admin = self.gateways[gateway % self.gateways.len()].admin.expect("it has one");
        answer(self.http.get(format!("http://{admin}{path}"))).await
    }

    /// Any request at the first gateway's admin listener; an empty credential is none.
    pub(crate) async fn ask_admin(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        credential: &str,
    ) -> Answer {
        let admin = self.gateways[0].admin.expect("it has one");
        let mut request = self.http.request(method, format!("http://{admin}{path}"));
        if !credential.is_empty() {
            request = request.bearer_auth(credential);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request).await
    }

    /// The value of a metric of the first gateway, by its name and labels as they are shown; nothing if it is not.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        read_metric(&self.admin(0, "/metrics").await, name)
    }

    /// The same of the process with the workers.
    pub(crate) async fn worker_metric(&self, name: &str) -> Option<f64> {
        let process = self.workers.as_ref().unwrap_or(&self.gateways[0]);
        let admin = process.admin.expect("it has one");
        read_metric(&answer(self.http.get(format!("http://{admin}/metrics"))).await, name)
    }

    /// What a gateway's admin listener answers to a body.
    pub(crate) async fn admin_post(&self, path: &str, body: Value) -> Answer {
        let admin = self.gateways[0].admin.expect("it has one");
        answer(self.http.post(format!("http://{admin}{path}")).json(&body)).await
    }

    /// Revokes a token, or all of a user.
    pub(crate) async fn revoke(&self, what: Value) {
        let answer = self.admin_post("/v1/admin/revocations", what).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// Where the admin listener of the first gateway is.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.gateways[0].admin.expect("it has one")
    }

    /// The store behind the service, to be changed without the gateways being told.
    pub(crate) async fn store(&self) -> Arc<dyn Store> {
        match self.database() {
            Some(url) => Arc::new(PostgresStore::connect(&url.into()).await.expect("Postgres runs")),
            None => {
                let path = self.folder.path().join("store.db");
                Arc::new(SqliteStore::open(&path).await.expect("the file opens"))
            }
        }
    }

    /// Starts the gateways anew.
    pub(crate) async fn restart(&mut self) {
        let (count, roles) = (self.gateways.len(), if self.workers.is_some() { vec![] } else { Role::ALL.to_vec() });
        self.stop().await;
        for _ in 0..count {
            self.gateways.push(Process::start(&self.flags, true, roles.clone()).await);
        }
    }

    /// The database of the distributed engine.
    pub(crate) fn database(&self) -> Option<&str> {
        self.flags.iter().find_map(|(name, value)| (*name == "database_url").then_some(value.as_str()))
    }

    /// A file of the embedded engine.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a plain name").to_owned()
    }

    /// Waits until the first gateway has noticed a level of pressure.
    pub(crate) async fn pressed(&self, level: Level) {
        eventually(&format!("the pressure is {level}"), async || {
            self.metric("everpost_pressure_level").await == Some(f64::from(level as u8))
        })
        .await;
    }

    /// A token of an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        token(&claims(user, 3_600))
    }

    /// A conversation with participants.
    pub(crate) async fn conversation(&self, id: &str, participants: &[&str]) {
        let body = json!({"id": id, "participants": participants});
        assert_eq!(self.post("/v1/conversations", API_KEY, body).await.status, 201);
    }

    /// Publishes a text and returns the message.
    pub(crate) async fn say(&self, conversation: &str, user: &str, text: &str) -> Value {
        let body = json!({"type": "text", "content": {"text": text}});
        let path = format!("/v1/conversations/{conversation}/messages");
        self.post(&path, &self.token(user), body).await.ok()["message"].clone()
    }

    /// A page of history.
    pub(crate) async fn history(&self, conversation: &str, query: &str) -> Vec<Value> {
        let path = format!("/v1/conversations/{conversation}/messages?{query}");
        let page = self.get(&path, API_KEY).await.ok();
        page["messages"].as_array().expect("a page").clone()
    }

    /// Waits until the database has everything of a conversation that was accepted before, by one more message.
    pub(crate) async fn settle(&self, conversation: &str, user: &str) {
        let body = json!({"type": "text", "content": {"text": "settled"}});
        let path = format!("/v1/conversations/{conversation}/messages?wait=stored");
        assert_eq!(self.post(&path, &self.token(user), body).await.ok()["durability"], "stored");
    }

    /// A connection for everything of a user, at the first gateway, already greeted.
    pub(crate) async fn connect(&self, user: &str) -> Client {
        self.connect_to(0, user, "/v1/ws").await
    }

    /// A connection that resumes from a cursor.
    pub(crate) async fn resume(&self, user: &str, cursor: &str) -> Client {
        self.connect_to(0, user, &format!("/v1/ws?cursor={cursor}")).await
    }

    /// A connection at a gateway, already greeted.
    pub(crate) async fn connect_to(&self, gateway: usize, user: &str, path: &str) -> Client {
        let mut client = Client::open(self.address(gateway), path, Some(&self.token(user))).await;
        client.greeted().await;
        client
    }

    /// A connection that has sent nothing yet and need not be welcome.
    pub(crate) async fn open(&self, path: &str, token: Option<&str>) -> Client {
        Client::open(self.address(0), path, token).await
    }

    /// The same at a gateway of choice.
    pub(crate) async fn open_at(&self, gateway: usize, path: &str, token: &str) -> Client {
        Client::open(self.address(gateway), path, Some(token)).await
    }

    pub(crate) async fn get(&self, path: &str, credential: &str) -> Answer {
        self.ask(0, Method::GET, path, credential, None).await
    }

    pub(crate) async fn post(&self, path: &str, credential: &str, body: Value) -> Answer {
        self.ask(0, Method::POST, path, credential, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, credential: &str) -> Answer {
        self.ask(0, Method::PUT, path, credential, None).await
    }

    pub(crate) async fn delete(&self, path: &str, credential: &str) -> Answer {
        self.ask(0, Method::DELETE, path, credential, None).await
    }

    /// A publish with an idempotency key.
    pub(crate) async fn publish(&self, path: &str, credential: &str, key: &str, body: Value) -> Answer {
        let request = self.request(0, Method::POST, path).bearer_auth(credential);
        answer(request.header("idempotency-key", key).json(&body)).await
    }

    /// Any body at all.
    pub(crate) async fn post_bytes(&self, path: &str, credential: &str, body: impl Into<reqwest::Body>) -> Answer {
        answer(self.request(0, Method::POST, path).bearer_auth(credential).body(body)).await
    }

    /// Any request at a gateway; an empty credential is none.
    pub(crate) async fn ask(
        &self,
        gateway: usize,
        method: Method,
        path: &str,
        credential: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.request(gateway, method, path);
        if !credential.is_empty() {
            request = request.bearer_auth(credential);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    fn request(&self, gateway: usize, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address(gateway)))
    }
}

fn read_metric(shown: &Answer, name: &str) -> Option<f64> {
    let lines = shown.body.as_str().expect("text").lines();
    lines.into_iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("the gateway answers");
    let (status, content_type) = (response.status().as_u16(), response.headers().get("content-type").cloned());
    let content_type = content_type.map(|kind| kind.to_str().expect("ASCII").to_owned()).unwrap_or_default();
    let retry_after = response.headers().get("retry-after").map(|wait| wait.to_str().expect("ASCII").to_owned());
    let retry_after = retry_after.map(|wait| wait.parse().expect("seconds"));
    let text = response.text().await.expect("a whole answer");
    Answer { status, content_type, retry_after, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

/// What a token of a user says; `ttl` may be negative.
pub(crate) fn claims(user: &str, ttl: i64) -> Claims {
    let exp = (now_ms() / 1_000).saturating_add_signed(ttl);
    Claims { sub: user.to_owned(), exp, role: None, device_id: None, device_type: None }
}

/// Signs claims as the service would.
pub(crate) fn token(claims: &Claims) -> String {
    mint(&SecretString::from(TOKEN_SECRET), claims).expect("a token")
}

/// Every connection of a test comes from one address, and some come back all the time, so such limits are out of the way
/// unless a test is about them. Nor are tests told who comes and goes, which happens beside everything else.
fn flags(folder: &TempDir, settings: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let data_dir = folder.path().to_str().expect("a plain name");
    let own = [
        ("listen", "127.0.0.1:0"),
        ("data_dir", data_dir),
        ("token_secret", TOKEN_SECRET),
        ("api_key", API_KEY),
        ("max_connections_per_user", "100"),
        ("max_connections_per_address", "100"),
        ("join_rate", "1000"),
        ("replay_rate", "1000"),
        ("presence", "off"),
    ];
    own.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// Makes each case a test on each engine.
macro_rules! on_every_engine {
    ($($case:ident),* $(,)?) => {
        mod on_embedded {
            use $crate::harness::app::App;
            $(#[tokio::test] async fn $case() { super::$case(App::embedded().await).await })*
        }
        mod on_distributed {
            use $crate::harness::app::App;
            $(#[tokio::test] async fn $case() { super::$case(App::distributed().await).await })*
        }
    };
}
pub(crate) use on_every_engine;
