//! Postgres servers: one that all tests share, each with a database of its own, and private ones to be killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use everpost_core::store::postgres::PostgresStore;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::{
    eventually::{START, within},
    server::{self, Launch, Server},
};

/// The database new ones are copied from, already migrated.
const TEMPLATE: &str = "everpost_template";

/// What the service's role needs.
pub(crate) const ROLE_GRANT: &str = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public";

/// A Postgres in a temporary folder.
pub(crate) struct PostgresServer {
    server: Option<Server>,
    folder: PathBuf,
    port: u16,
    fsync: bool,
}

impl PostgresServer {
    /// The one all tests share. It does not wait for the disk, and it must not be killed.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::launch_fresh(false)).await
    }

    /// Starts one of its own for a test, as durable as a production server.
    pub(crate) async fn start() -> Self {
        Self::launch_fresh(true).await
    }

    /// Creates a database with the current schema and returns its address.
    pub(crate) async fn database(&self) -> SecretString {
        let name = format!("test_{}", Uuid::new_v4().simple());
        self.admin(format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await;
        self.url(&name)
    }

    /// Creates a database with nothing in it and returns its address.
    pub(crate) async fn empty_database(&self) -> SecretString {
        let name = format!("test_{}", Uuid::new_v4().simple());
        self.admin(format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    /// The process id of the running server.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().expect("it was killed").pid()
    }

    /// Ends it and all its backends at once, without a checkpoint; it will have to recover.
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

    fn url(&self, database: &str) -> SecretString {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port).into()
    }

    /// Starts one of its own in a folder.
    pub(crate) async fn start_in(folder: impl Fn() -> PathBuf) -> Self {
        Self::launch_in(folder, true).await
    }

    /// Makes sure that it runs: starts it again if it has given up.
    pub(crate) async fn revive(&mut self) {
        if self.server.as_ref().is_none_or(Server::has_ended) {
            self.restart().await;
        }
    }

    async fn launch_fresh(fsync: bool) -> Self {
        Self::launch_in(|| server::folder("everpost-postgres"), fsync).await
    }

    async fn launch_in(folder: impl Fn() -> PathBuf, fsync: bool) -> Self {
        loop {
            let (folder, port) = (folder(), server::free_port());
            initialise(&folder);
            let mut postgres = Self { server: None, folder, port, fsync };
            if postgres.launch().await {
                postgres.make_template().await;
                return postgres;
            }
        }
    }

    /// Runs the server; `false` if the port went to somebody else.
    async fn launch(&mut self) -> bool {
        let command = self.command();
        let launch = Launch { folder: &self.folder, signal: "QUIT", prefix: prefix(), command };
        self.server = Some(Server::start(launch));
        let data = self.data();
        within(START, "Postgres answers", async || match self.connect().await {
            Ok(mut connection) => {
                let serves: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.ok()?;
                Some(serves == data)
            }
            Err(_) => server::lost_its_port(&self.folder).then_some(false),
        })
        .await
    }

    fn command(&self) -> Vec<String> {
        let (port, fsync) = (self.port.to_string(), if self.fsync { "fsync=on" } else { "fsync=off" });
        let place = [&executable("postgres"), "-D", &self.data(), "-p", &port].map(str::to_owned);
        let settings =
            ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300", "autovacuum=off", fsync];
        place.into_iter().chain(settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()])).collect()
    }

    fn data(&self) -> String {
        self.folder.join("data").to_str().expect("a plain name").to_owned()
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)).await
    }

    async fn admin(&self, statement: String) {
        let mut connection = self.connect().await.expect("Postgres runs");
        connection.execute(AssertSqlSafe(statement)).await.expect("the administrator may");
    }

    async fn make_template(&self) {
        self.admin(format!("CREATE DATABASE {TEMPLATE}")).await;
        let store = PostgresStore::connect(&self.url(TEMPLATE)).await.expect("Postgres runs");
        store.migrate().await.expect("the migrations fit an empty database");
        store.close().await; // a database in use cannot be copied
    }
}

/// Makes a role that may read and write the rows of a database and nothing else, and returns the address for it.
pub(crate) async fn with_role(database: &SecretString, password: &str) -> SecretString {
    let role = format!("everpost_{}", uuid::Uuid::new_v4().simple());
    let mut owner = PgConnection::connect(database.expose_secret()).await.expect("Postgres runs");
    for statement in [format!("CREATE ROLE {role} LOGIN NOSUPERUSER"), format!("{ROLE_GRANT} TO {role}")] {
        owner.execute(AssertSqlSafe(statement)).await.expect("the owner may");
    }
    database.expose_secret().replace("//postgres@", &format!("//{role}:{password}@")).into()
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = fs::remove_dir_all(&self.folder); // gone already, unless the server was killed before
    }
}

fn initialise(folder: &Path) {
    if is_root() {
        run(&["chown", "postgres:", folder.to_str().expect("a plain name")]);
    }
    let data = folder.join("data").to_str().expect("a plain name").to_owned();
    let initdb = executable("initdb");
    let options = ["--no-sync", "--auth=trust", "--username=postgres", "--locale=C", "--encoding=UTF8"];
    let command: Vec<&str> = prefix().iter().copied().chain([&*initdb, "-D", &data]).chain(options).collect();
    run(&command);
}

/// Postgres refuses to run as root.
fn prefix() -> &'static [&'static str] {
    if is_root() { &["runuser", "-u", "postgres", "--"] } else { &[] }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().expect("id runs").stdout == b"0\n"
}

fn run(command: &[&str]) {
    let done = Command::new(command[0]).args(&command[1..]).current_dir("/").output().expect("the command is there");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An executable of Postgres; Debian keeps them out of the search path, one folder for each version.
fn executable(name: &str) -> String {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<f32>().ok();
    let mut folders: Vec<(f32, PathBuf)> = versions.filter_map(|path| Some((version(&path)?, path))).collect();
    folders.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let folders: Vec<PathBuf> = folders.into_iter().map(|(_, folder)| folder.join("bin")).collect();
    server::executable(name, &folders)
}
