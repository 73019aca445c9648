//! A member of a role's consumer groups, one group for each partition.
//!
//! The consumer has one name for ever: a partition has one owner at a time, by its lease, so a takeover is reading the
//! group's whole pending list in order, and nothing is ever claimed by idle time or lost with a consumer. A blocking
//! read has its own connection and is never cancelled, because Redis hands entries also to a reader that stopped
//! listening; after any failed read the pending lists are read again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Value, aio::MultiplexedConnection, cmd};

use super::{RedisLog, link::failed, wire};
use crate::{
    lease::Lease,
    log::{Batch, Follower, LogError},
    partition::Partition,
    position::Position,
    role::Role,
};

const CONSUMER: &str = "owner";
const SLACK: Duration = Duration::from_secs(5);

/// What this member knows of one leased partition.
struct Held {
    lease: Lease,
    /// Where to go on in the pending list; `None` once it was read to its end.
    pending_after: Option<Position>,
    /// Entries read and not acknowledged.
    unacked: VecDeque<Position>,
}

pub(super) struct RedisFollower {
    log: RedisLog,
    role: Role,
    connection: Option<MultiplexedConnection>,
    held: HashMap<Partition, Held>,
    records_per_entry: usize,
}

impl RedisFollower {
    pub(super) fn new(log: RedisLog, role: Role) -> Self {
        Self { log, role, connection: None, held: HashMap::new(), records_per_entry: 1 }
    }

    /// Takes note of leases gained and lost.
    fn hold(&mut self, leases: &[Lease]) {
        self.held.retain(|_, held| leases.contains(&held.lease));
        for &lease in leases {
            let anew = || Held { lease, pending_after: Some(Position::ZERO), unacked: VecDeque::new() };
            self.held.entry(lease.partition).or_insert_with(anew);
        }
    }

    /// What an earlier owner left, one partition at a time, in order.
    async fn read_pending(&mut self, count: usize) -> Result<Option<Batch>, LogError> {
        let unread = |held: &Held| held.pending_after.map(|after| (held.lease.partition, after));
        while let Some((partition, after)) = self.held.values().find_map(unread) {
            let mut read = self.command(count, None);
            read.arg("STREAMS").arg(self.log.keys().log(partition)).arg(wire::id(after));
            let reply = self.query(&read, Duration::ZERO).await?;
            let entries: Vec<_> = wire::streams(reply).flat_map(|(_, entries)| entries).collect();
            let Some(held) = self.held.get_mut(&partition) else { continue };
            held.pending_after = entries.last().map(|entry| entry.id);
            if let Some(batch) = take(held, entries) {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    async fn read_new(&mut self, count: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        let partitions: Vec<Partition> = self.held.keys().copied().collect();
        let mut read = self.command(count, Some(wait));
        read.arg("STREAMS");
        let keys: Vec<String> = partitions.iter().map(|&partition| self.log.keys().log(partition)).collect();
        read.arg(&keys).arg(vec![">"; keys.len()]);
        let reply = self.query(&read, wait).await?;
        let by_key: HashMap<Vec<u8>, Partition> = keys.into_iter().map(String::into_bytes).zip(partitions).collect();
        let mut batches = Vec::new();
        for (key, entries) in wire::streams(reply) {
            let held = by_key.get(&key).and_then(|partition| self.held.get_mut(partition));
            batches.extend(held.and_then(|held| take(held, entries)));
        }
        Ok(batches)
    }

    fn command(&self, count: usize, block: Option<Duration>) -> redis::Cmd {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(self.role.as_str()).arg(CONSUMER).arg("COUNT").arg(count);
        if let Some(block) = block {
            read.arg("BLOCK").arg(block.as_millis().max(1) as u64);
        }
        read
    }

    async fn query(&mut self, read: &redis::Cmd, wait: Duration) -> Result<Value, LogError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.log.link().dedicated().await?,
        };
        let answer = tokio::time::timeout(wait + SLACK, read.query_async(&mut connection)).await;
        let reply = answer.map_err(LogError::unavailable).and_then(|reply| reply.map_err(failed));
        match reply {
            Ok(reply) => {
                self.connection = Some(connection);
                Ok(reply)
            }
            Err(error) => {
                self.start_over();
                Err(error)
            }
        }
    }

    /// After a failed read nobody knows what was handed out: read the pending lists again, from the start.
    fn start_over(&mut self) {
        for held in self.held.values_mut() {
            held.pending_after = Some(held.unacked.back().copied().unwrap_or(Position::ZERO));
        }
    }

    fn entries_for(&self, max: usize) -> usize {
        (max / self.held.len().max(1) / self.records_per_entry).clamp(1, 1_024)
    }
}

fn take(held: &mut Held, entries: Vec<wire::Entry>) -> Option<Batch> {
    held.unacked.extend(entries.iter().map(|entry| entry.id));
    for lost in entries.iter().filter(|entry| entry.records.is_empty()) {
        tracing::error!(partition = held.lease.partition.0, position = ?lost.id, "an entry vanished from the log");
    }
    let records: Vec<_> = entries.into_iter().flat_map(|entry| entry.records).collect();
    (!records.is_empty()).then_some(Batch { lease: held.lease, records })
}

#[async_trait]
impl Follower for RedisFollower {
    async fn read(&mut self, leases: &[Lease], max: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        self.hold(leases);
        if self.held.is_empty() {
            tokio::time::sleep(wait).await;
            return Ok(Vec::new());
        }
        let count = self.entries_for(max);
        if let Some(batch) = self.read_pending(count).await? {
            return Ok(vec![batch]);
        }
        let batches = self.read_new(count, wait).await?;
        let records: usize = batches.iter().map(|batch| batch.records.len()).sum();
        let entries: usize = self.held.values().map(|held| held.unacked.len()).sum();
        if let Some(average) = records.checked_div(entries) {
            self.records_per_entry = average.clamp(1, 128);
        }
        Ok(batches)
    }

    async fn ack(&mut self, done: &[(Lease, Position)]) -> Result<(), LogError> {
        let acks = done.iter().filter_map(|&(lease, upto)| {
            let held = self.held.get(&lease.partition).filter(|held| held.lease == lease)?;
            let ids: Vec<String> = held.unacked.iter().take_while(|&&id| id <= upto).map(|&id| wire::id(id)).collect();
            Some((lease, upto, ids))
        });
        let calls = acks.collect::<Vec<_>>();
        let log = &self.log;
        let answers = calls.iter().map(|(lease, upto, ids)| async move {
            let (keys, partition) = (log.keys(), lease.partition);
            let script = &log.scripts.ack;
            let held: bool = log
                .link()
                .script(script, |call| {
                    call.key(keys.log(partition)).key(keys.meta(partition)).key(keys.lease(lease.role, partition));
                    call.arg(lease.token).arg(lease.role.as_str()).arg(wire::id(*upto)).arg(ids);
                })
                .await?;
            Ok::<_, LogError>((*lease, *upto, held))
        });
        let answers = futures_util::future::join_all(answers).await;
        let mut outcome = Ok(());
        for answer in answers {
            match answer {
                Ok((lease, upto, true)) => {
                    if let Some(held) = self.held.get_mut(&lease.partition) {
                        held.unacked.retain(|&id| id > upto);
                    }
                }
                Ok((.., false)) => outcome = Err(LogError::Fenced),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}
