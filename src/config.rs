//! Settings: the only place that reads the environment and configuration files.
//!
//! Flag over environment over file over the embedded default file, which documents every setting.

mod gateway;
mod secret;

use std::{
    collections::HashMap,
    env, io,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Config, Environment, File, FileFormat};
use everpost_core::{
    log::{Durability, redis::RedisLogConfig},
    partition::Partitions,
};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::gateway::Audience;

const DEFAULTS: &str = include_str!("config.default.toml");
const PREFIX: &str = "EVERPOST_";
/// Settings that hold several values; outside files they are separated by commas.
const LISTS: [&str; 2] = ["allowed_origins", "trusted_proxies"];
const MIN_SECRET_CHARS: usize = 32;
/// A ticket stands in addresses, so it must not be good for long.
const MAX_TICKET_TTL: Duration = Duration::from_secs(300);

/// What is wrong with the settings; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting that cannot be read.
    #[error("{0}")]
    Unreadable(#[from] config::ConfigError),
    /// Settings that contradict each other or are unsafe.
    #[error("{0}")]
    Unsound(String),
    /// A generated secret could not be kept.
    #[error("cannot keep a secret in {path}: {cause}")]
    Secret {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilitySetting {
    Fsync,
    Memory,
}

/// All settings in force. Secrets in it cannot be printed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The client listener.
    pub listen: SocketAddr,
    /// The admin listener.
    pub admin_listen: Option<SocketAddr>,
    /// The embedded engine's files, and generated secrets.
    pub data_dir: PathBuf,
    /// The distributed engine's log.
    pub redis_url: Option<SecretString>,
    /// The distributed engine's store.
    pub database_url: Option<SecretString>,
    redis_prefix: String,
    partitions: u16,
    durability: DurabilitySetting,
    token_secret: Option<SecretString>,
    jwks: Option<String>,
    token_audience: Option<String>,
    token_issuer: Option<String>,
    #[serde(with = "humantime_serde")]
    max_token_lifetime: Duration,
    api_key: Option<SecretString>,
    admin_key: Option<SecretString>,
    query_tokens: bool,
    #[serde(with = "humantime_serde")]
    ticket_ttl: Duration,
    /// Pages that may connect.
    pub allowed_origins: Vec<String>,
    trusted_proxies: Vec<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are.
    pub log: String,
    max_connections: usize,
    max_connections_per_user: usize,
    max_connections_per_address: usize,
    accept_rate: NonZeroU32,
    max_message_bytes: usize,
    max_queue_bytes: usize,
    publish_rate: NonZeroU32,
    join_rate: NonZeroU32,
    replay_rate: NonZeroU32,
    pressed_publish_rate: NonZeroU32,
    max_in_flight: usize,
    max_receipt_participants: usize,
    #[serde(with = "humantime_serde")]
    heartbeat: Duration,
    #[serde(with = "humantime_serde")]
    heartbeat_timeout: Duration,
    #[serde(with = "humantime_serde")]
    request_timeout: Duration,
    /// Who is told that users come and go.
    pub presence: Audience,
    /// How long a user's last connection may have been gone before the user is offline.
    #[serde(with = "humantime_serde")]
    pub presence_grace: Duration,
    /// How long a connection may wait between requests.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Clients are told to come back spread over this time.
    #[serde(with = "humantime_serde")]
    pub drain_spread: Duration,
    /// How many events may wait to be stored before no more are taken.
    pub backlog_budget: NonZeroU64,
}

/// Where events live.
#[derive(Debug, Clone)]
pub enum EngineSettings {
    /// In files of this directory, in this process.
    Embedded {
        /// The directory.
        data_dir: PathBuf,
        /// What an acknowledgement promises.
        durability: Durability,
    },
    /// In Redis and Postgres, for any number of processes.
    Distributed {
        /// The log.
        log: RedisLogConfig,
        /// The store.
        database_url: SecretString,
    },
}

impl Settings {
    /// Puts the settings together. `flags` are names and values from the command line.
    pub fn load(file: Option<&Path>, flags: &[(&str, Option<String>)]) -> Result<Self, ConfigError> {
        let settings: Self = layers(file, flags, environment())?.try_deserialize()?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.engine()?;
        self.tls_files()?;
        self.trusted_proxies()?;
        if self.heartbeat_timeout <= self.heartbeat {
            return Err(unsound("heartbeat_timeout must be longer than heartbeat"));
        }
        self.jwks()?;
        if self.ticket_ttl.is_zero() || self.ticket_ttl > MAX_TICKET_TTL {
            return Err(unsound("ticket_ttl must be more than nothing and at most 5m"));
        }
        let secrets =
            [("token_secret", &self.token_secret), ("api_key", &self.api_key), ("admin_key", &self.admin_key)];
        for (name, secret) in secrets {
            if secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < MIN_SECRET_CHARS) {
                return Err(unsound(&format!(
                    "{name} is too short to be safe: give at least {MIN_SECRET_CHARS} characters"
                )));
            }
        }
        if !self.listen.ip().is_loopback() && self.token_secret.is_none() {
            let listen = self.listen;
            return Err(unsound(&format!(
                "listening on {listen} needs a token secret of your own: set token_secret (--token-secret), \
                 or listen on loopback"
            )));
        }
        let has_key = self.admin_key.is_some() || self.api_key.is_some();
        if self.admin_listen.is_some_and(|admin| !admin.ip().is_loopback()) && !has_key {
            return Err(unsound(
                "an admin listener beyond loopback needs a key: set admin_key (--admin-key), or api_key (--api-key) for both",
            ));
        }
        Ok(())
    }

    /// Certificate chain and private key of the client listener, if it has them.
    pub fn tls_files(&self) -> Result<Option<(&Path, &Path)>, ConfigError> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some((cert.as_path(), key.as_path()))),
            _ => Err(unsound("tls_cert and tls_key belong together: give both for TLS, neither without")),
        }
    }

    /// Networks of proxies whose word about a client's address counts.
    pub fn trusted_proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        let network = |text: &String| {
            let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| unsound(&format!("trusted_proxies: {text} is neither an address nor a network")))
        };
        self.trusted_proxies.iter().map(network).collect()
    }

    /// Which engine the settings select.
    pub fn engine(&self) -> Result<EngineSettings, ConfigError> {
        let durability = match self.durability {
            DurabilitySetting::Fsync => Durability::Fsync,
            DurabilitySetting::Memory => Durability::Memory,
        };
        match (&self.redis_url, &self.database_url) {
            (None, None) => Ok(EngineSettings::Embedded { data_dir: self.data_dir.clone(), durability }),
            (Some(url), Some(database_url)) => {
                let partitions = Partitions::new(self.partitions).map_err(|error| unsound(&error.to_string()))?;
                let (url, prefix) = (url.clone(), self.redis_prefix.clone());
                let log = RedisLogConfig { url, prefix, partitions, durability };
                Ok(EngineSettings::Distributed { log, database_url: database_url.clone() })
            }
            (Some(_), None) => Err(unsound(
                "redis_url is set and database_url is not: the distributed engine needs both, the embedded one neither",
            )),
            (None, Some(_)) => Err(unsound(
                "database_url is set and redis_url is not: the distributed engine needs both, the embedded one neither",
            )),
        }
    }

    /// The secret that signs tokens: the configured one, or one kept in the data directory.
    pub fn token_secret(&self) -> Result<SecretString, ConfigError> {
        self.token_secret.clone().map_or_else(|| secret::kept(&self.data_dir, "token-secret"), Ok)
    }

    /// What backends authenticate with: the configured key, or one kept in the data directory.
    pub fn api_key(&self) -> Result<SecretString, ConfigError> {
        self.api_key.clone().map_or_else(|| secret::kept(&self.data_dir, "api-key"), Ok)
    }

    /// Whether the admin listener has a key of its own.
    pub fn has_admin_key(&self) -> bool {
        self.admin_key.is_some()
    }

    /// What opens the admin listener: its own key, or that of backends.
    pub fn admin_key(&self) -> Result<SecretString, ConfigError> {
        self.admin_key.clone().map_or_else(|| self.api_key(), Ok)
    }

    /// Whether the secret was generated, so that this is somebody's first try.
    pub fn is_development(&self) -> bool {
        self.token_secret.is_none()
    }
}

/// The settings as `name = value` lines, secrets masked.
pub fn effective(file: Option<&Path>, flags: &[(&str, Option<String>)]) -> Result<Vec<(String, String)>, ConfigError> {
    let config = layers(file, flags, environment())?;
    config.clone().try_deserialize::<Settings>()?.check()?;
    let values: HashMap<String, serde_json::Value> = config.try_deserialize()?;
    let mut lines: Vec<_> = values.into_iter().map(|(name, value)| (mask(&name, &value), name)).collect();
    lines.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(lines.into_iter().map(|(value, name)| (name, value)).collect())
}

fn mask(name: &str, value: &serde_json::Value) -> String {
    let secret = ["token_secret", "api_key", "admin_key", "redis_url", "database_url"].contains(&name);
    if secret { "\"********\"".to_owned() } else { value.to_string() }
}

fn layers(
    file: Option<&Path>,
    flags: &[(&str, Option<String>)],
    environment: HashMap<String, String>,
) -> Result<Config, config::ConfigError> {
    let given = Environment::default().source(Some(environment)).try_parsing(true).list_separator(",");
    let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml));
    }
    builder = builder.add_source(LISTS.into_iter().fold(given, Environment::with_list_parse_key));
    for (name, value) in flags {
        builder = if LISTS.contains(name) {
            let list = value.as_ref().map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>());
            builder.set_override_option(*name, list)?
        } else {
            builder.set_override_option(*name, value.clone())?
        };
    }
    builder.build()
}

/// What the environment says about settings we know; orchestrators put other `EVERPOST_…` names there.
fn environment() -> HashMap<String, String> {
    let known: Vec<&str> = DEFAULTS.lines().filter_map(setting_name).collect();
    let ours = env::vars().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_lowercase(), value)));
    ours.filter(|(name, _)| known.contains(&name.as_str())).collect()
}

/// The name a line of the default file sets, also where it is only an example.
fn setting_name(line: &str) -> Option<&str> {
    let (name, _) = line.trim_start_matches("# ").split_once(" = ")?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(name)
}

fn unsound(why: &str) -> ConfigError {
    ConfigError::Unsound(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let flags: Vec<_> = flags.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings: Settings = layers(None, &flags, environment)?.try_deserialize()?;
        settings.check().map(|()| settings)
    }

    fn refusal(flags: &[(&str, &str)]) -> String {
        load(flags, &[]).expect_err("refused").to_string()
    }

    #[test]
    fn the_defaults_are_sound_and_embedded() {
        let settings = load(&[], &[]).expect("sound");
        assert!(matches!(settings.engine(), Ok(EngineSettings::Embedded { .. })));
        assert!(settings.is_development() && settings.listen.ip().is_loopback());
    }

    #[test]
    fn flags_go_over_the_environment() {
        let settings = load(&[("partitions", "32")], &[("partitions", "8"), ("max_connections", "7")]).expect("sound");
        assert_eq!((settings.partitions, settings.max_connections), (32, 7));
    }

    #[test]
    fn an_all_digit_secret_is_text() {
        let digits = "1".repeat(40);
        assert!(load(&[], &[("token_secret", &digits)]).is_ok());
    }

    #[test]
    fn half_an_engine_is_refused() {
        assert!(refusal(&[("redis_url", "redis://h")]).contains("database_url is not"));
        assert!(refusal(&[("database_url", "postgres://h")]).contains("redis_url is not"));
    }

    #[test]
    fn unsafe_settings_are_refused_with_a_remedy() {
        assert!(refusal(&[("listen", "0.0.0.0:8080")]).contains("--token-secret"));
        assert!(refusal(&[("admin_listen", "0.0.0.0:8081")]).contains("--admin-key"));
        assert!(refusal(&[("jwks", "http://id.example/keys")]).contains("https"));
        assert!(refusal(&[("ticket_ttl", "1h")]).contains("ticket_ttl"));
        assert!(refusal(&[("admin_key", "short")]).contains("32 characters"));
        assert!(refusal(&[("token_secret", "short")]).contains("32 characters"));
        assert!(refusal(&[("heartbeat", "90s")]).contains("longer"));
        assert!(refusal(&[("tls_cert", "cert.pem")]).contains("belong together"));
        assert!(refusal(&[("durability", "maybe")]).contains("durability"));
        assert!(refusal(&[("dance", "1")]).contains("dance"));
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let proxies = |given: &str| load(&[], &[("trusted_proxies", given)]);
        let networks =
            proxies("10.0.0.0/8,192.0.2.7,fd00::/8").and_then(|sound| sound.trusted_proxies()).expect("sound");
        assert_eq!(networks.len(), 3);
        assert!(
            networks[1].contains(&IpAddr::from([192, 0, 2, 7])) && !networks[1].contains(&IpAddr::from([192, 0, 2, 8]))
        );
        assert!(proxies("10.0.0.0/33").expect_err("refused").to_string().contains("10.0.0.0/33"));
    }

    #[test]
    fn every_setting_is_in_the_default_file() {
        let known: Vec<&str> = DEFAULTS.lines().filter_map(setting_name).collect();
        assert!(known.contains(&"token_secret") && known.contains(&"heartbeat"));
        assert_eq!(known.len(), 43, "{known:?}");
    }
}
