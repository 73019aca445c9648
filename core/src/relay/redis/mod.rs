//! Routing between processes, through the Redis the log is on.
//!
//! ```text
//! everpost:{3}:interest        hash: topic -> instances
//! everpost:gateways            hash: instance -> beats
//! everpost:{<instance>}:inbox  stream: parcels for one gateway
//! everpost:note:<name>         string: a note for whoever comes first, with a time to live
//! ```
//!
//! An inbox exists while its gateway is known, and senders never create one, so nothing gathers for the dead. Its owner
//! trims it behind itself; nobody else does, so a parcel is never lost without the gateway being given up for dead,
//! which it notices at its next beat.

mod inbox;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::{Script, ScriptInvocation, cmd, pipe};

use self::inbox::RedisInbox;
use super::{Inbox, Parcel, Relay, Topic};
use crate::{
    log::{
        Log, LogError,
        redis::{RedisLog, keys::Keys, link::Link},
    },
    name::InstanceId,
    partition::{Partition, Partitions},
};

/// A gateway whose beats stand still for this long is gone.
const FORGET_AFTER: Duration = Duration::from_secs(6);
/// A gateway with more parcels waiting than this no longer keeps up; it is given up, and will catch up from the log.
const MAX_WAITING: u64 = 20_000;
const FIRST_BEAT: u64 = 1;

/// A relay over Redis. Clones share it.
#[derive(Clone)]
pub struct RedisRelay {
    link: Link,
    keys: Keys,
    partitions: Partitions,
    interest: Arc<Script>,
    seen: Arc<Mutex<HashMap<InstanceId, (u64, Instant)>>>,
}

impl RedisRelay {
    /// A relay beside the log, over its connections.
    pub fn beside(log: &RedisLog) -> Self {
        Self {
            link: log.link().clone(),
            keys: log.keys().clone(),
            partitions: log.partitions(),
            interest: Arc::new(Script::new(include_str!("interest.lua"))),
            seen: Arc::default(),
        }
    }

    fn by_partition<'a>(&self, topics: &'a [Topic]) -> HashMap<Partition, Vec<(usize, &'a Topic)>> {
        let mut by_partition: HashMap<_, Vec<_>> = HashMap::new();
        for (at, topic) in topics.iter().enumerate() {
            by_partition.entry(topic.partition(self.partitions)).or_default().push((at, topic));
        }
        by_partition
    }

    async fn change(&self, what: &str, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError> {
        let by_partition = self.by_partition(topics);
        let changes = by_partition.iter().flat_map(|(&partition, topics)| {
            // Bounded calls: Redis does nothing else while a script runs.
            topics.chunks(500).map(move |topics| {
                self.link.script::<()>(&self.interest, move |call| {
                    call.key(self.keys.interest(partition)).arg(what).arg(instance.as_str());
                    call.arg(topics.iter().map(|(_, topic)| topic.key()).collect::<Vec<_>>());
                })
            })
        });
        futures_util::future::try_join_all(changes).await.map(drop)
    }

    /// Instances whose beats stand still, or whose inbox runs over.
    async fn lost(&self) -> Result<Vec<InstanceId>, LogError> {
        let beats: Vec<(String, u64)> = self.link.query(cmd("HGETALL").arg(self.keys.gateways())).await?;
        let beats: Vec<(InstanceId, u64)> =
            beats.into_iter().filter_map(|(name, beat)| Some((InstanceId::new(name).ok()?, beat))).collect();
        let mut lengths = pipe();
        for (instance, _) in &beats {
            lengths.cmd("XLEN").arg(self.keys.inbox(instance));
        }
        let waiting: Vec<u64> = if beats.is_empty() { Vec::new() } else { self.link.pipeline(&lengths).await? };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|known, _| beats.iter().any(|(instance, _)| instance == known));
        let now = Instant::now();
        let mut lost = Vec::new();
        for ((instance, beat), waiting) in beats.into_iter().zip(waiting) {
            let last = seen.entry(instance.clone()).or_insert((beat, now));
            if last.0 != beat {
                *last = (beat, now);
            }
            if now - last.1 > FORGET_AFTER || waiting > MAX_WAITING {
                lost.push(instance);
            }
        }
        Ok(lost)
    }

    /// Room is made only behind fan-out, so a full Redis must not hold it up. Some parcels may arrive for a second time.
    async fn send_at_the_limit(&self, entries: &[(String, Vec<Vec<u8>>)]) -> Result<(), LogError> {
        for (inbox, fields) in entries {
            let entry = |call: &mut ScriptInvocation<'_>| {
                call.arg("NOMKSTREAM").arg("*").arg(fields);
            };
            self.link.insist::<redis::Value>("XADD", inbox, entry).await?;
        }
        Ok(())
    }

    /// Takes an instance out of every topic of every partition.
    async fn withdraw(&self, instance: &InstanceId) -> Result<(), LogError> {
        for partition in self.partitions.iter() {
            let key = self.keys.interest(partition);
            let listed: Vec<(String, String)> = self.link.query(cmd("HGETALL").arg(&key)).await?;
            let topics: Vec<String> = listed
                .into_iter()
                .filter(|(_, instances)| instances.split(' ').any(|name| name == instance.as_str()))
                .map(|(topic, _)| topic)
                .collect();
            for topics in topics.chunks(500) {
                self.link
                    .script::<()>(&self.interest, |call| {
                        call.key(&key).arg("leave").arg(instance.as_str()).arg(topics);
                    })
                    .await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Relay for RedisRelay {
    async fn open(&self, instance: &InstanceId) -> Result<Box<dyn Inbox>, LogError> {
        let inbox = self.keys.inbox(instance);
        let known = |call: &mut ScriptInvocation<'_>| {
            call.arg(instance.as_str()).arg(FIRST_BEAT);
        };
        self.link.insist::<()>("HSET", &self.keys.gateways(), known).await?;
        let opened = |call: &mut ScriptInvocation<'_>| {
            call.arg("*").arg("opened").arg(1);
        };
        let start: String = self.link.insist("XADD", &inbox, opened).await?;
        Ok(Box::new(RedisInbox::new(self.link.clone(), inbox, start)))
    }

    async fn beat(&self, instance: &InstanceId) -> Result<bool, LogError> {
        let one_more = |call: &mut ScriptInvocation<'_>| {
            call.arg(instance.as_str()).arg(1);
        };
        let beats: u64 = self.link.insist("HINCRBY", &self.keys.gateways(), one_more).await?;
        let open: bool = self.link.query(cmd("EXISTS").arg(self.keys.inbox(instance))).await?;
        Ok(beats > FIRST_BEAT && open)
    }

    async fn sweep(&self) -> Result<(), LogError> {
        for instance in self.lost().await? {
            tracing::warn!(%instance, "a gateway is gone; its registrations are withdrawn");
            self.close(&instance).await?;
        }
        Ok(())
    }

    async fn close(&self, instance: &InstanceId) -> Result<(), LogError> {
        let mut close = pipe();
        close.hdel(self.keys.gateways(), instance.as_str()).ignore().unlink(self.keys.inbox(instance)).ignore();
        self.link.pipeline::<()>(&close).await?;
        self.withdraw(instance).await
    }

    async fn instances(&self) -> Result<Vec<InstanceId>, LogError> {
        let known: Vec<String> = self.link.query(cmd("HKEYS").arg(self.keys.gateways())).await?;
        Ok(known.into_iter().filter_map(|name| InstanceId::new(name).ok()).collect())
    }

    async fn join(&self, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError> {
        self.change("join", instance, topics).await
    }

    async fn leave(&self, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError> {
        self.change("leave", instance, topics).await
    }

    async fn listeners(&self, topics: &[Topic]) -> Result<Vec<Vec<InstanceId>>, LogError> {
        let mut found = vec![Vec::new(); topics.len()];
        if topics.is_empty() {
            return Ok(found);
        }
        let by_partition: Vec<_> = self.by_partition(topics).into_iter().collect();
        let mut read = pipe();
        for (partition, topics) in &by_partition {
            let keys: Vec<String> = topics.iter().map(|(_, topic)| topic.key()).collect();
            read.cmd("HMGET").arg(self.keys.interest(*partition)).arg(keys);
        }
        let replies: Vec<Vec<Option<String>>> = self.link.pipeline(&read).await?;
        for ((_, topics), instances) in by_partition.iter().zip(replies) {
            for (&(at, _), instances) in topics.iter().zip(instances) {
                let names = instances.as_deref().unwrap_or_default().split(' ');
                found[at] = names.filter_map(|name| InstanceId::new(name).ok()).collect();
            }
        }
        Ok(found)
    }

    async fn send(&self, parcels: Vec<(InstanceId, Parcel)>) -> Result<(), LogError> {
        if parcels.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::with_capacity(parcels.len());
        for (instance, parcel) in &parcels {
            entries.push((self.keys.inbox(instance), inbox::fields(parcel)?));
        }
        let mut send = pipe();
        for (inbox, fields) in &entries {
            send.cmd("XADD").arg(inbox).arg("NOMKSTREAM").arg("*").arg(fields).ignore();
        }
        match self.link.pipeline(&send).await {
            Err(LogError::Full) => self.send_at_the_limit(&entries).await,
            outcome => outcome,
        }
    }

    async fn deposit(&self, name: &str, note: &str, keep: Duration) -> Result<(), LogError> {
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX).max(1);
        self.link.query(cmd("SET").arg(self.keys.note(name)).arg(note).arg("PX").arg(keep)).await
    }

    async fn collect(&self, name: &str) -> Result<Option<String>, LogError> {
        self.link.query(cmd("GETDEL").arg(self.keys.note(name))).await
    }
}
