//! Flags every command takes: one for each setting that people change.

use std::path::PathBuf;

use clap::Args;

use crate::config::{ConfigError, Settings};

#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct Flags {
    /// Read settings from this TOML file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where metrics and health are [default: 127.0.0.1:8081 for serve, closed for others]
    #[arg(long, global = true, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Where the embedded engine and generated secrets live [default: ./everpost-data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// The event log of the distributed engine
    #[arg(long, global = true, value_name = "URL")]
    redis_url: Option<String>,
    /// The store of the distributed engine
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// What an acknowledgement promises: fsync or memory [default: fsync]
    #[arg(long, global = true, value_name = "LEVEL")]
    durability: Option<String>,
    /// Signs client tokens; better given in the environment
    #[arg(long, global = true, value_name = "SECRET")]
    token_secret: Option<String>,
    /// What backends authenticate with; better given in the environment
    #[arg(long, global = true, value_name = "KEY")]
    api_key: Option<String>,
    /// What opens the admin listener; better given in the environment [default: the API key, nothing on loopback]
    #[arg(long, global = true, value_name = "KEY")]
    admin_key: Option<String>,
    /// Public keys of tokens: a JWKS file or an https address
    #[arg(long, global = true, value_name = "PATH|URL")]
    jwks: Option<String>,
    /// The client listener's certificate chain, PEM
    #[arg(long, global = true, value_name = "FILE")]
    tls_cert: Option<String>,
    /// And its private key
    #[arg(long, global = true, value_name = "FILE")]
    tls_key: Option<String>,
    /// Connections of this instance [default: 1000]
    #[arg(long, global = true, value_name = "N")]
    max_connections: Option<String>,
    /// Connections of one user [default: 5]
    #[arg(long, global = true, value_name = "N")]
    max_connections_per_user: Option<String>,
    /// Connections of one address [default: 10]
    #[arg(long, global = true, value_name = "N")]
    max_connections_per_address: Option<String>,
    /// Connections let in a second [default: 1000]
    #[arg(long, global = true, value_name = "N")]
    accept_rate: Option<String>,
    /// Publishes a second of one user [default: 20000]
    #[arg(long, global = true, value_name = "N")]
    publish_rate: Option<String>,
    /// text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Which log lines to write, such as debug or warn,everpost=debug [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

impl Flags {
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        Settings::load(self.config.as_deref(), &self.overrides())
    }

    pub(super) fn effective(&self) -> Result<Vec<(String, String)>, ConfigError> {
        crate::config::effective(self.config.as_deref(), &self.overrides())
    }

    fn overrides(&self) -> [(&'static str, Option<String>); 19] {
        [
            ("listen", self.listen.clone()),
            ("admin_listen", self.admin_listen.clone()),
            ("data_dir", self.data_dir.clone()),
            ("redis_url", self.redis_url.clone()),
            ("database_url", self.database_url.clone()),
            ("durability", self.durability.clone()),
            ("token_secret", self.token_secret.clone()),
            ("api_key", self.api_key.clone()),
            ("admin_key", self.admin_key.clone()),
            ("jwks", self.jwks.clone()),
            ("tls_cert", self.tls_cert.clone()),
            ("tls_key", self.tls_key.clone()),
            ("max_connections", self.max_connections.clone()),
            ("max_connections_per_user", self.max_connections_per_user.clone()),
            ("max_connections_per_address", self.max_connections_per_address.clone()),
            ("accept_rate", self.accept_rate.clone()),
            ("publish_rate", self.publish_rate.clone()),
            ("log_format", self.log_format.clone()),
            ("log", self.log.clone()),
        ]
    }
}
