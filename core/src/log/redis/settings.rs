//! Which of the server's settings a promise rests on, and what is wrong with them.

use std::collections::HashMap;

use redis::cmd;

use super::link::Link;
use crate::log::{Durability, LogError};

/// The settings that decide what an acknowledgement is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis_version`.
    pub version: String,
    /// `appendonly`.
    pub appendonly: String,
    /// `appendfsync`.
    pub appendfsync: String,
    /// `no-appendfsync-on-rewrite`.
    pub no_fsync_on_rewrite: String,
    /// `maxmemory-policy`.
    pub eviction: String,
    /// `maxmemory` in bytes, 0 for none.
    pub maxmemory: u64,
    /// `master` or `slave`.
    pub replication: String,
    /// `run_id`, another one after each start.
    pub run_id: String,
}

impl RedisSettings {
    pub(crate) async fn read(link: &Link) -> Result<Self, LogError> {
        let info: String = link.query(cmd("INFO").arg("server").arg("replication")).await?;
        let config: HashMap<String, String> = link
            .query(cmd("CONFIG").arg("GET").arg(&["append*", "no-appendfsync-on-rewrite", "maxmemory*"]))
            .await
            .map_err(|_| LogError::Unsuitable("Redis does not let us read its settings (CONFIG GET)".into()))?;
        let set = |name: &str| config.get(name).cloned().unwrap_or_default();
        let told = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        Ok(Self {
            version: told("redis_version:"),
            appendonly: set("appendonly"),
            appendfsync: set("appendfsync"),
            no_fsync_on_rewrite: set("no-appendfsync-on-rewrite"),
            eviction: set("maxmemory-policy"),
            maxmemory: set("maxmemory").parse().unwrap_or(0),
            replication: told("role:"),
            run_id: told("run_id:"),
        })
    }

    /// What makes the service as a whole unsafe on this server, each with its remedy.
    pub fn faults(&self) -> Vec<String> {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok()).unwrap_or(0);
        let mut faults = Vec::new();
        if major < 7 {
            faults.push(format!("Redis {} is too old: version 7.0 or newer is needed", self.version));
        }
        if self.eviction != "noeviction" {
            let policy = &self.eviction;
            faults.push(format!("maxmemory-policy is {policy}, so Redis may drop events: set it to noeviction"));
        }
        if self.replication == "slave" {
            faults.push("this Redis is a replica: give the address of its primary".to_owned());
        }
        faults
    }

    /// What makes an acknowledgement at `fsync` a lie on this server, each with its remedy.
    pub fn durability_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.appendonly != "yes" {
            faults.push("appendonly is off, a restart loses events: set appendonly yes".to_owned());
        }
        if self.appendfsync != "always" {
            let policy = &self.appendfsync;
            faults.push(format!("appendfsync is {policy}, a power cut loses events: set appendfsync always"));
        }
        if self.no_fsync_on_rewrite == "yes" {
            faults.push("no-appendfsync-on-rewrite is on, which suspends appendfsync: set it to no".to_owned());
        }
        faults
    }

    /// What makes the service unsafe when an acknowledgement promises this much.
    pub fn faults_for(&self, durability: Durability) -> Vec<String> {
        let mut faults = self.faults();
        if durability == Durability::Fsync {
            faults.extend(self.durability_faults());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> RedisSettings {
        RedisSettings {
            version: "7.0.15".into(),
            appendonly: "yes".into(),
            appendfsync: "always".into(),
            no_fsync_on_rewrite: "no".into(),
            eviction: "noeviction".into(),
            maxmemory: 0,
            replication: "master".into(),
            run_id: "0123456789abcdef".into(),
        }
    }

    #[test]
    fn sound_settings_have_no_faults() {
        assert!(sound().faults().is_empty() && sound().durability_faults().is_empty());
    }

    #[test]
    fn each_unsound_setting_is_named() {
        let everysec = RedisSettings { appendfsync: "everysec".into(), ..sound() };
        assert!(everysec.durability_faults()[0].contains("appendfsync always"));
        let rewriting = RedisSettings { no_fsync_on_rewrite: "yes".into(), ..sound() };
        assert_eq!(rewriting.durability_faults().len(), 1);
        assert!(everysec.faults_for(Durability::Memory).is_empty());
        assert_eq!(everysec.faults_for(Durability::Fsync), everysec.durability_faults());
        let evicting = RedisSettings { eviction: "allkeys-lru".into(), version: "6.2.1".into(), ..sound() };
        assert_eq!(evicting.faults().len(), 2);
    }
}
