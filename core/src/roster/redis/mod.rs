//! The roster between processes, in the Redis the log is on.
//!
//! ```text
//! everpost:{3}:roster:user:<user>            hash: connection -> entry, JSON
//! everpost:{3}:roster:address:<network>      hash: connection -> instance
//! everpost:{3}:roster:users:<instance>       hash: connection -> user, what a gateway has entered in this partition
//! everpost:{3}:roster:addresses:<instance>   hash: connection -> network
//! everpost:{3}:roster:due                    sorted set: departing user -> when to tell
//! everpost:{3}:roster:left                   hash: departing user -> when it left
//! everpost:roster                            hash: instance -> here, leaving, or when it was forgotten
//! ```
//!
//! A count is the length of a hash, so it heals with the hash. Users and addresses each have a partition of their own,
//! and a script touches one. The address goes first: what must be undone if the user has too many connections says
//! nothing about presence.

mod calls;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use redis::{ScriptInvocation, Value, cmd, from_redis_value, pipe};
use uuid::Uuid;

use self::calls::{Calls, Owner};
use super::{Arrival, Departure, Entry, Leave, Quotas, Refusal, Removed, Roster};
use crate::{
    clock::now_ms,
    log::{
        Log, LogError,
        redis::{RedisLog, keys::Keys, link::Link},
    },
    name::{InstanceId, UserId},
    partition::Partitions,
};

const HERE: &str = "here";
const LEAVING: &str = "leaving";
/// For how long a gateway that was given up for dead and comes back is told that it was.
const REMEMBER_MS: u64 = 24 * 60 * 60 * 1_000;
/// Connections put back at the same time.
const AT_ONCE: usize = 64;

/// A roster over Redis. Clones share it.
#[derive(Clone)]
pub struct RedisRoster {
    link: Link,
    keys: Keys,
    partitions: Partitions,
    calls: Calls,
}

impl RedisRoster {
    /// A roster beside the log, over its connections.
    pub fn beside(log: &RedisLog) -> Self {
        let (link, keys, partitions) = (log.link().clone(), log.keys().clone(), log.partitions());
        let calls = Calls::new(link.clone(), keys.clone(), partitions);
        Self { link, keys, partitions, calls }
    }

    async fn mark(&self, instance: &InstanceId, mark: &str) -> Result<(), LogError> {
        let fill = |call: &mut ScriptInvocation<'_>| {
            call.arg(instance.as_str()).arg(mark);
        };
        self.link.insist("HSET", &self.keys.roster(), fill).await
    }

    async fn put_back(&self, entry: &Entry) -> Result<Option<Arrival>, LogError> {
        self.calls.enter(Owner::Address, entry, usize::MAX).await?;
        self.calls.enter(Owner::User, entry, usize::MAX).await
    }

    /// Whatever a gateway has entered: connections and whose they are.
    async fn entered(&self, owner: Owner, instance: &InstanceId) -> Result<Vec<BTreeMap<String, String>>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.hgetall(self.calls.of_instance(owner, partition, instance));
        }
        self.link.pipeline(&read).await
    }

    async fn forget_all(&self, owner: Owner, instance: &InstanceId, leave: Leave) -> Result<Vec<Removed>, LogError> {
        let mut removed = Vec::new();
        for (partition, entered) in self.partitions.iter().zip(self.entered(owner, instance).await?) {
            let pairs: Vec<(String, String)> = entered.into_iter().collect();
            removed.extend(self.calls.leave(owner, partition, instance, &pairs, leave).await?);
        }
        Ok(removed)
    }
}

#[async_trait]
impl Roster for RedisRoster {
    async fn enter(&self, entry: &Entry, quotas: Quotas) -> Result<Result<Arrival, Refusal>, LogError> {
        if self.calls.enter(Owner::Address, entry, quotas.per_address).await?.is_none() {
            return Ok(Err(Refusal::Address));
        }
        if let Some(arrival) = self.calls.enter(Owner::User, entry, quotas.per_user).await? {
            return Ok(Ok(arrival));
        }
        self.calls.leave_all(Owner::Address, std::slice::from_ref(entry), Leave::NOW).await?;
        Ok(Err(Refusal::User))
    }

    async fn restore(&self, instance: &InstanceId, entries: &[Entry]) -> Result<Vec<UserId>, LogError> {
        let before: Option<String> =
            self.link.query(cmd("HGET").arg(self.keys.roster()).arg(instance.as_str())).await?;
        let mut online = Vec::new();
        for entries in entries.chunks(AT_ONCE) {
            let arrivals = entries.iter().map(|entry| self.put_back(entry));
            let arrivals = futures_util::future::try_join_all(arrivals).await?;
            let new = entries.iter().zip(arrivals).filter(|(_, arrival)| arrival.is_some_and(Arrival::is_online));
            online.extend(new.map(|(entry, _)| entry.user_id.clone()));
        }
        // Last: until then it can be seen that something is missing.
        self.mark(instance, HERE).await?;
        let was_forgotten = before.is_some_and(|mark| mark != HERE);
        Ok(if was_forgotten { online } else { Vec::new() })
    }

    async fn leave(&self, entries: &[Entry], leave: Leave) -> Result<Vec<Removed>, LogError> {
        let removed = self.calls.leave_all(Owner::User, entries, leave).await?;
        self.calls.leave_all(Owner::Address, entries, leave).await?;
        Ok(removed)
    }

    async fn depart(&self, left: &[(UserId, Duration)], grace: Duration) -> Result<(), LogError> {
        self.calls.depart(left, grace).await
    }

    async fn forget(&self, instance: &InstanceId, leave: Leave) -> Result<Vec<Removed>, LogError> {
        self.mark(instance, LEAVING).await?;
        let removed = self.forget_all(Owner::User, instance, leave).await?;
        self.forget_all(Owner::Address, instance, leave).await?;
        self.mark(instance, &now_ms().to_string()).await?;
        Ok(removed)
    }

    async fn instances(&self) -> Result<Vec<InstanceId>, LogError> {
        let marks: Vec<(String, String)> = self.link.query(cmd("HGETALL").arg(self.keys.roster())).await?;
        let (mut known, mut old) = (Vec::new(), Vec::new());
        for (name, mark) in marks {
            match mark.parse::<u64>() {
                Ok(forgotten) if forgotten + REMEMBER_MS < now_ms() => old.push(name),
                Ok(_) => {}
                Err(_) => known.extend(InstanceId::new(name)),
            }
        }
        if !old.is_empty() {
            self.link.query::<()>(cmd("HDEL").arg(self.keys.roster()).arg(old)).await?;
        }
        Ok(known)
    }

    async fn count(&self, instance: &InstanceId) -> Result<usize, LogError> {
        let mut read = pipe();
        read.hget(self.keys.roster(), instance.as_str());
        for partition in self.partitions.iter() {
            read.hlen(self.calls.of_instance(Owner::User, partition, instance));
        }
        let (mark, counts) = split(self.link.pipeline(&read).await?);
        // Whoever is not marked as being here would not be missed: that is as bad as having entered nothing.
        Ok(if mark.as_deref() == Some(HERE) { counts.iter().sum() } else { 0 })
    }

    async fn page(&self, instance: &InstanceId, after: Option<Uuid>, limit: usize) -> Result<Vec<Entry>, LogError> {
        let mut all: Vec<(Uuid, String)> = Vec::new();
        for (connection, user) in self.entered(Owner::User, instance).await?.into_iter().flatten() {
            all.extend(Uuid::try_parse(&connection).ok().map(|connection| (connection, user)));
        }
        all.retain(|(connection, _)| after.is_none_or(|after| *connection > after));
        all.sort_unstable();
        all.truncate(limit);
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = pipe();
        for (connection, user) in &all {
            read.hget(self.calls.of_owner(Owner::User, user), connection.to_string());
        }
        let found: Vec<Option<String>> = self.link.pipeline(&read).await?;
        Ok(found.into_iter().flatten().filter_map(|entry| serde_json::from_str(&entry).ok()).collect())
    }

    async fn of_users(&self, users: &[UserId]) -> Result<Vec<Vec<Entry>>, LogError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = pipe();
        for user in users {
            read.hvals(self.calls.of_owner(Owner::User, user.as_str()));
        }
        let found: Vec<Vec<String>> = self.link.pipeline(&read).await?;
        let entries = found.into_iter().map(|of_user| {
            // What cannot be read is from a newer version.
            let entries = of_user.iter().filter_map(|entry| serde_json::from_str::<Entry>(entry).ok());
            let mut entries: Vec<Entry> = entries.collect();
            entries.sort_unstable_by_key(|entry| entry.connection_id);
            entries
        });
        Ok(entries.collect())
    }

    async fn due(&self) -> Result<Vec<Departure>, LogError> {
        self.calls.due().await
    }

    async fn settle(&self, departures: &[Departure]) -> Result<Vec<UserId>, LogError> {
        self.calls.settle(departures).await
    }
}

/// The first answer is text, the others are numbers.
fn split(answers: Vec<Value>) -> (Option<String>, Vec<usize>) {
    let mut answers = answers.into_iter();
    let first = answers.next().and_then(|first| from_redis_value(first).ok());
    (first, answers.filter_map(|count| from_redis_value(count).ok()).collect())
}
