//! A member of a role's consumer groups, one group for each partition.
//!
//! The consumer has one name for ever: a partition has one owner at a time, by its lease, so a takeover is reading the
//! group's whole pending list in order, and nothing is ever claimed by idle time or lost with a consumer. A blocking
//! read has its own connection and is never cancelled, because Redis hands entries also to a reader that stopped
//! listening; after any failed read the pending lists are read again.
//!
//! The request of a reader that has lost its lease can arrive late, when another one reads already, and take entries
//! with it. They show as missing offsets, or by themselves in the pending list, and are read from there, in order.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::{Value, aio::MultiplexedConnection, cmd};

use super::{RedisLog, link::failed, wire};
use crate::{
    lease::Lease,
    log::{Batch, Follower, Log, LogError},
    partition::Partition,
    position::Position,
    role::Role,
};

const CONSUMER: &str = "owner";
const SLACK: Duration = Duration::from_secs(5);
/// How often the pending lists are looked at for entries that somebody else was handed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What this member knows of one leased partition.
struct Held {
    lease: Lease,
    /// Where to go on in the pending list; `None` once it was read to its end.
    pending_after: Option<Position>,
    /// Entries read and not acknowledged.
    unacked: VecDeque<Position>,
    /// Up to where everything was read, by this member or those before it.
    read_up_to: Position,
}

impl Held {
    /// Whether something lies before these entries that was not read.
    fn misses(&self, entries: &[wire::Entry]) -> bool {
        let first = entries.iter().find_map(|entry| entry.records.first()).map(|record| record.position);
        let comparable = |first: &Position| self.read_up_to.generation() == first.generation();
        let begins = self.read_up_to == Position::ZERO;
        first
            .filter(|first| begins || comparable(first))
            .is_some_and(|first| first.offset() > self.read_up_to.offset() + 1)
    }
}

pub(super) struct RedisFollower {
    log: RedisLog,
    role: Role,
    connection: Option<MultiplexedConnection>,
    held: HashMap<Partition, Held>,
    records_per_entry: usize,
    swept: Instant,
}

impl RedisFollower {
    pub(super) fn new(log: RedisLog, role: Role) -> Self {
        let swept = Instant::now();
        Self { log, role, connection: None, held: HashMap::new(), records_per_entry: 1, swept }
    }

    /// Takes note of leases gained and lost.
    async fn hold(&mut self, leases: &[Lease]) -> Result<(), LogError> {
        self.held.retain(|_, held| leases.contains(&held.lease));
        if leases.iter().all(|lease| self.held.contains_key(&lease.partition)) {
            return Ok(());
        }
        let progress = self.log.progress(self.role).await?;
        for &lease in leases {
            let read_up_to = progress.get(lease.partition.index()).copied().unwrap_or_default();
            let anew = || Held { lease, pending_after: Some(Position::ZERO), unacked: VecDeque::new(), read_up_to };
            self.held.entry(lease.partition).or_insert_with(anew);
        }
        Ok(())
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
                return Ok(Some(Batch { redelivered: true, ..batch }));
            }
        }
        Ok(None)
    }

    /// What was handed to a reader that no longer owns the partition, where nothing came after it.
    async fn read_strays(&mut self, count: usize) -> Result<Vec<Batch>, LogError> {
        if self.swept.elapsed() < SWEEP_EVERY {
            return Ok(Vec::new());
        }
        self.swept = Instant::now();
        let places = self.held.iter().map(|(&partition, held)| (partition, wire::id(held.read_up_to))).collect();
        let strays = self.read_from(places, count, None).await?;
        Ok(strays.into_iter().map(|batch| Batch { redelivered: true, ..batch }).collect())
    }

    async fn read_new(&mut self, count: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        let places = self.held.keys().map(|&partition| (partition, ">".to_owned())).collect();
        self.read_from(places, count, Some(wait)).await
    }

    async fn read_from(
        &mut self,
        places: Vec<(Partition, String)>,
        count: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Batch>, LogError> {
        let (partitions, ids): (Vec<Partition>, Vec<String>) = places.into_iter().unzip();
        let keys: Vec<String> = partitions.iter().map(|&partition| self.log.keys().log(partition)).collect();
        let mut read = self.command(count, wait);
        read.arg("STREAMS").arg(&keys).arg(ids);
        let reply = self.query(&read, wait.unwrap_or_default()).await?;
        let by_key: HashMap<Vec<u8>, Partition> = keys.into_iter().map(String::into_bytes).zip(partitions).collect();
        let mut batches = Vec::new();
        for (key, entries) in wire::streams(reply) {
            let Some(held) = by_key.get(&key).and_then(|partition| self.held.get_mut(partition)) else { continue };
            if held.misses(&entries) {
                // By now these are in the pending list as well, behind what is missing.
                held.pending_after = Some(held.read_up_to);
                continue;
            }
            batches.extend(take(held, entries));
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
    held.read_up_to = entries.last().map_or(held.read_up_to, |last| last.id.max(held.read_up_to));
    for lost in entries.iter().filter(|entry| entry.records.is_empty()) {
        tracing::error!(partition = held.lease.partition.0, position = ?lost.id, "an entry vanished from the log");
    }
    let records: Vec<_> = entries.into_iter().flat_map(|entry| entry.records).collect();
    (!records.is_empty()).then_some(Batch { lease: held.lease, records, redelivered: false })
}

#[async_trait]
impl Follower for RedisFollower {
    async fn read(&mut self, leases: &[Lease], max: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        self.hold(leases).await?;
        if self.held.is_empty() {
            tokio::time::sleep(wait).await;
            return Ok(Vec::new());
        }
        let count = self.entries_for(max);
        if let Some(batch) = self.read_pending(count).await? {
            return Ok(vec![batch]);
        }
        let mut batches = self.read_strays(count).await?;
        if batches.is_empty() {
            batches = self.read_new(count, wait).await?;
        }
        if batches.is_empty() {
            batches.extend(self.read_pending(count).await?);
        }
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
