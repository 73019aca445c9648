//! The log on Redis Streams: one stream for each partition, one consumer group for each role.
//!
//! ```text
//! everpost:{3}:log              stream; an entry is one append: lines, firsts, events (see append.lua)
//! everpost:{3}:meta             generation, base, last offset, run id of the server, at:<role> = position acknowledged
//! everpost:{3}:tops             conversation -> "seq born_ms", and '' -> generation, by which its loss shows
//! everpost:{3}:identities:new   identity -> what a repeat is told (and :old, the window before)
//! everpost:{3}:lease:<role>     owner, token, beat
//! ```
//!
//! Entry ids are `generation-offset`, offset being that of the entry's last event. Offsets are dense, so anyone reading
//! the stream sees a missing event. All events of one append share one entry: reading, pending lists and the
//! append-only file then cost by batch and not by event.
//!
//! Whether the server still is the one it was is found out by `append.lua` and `survey.lua`; see [`crate::recovery`].

mod append;
mod follower;
mod install;
pub(crate) mod keys;
mod leases;
pub(crate) mod link;
mod renewal;
mod settings;
mod vitals;
pub(crate) mod wire;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use redis::{Cmd, Script, Value, cmd, pipe};
use secrecy::SecretString;

pub use self::settings::RedisSettings;
use self::{append::Appender, follower::RedisFollower, keys::Keys, link::Link};
use super::{Appended, Condition, Durability, Follower, Log, LogError, Renewal, Tail, Top, Vitals};
use crate::{
    event::{Draft, Record},
    lease::Lease,
    name::ConversationId,
    partition::{Partition, Partitions},
    position::Position,
    role::Role,
    store::Installation,
};

/// Drafts in one script call; keeps a call well under a millisecond, because Redis does nothing else meanwhile.
const MAX_BATCH: usize = 128;
/// Identities are remembered at least this long, and at most twice as long once they are stored.
const IDENTITY_WINDOW_MS: u64 = 300_000;
/// The memory of identities turns over early when this many are new in one partition.
const MAX_NEW_IDENTITIES: u64 = 20_000;

struct Scripts {
    survey: Script,
    freeze: Script,
    renew: Script,
    hydrate: Script,
    ack: Script,
    trim: Script,
    acquire: Script,
    beat: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            survey: Script::new(include_str!("survey.lua")),
            freeze: Script::new(include_str!("freeze.lua")),
            renew: Script::new(include_str!("renew.lua")),
            hydrate: Script::new(include_str!("hydrate.lua")),
            ack: Script::new(include_str!("ack.lua")),
            trim: Script::new(include_str!("trim.lua")),
            acquire: Script::new(include_str!("acquire.lua")),
            beat: Script::new(include_str!("beat.lua")),
        }
    }
}

/// How to find and use the log on Redis.
#[derive(Debug, Clone)]
pub struct RedisLogConfig {
    /// `redis://user:password@host:port/db`.
    pub url: SecretString,
    /// What all keys begin with.
    pub prefix: String,
    /// How many partitions a new installation gets.
    pub partitions: Partitions,
    /// What an acknowledgement shall promise.
    pub durability: Durability,
}

/// A log on Redis Streams. Clones share connections.
#[derive(Clone)]
pub struct RedisLog {
    link: Link,
    appenders: Arc<[Appender]>,
    keys: Keys,
    scripts: Arc<Scripts>,
    partitions: Partitions,
    epoch: u32,
    durability: Durability,
}

impl RedisLog {
    /// Connects, refuses settings under which the promised durability would be a lie, and sets up what is missing. An
    /// installation that is `known` to be there is not set up anew: if Redis forgot it, that is for
    /// [`crate::recovery`] to mend.
    pub async fn open(config: &RedisLogConfig, known: Option<Installation>) -> Result<Self, LogError> {
        let link = Link::connect(&config.url).await?;
        let settings = RedisSettings::read(&link).await?;
        let faults = settings.faults_for(config.durability);
        if !faults.is_empty() {
            return Err(LogError::Unsuitable(faults.join("; ")));
        }
        let keys = Keys::new(&config.prefix);
        let wanted = known.unwrap_or_else(|| Installation {
            epoch: uuid::Uuid::new_v4().as_u128() as u32,
            partitions: config.partitions.count() as u16,
        });
        let (epoch, partitions) = install::install(&link, &keys, wanted).await?;
        let scripts = Arc::new(Scripts::new());
        let appenders = partitions.iter().map(Appender::new).collect();
        let log = Self { link, appenders, keys, scripts, partitions, epoch, durability: config.durability };
        if known.is_none() {
            log.prepare(&settings.run_id).await?;
        }
        log.survey().await?;
        Ok(log)
    }

    /// The server's settings, for whoever wants to explain them.
    pub async fn settings(url: &SecretString) -> Result<RedisSettings, LogError> {
        RedisSettings::read(&Link::connect(url).await?).await
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    fn range(&self, partition: Partition, after: Position, entries: usize) -> Cmd {
        let mut range = cmd("XRANGE");
        range.arg(self.keys.log(partition)).arg(format!("({}", wire::id(after))).arg("+");
        range.arg("COUNT").arg(entries.max(1));
        range
    }
}

#[async_trait]
impl Log for RedisLog {
    fn partitions(&self) -> Partitions {
        self.partitions
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    async fn append(&self, partition: Partition, drafts: &[Draft]) -> Result<Vec<Appended>, LogError> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        self.append_some(partition, drafts).await
    }

    fn generation(&self, partition: Partition) -> u16 {
        self.appenders[partition.index()].generation.load(Ordering::Acquire)
    }

    async fn hydrate(&self, partition: Partition, generation: u16, tops: &[Top]) -> Result<(), LogError> {
        self.link
            .script(&self.scripts.hydrate, |call| {
                call.key(self.keys.meta(partition)).key(self.keys.tops(partition)).arg(generation);
                for top in tops {
                    call.arg(top.conversation.as_str()).arg(top.seq);
                }
            })
            .await
    }

    async fn read_after(&self, partition: Partition, after: Position, max: usize) -> Result<Tail, LogError> {
        let mut read = pipe();
        // An entry has at least one record, so this may read too many, never too few to make progress.
        read.atomic().add_command(self.range(partition, after, max.div_ceil(4)));
        read.hget(self.keys.meta(partition), "generation").hget(self.keys.meta(partition), "last");
        let (found, generation, last): (Value, Option<u16>, Option<u64>) = self.link.pipeline(&read).await?;
        let end = end(generation, last)?;
        let mut records = wire::entries(found).flat_map(|entry| entry.records).collect::<Vec<_>>();
        records.retain(|record| record.position > after);
        let next = records.first().map_or(end.offset(), |first| first.position.back(1).offset());
        Ok(if next <= after.offset() { Tail::Records(records) } else { Tail::Trimmed })
    }

    async fn ends(&self) -> Result<Vec<Position>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.cmd("HMGET").arg(self.keys.meta(partition)).arg(&["generation", "last"]);
        }
        let found: Vec<(Option<u16>, Option<u64>)> = self.link.pipeline(&read).await?;
        let ends: Vec<Position> = found.into_iter().map(|(g, last)| end(g, last)).collect::<Result<_, _>>()?;
        self.partitions.iter().zip(&ends).for_each(|(partition, end)| self.saw(partition, *end));
        Ok(ends)
    }

    async fn progress(&self, role: Role) -> Result<Vec<Position>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.hget(self.keys.meta(partition), format!("at:{role}"));
        }
        let at: Vec<Option<String>> = self.link.pipeline(&read).await?;
        Ok(at.into_iter().map(|at| at.and_then(|id| wire::position(&id)).unwrap_or_default()).collect())
    }

    async fn vitals(&self) -> Result<Vitals, LogError> {
        self.look().await
    }

    async fn faults(&self) -> Result<Vec<String>, LogError> {
        self.unsuitable().await
    }

    async fn follow(&self, role: Role) -> Result<Box<dyn Follower>, LogError> {
        Ok(Box::new(RedisFollower::new(self.clone(), role)))
    }

    async fn trim(&self, lease: &Lease, keep: u64) -> Result<u64, LogError> {
        let (keys, partition) = (&self.keys, lease.partition);
        let removed: i64 = self
            .link
            .script(&self.scripts.trim, |call| {
                call.key(keys.log(partition)).key(keys.meta(partition)).key(keys.lease(lease.role, partition));
                call.key(keys.new_identities(partition)).key(keys.old_identities(partition));
                call.arg(lease.token).arg(keep).arg(IDENTITY_WINDOW_MS).arg(MAX_NEW_IDENTITIES);
            })
            .await?;
        u64::try_from(removed).map_err(|_| LogError::Fenced)
    }

    async fn tops(&self, partition: Partition) -> Result<Vec<Top>, LogError> {
        let (mut tops, mut cursor) = (HashMap::new(), 0_u64);
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(self.keys.tops(partition)).arg(cursor).arg("COUNT").arg(1_000);
            let (next, found): (u64, Vec<(String, String)>) = self.link.query(&scan).await?;
            tops.extend(found.iter().filter_map(|(name, top)| wire::top(name, top)));
            cursor = next;
            if cursor == 0 {
                return Ok(tops.into_iter().map(|(conversation, seq)| Top { conversation, seq }).collect());
            }
        }
    }

    async fn tops_of(&self, partition: Partition, conversations: &[ConversationId]) -> Result<Vec<u64>, LogError> {
        if conversations.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = conversations.iter().map(ConversationId::as_str).collect();
        let found: Vec<Option<String>> =
            self.link.query(cmd("HMGET").arg(self.keys.tops(partition)).arg(names)).await?;
        let seq = |(name, top): (&ConversationId, Option<String>)| wire::top(name.as_str(), &top?).map(|(_, seq)| seq);
        Ok(conversations.iter().zip(found).map(|top| seq(top).unwrap_or(0)).collect())
    }

    async fn survey(&self) -> Result<Vec<Condition>, LogError> {
        let surveys = self.partitions.iter().map(|partition| self.survey_one(partition));
        futures_util::future::try_join_all(surveys).await
    }

    async fn freeze(&self, partition: Partition, generation: u16) -> Result<(), LogError> {
        self.freeze_one(partition, generation).await
    }

    async fn renew(&self, condition: &Condition, renewal: &Renewal) -> Result<bool, LogError> {
        self.renew_one(condition, renewal).await
    }

    async fn salvage(&self, partition: Partition, after: Position, max: usize) -> Result<Vec<Record>, LogError> {
        let found = self.link.query(&self.range(partition, after, max.div_ceil(4))).await?;
        let records = wire::entries(found).flat_map(|entry| entry.records);
        Ok(records.filter(|record| record.position > after).collect())
    }
}

/// The end of a partition by its bookkeeping; without it nobody knows where that is.
fn end(generation: Option<u16>, last: Option<u64>) -> Result<Position, LogError> {
    match (generation, last) {
        (Some(_), Some(0)) => Ok(Position::ZERO),
        (Some(generation), Some(last)) => Ok(Position::new(generation, last)),
        _ => Err(LogError::Renewing),
    }
}
