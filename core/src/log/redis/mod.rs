//! The log on Redis Streams: one stream for each partition, one consumer group for each role.
//!
//! ```text
//! everpost:{3}:log              stream; an entry is one append: seqs, and events as lines (0 for a line not accepted)
//! everpost:{3}:meta             generation, last offset, at:<role> = position acknowledged
//! everpost:{3}:tops             conversation -> "seq born_ms"
//! everpost:{3}:identities:new   identity -> what a repeat is told (and :old, the window before)
//! everpost:{3}:lease:<role>     owner, token, beat
//! ```
//!
//! Entry ids are `generation-offset`, offset being that of the entry's last event. Offsets are dense, so anyone reading
//! the stream sees a missing event. All events of one append share one entry: reading, pending lists and the
//! append-only file then cost by batch and not by event.

mod follower;
pub(crate) mod keys;
mod leases;
pub(crate) mod link;
mod settings;
pub(crate) mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Script, Value, cmd, pipe};
use secrecy::SecretString;
use tokio::sync::OnceCell;

pub use self::settings::RedisSettings;
use self::{follower::RedisFollower, keys::Keys, link::Link};
use super::{Appended, Durability, Follower, Log, LogError, Tail, Top};
use crate::{
    clock::now_ms,
    event::Draft,
    identity::CLOCK_LEEWAY_MS,
    lease::Lease,
    partition::{Partition, Partitions},
    position::Position,
    role::Role,
};

/// Drafts in one script call; keeps a call well under a millisecond, because Redis does nothing else meanwhile.
const MAX_BATCH: usize = 128;
/// Bytes of data up to which an append is small.
const SMALL_APPEND: usize = 1_024;
/// Identities are remembered at least this long, and at most twice as long once they are stored.
const IDENTITY_WINDOW_MS: u64 = 300_000;
/// The memory of identities turns over early when this many are new in one partition.
const MAX_NEW_IDENTITIES: u64 = 20_000;
const LAYOUT: &str = "1";
const GENERATION: u16 = 1;

struct Scripts {
    append: Script,
    hydrate: Script,
    ack: Script,
    trim: Script,
    acquire: Script,
    beat: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            append: Script::new(include_str!("append.lua")),
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
    /// For each partition, opened with its first append.
    appenders: Arc<[OnceCell<Link>]>,
    keys: Keys,
    scripts: Arc<Scripts>,
    partitions: Partitions,
    epoch: u32,
    durability: Durability,
}

impl RedisLog {
    /// Connects, refuses settings under which the promised durability would be a lie, and sets up what is missing.
    pub async fn open(config: &RedisLogConfig) -> Result<Self, LogError> {
        let link = Link::connect(&config.url).await?;
        let settings = RedisSettings::read(&link).await?;
        let mut faults = settings.faults();
        if config.durability == Durability::Fsync {
            faults.extend(settings.durability_faults());
        }
        if !faults.is_empty() {
            return Err(LogError::Unsuitable(faults.join("; ")));
        }
        let keys = Keys::new(&config.prefix);
        let (epoch, partitions) = install(&link, &keys, config.partitions).await?;
        let scripts = Arc::new(Scripts::new());
        let appenders = partitions.iter().map(|_| OnceCell::new()).collect();
        let log = Self { link, appenders, keys, scripts, partitions, epoch, durability: config.durability };
        log.prepare().await?;
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

    /// Creates each partition's bookkeeping and groups. A group starts before everything, never at the end.
    async fn prepare(&self) -> Result<(), LogError> {
        let mut setup = pipe();
        let now = now_ms();
        for partition in self.partitions.iter() {
            let meta = self.keys.meta(partition);
            let fields = [("generation", GENERATION.into()), ("last", 0), ("known_since", now), ("new_since", now)];
            for (field, value) in fields.into_iter().chain([("old_until", 0_u64)]) {
                setup.hset_nx(&meta, field, value).ignore();
            }
            for role in Role::ALL {
                setup.hset_nx(&meta, format!("at:{role}"), format!("{GENERATION}-0")).ignore();
            }
        }
        self.link.pipeline::<()>(&setup).await?;
        for (partition, role) in self.partitions.iter().flat_map(|p| Role::ALL.map(|role| (p, role))) {
            let mut create = cmd("XGROUP");
            create.arg("CREATE").arg(self.keys.log(partition)).arg(role.as_str()).arg("0").arg("MKSTREAM");
            match self.link.query::<()>(&create).await {
                Err(LogError::Unavailable(cause)) if !cause.to_string().contains("BUSYGROUP") => {
                    return Err(LogError::Unavailable(cause));
                }
                Err(error @ (LogError::Unsuitable(_) | LogError::Damaged(_))) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Small appends share a connection, and with it system calls; large ones would wait there for each other.
    async fn appender(&self, partition: Partition, drafts: &[Draft]) -> Result<&Link, LogError> {
        let bytes: usize = drafts.iter().map(|draft| draft.data.len()).sum();
        if bytes <= SMALL_APPEND {
            return Ok(&self.link);
        }
        self.appenders[partition.index()].get_or_try_init(|| self.link.another()).await
    }

    fn append_arguments(drafts: &[Draft], call: &mut redis::ScriptInvocation<'_>) {
        let mut names: Vec<&str> = Vec::new();
        let conversations: Vec<u8> = drafts.iter().map(|draft| index_of(&mut names, draft)).collect();
        let minted: Vec<String> = drafts.iter().map(|draft| draft.minted_ms().min(1 << 50).to_string()).collect();
        let mut events = Vec::with_capacity(drafts.iter().map(|draft| draft.data.len() + 256).sum());
        drafts.iter().for_each(|draft| wire::push_line(&mut events, &draft.header_tail(), &draft.data));
        call.arg(GENERATION).arg(CLOCK_LEEWAY_MS).arg(names.len()).arg(names);
        call.arg(conversations).arg(minted.join(" ")).arg(events);
        for draft in drafts {
            call.arg(&draft.identity().0[..]);
        }
        for draft in drafts {
            call.arg([draft.message_id.as_bytes().as_slice(), &draft.body.0].concat());
        }
    }
}

/// Where the draft's conversation stands in the list, counted from 1, added if it is new. A batch has no more than
/// [`MAX_BATCH`] of them, so a byte holds it.
fn index_of<'a>(names: &mut Vec<&'a str>, draft: &'a Draft) -> u8 {
    let name = draft.conversation.as_str();
    let known = names.iter().position(|&known| known == name);
    let index = known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    (index + 1) as u8
}

/// Reads what the installation was set up with, or sets it up.
async fn install(link: &Link, keys: &Keys, wanted: Partitions) -> Result<(u32, Partitions), LogError> {
    let key = keys.install();
    let mut setup = pipe();
    setup.hset_nx(&key, "layout", LAYOUT).ignore();
    setup.hset_nx(&key, "partitions", wanted.count()).ignore();
    setup.hset_nx(&key, "epoch", uuid::Uuid::new_v4().as_u128() as u32).ignore();
    setup.cmd("HMGET").arg(&key).arg(&["layout", "partitions", "epoch"]);
    let ((layout, partitions, epoch),): ((String, u16, u32),) = link.pipeline(&setup).await?;
    if layout != LAYOUT {
        return Err(LogError::Unsuitable(format!("the log in Redis has layout {layout}, this version knows {LAYOUT}")));
    }
    let partitions = Partitions::new(partitions).map_err(|error| LogError::Damaged(error.to_string()))?;
    Ok((epoch, partitions))
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
        let keys = &self.keys;
        let appender = self.appender(partition, drafts).await?;
        let reply: Vec<Value> = appender
            .script(&self.scripts.append, |call| {
                call.key(keys.log(partition)).key(keys.meta(partition)).key(keys.tops(partition));
                call.key(keys.new_identities(partition)).key(keys.old_identities(partition));
                Self::append_arguments(drafts, call);
            })
            .await?;
        wire::answers(&reply, GENERATION).ok_or_else(|| LogError::Damaged("append gave an unreadable answer".into()))
    }

    async fn hydrate(&self, partition: Partition, tops: &[Top]) -> Result<(), LogError> {
        self.link
            .script(&self.scripts.hydrate, |call| {
                call.key(self.keys.meta(partition)).key(self.keys.tops(partition)).arg(GENERATION);
                for top in tops {
                    call.arg(top.conversation.as_str()).arg(top.seq);
                }
            })
            .await
    }

    async fn read_after(&self, partition: Partition, after: Position, max: usize) -> Result<Tail, LogError> {
        let mut range = cmd("XRANGE");
        range.arg(self.keys.log(partition)).arg(format!("({}", wire::id(after))).arg("+").arg("COUNT");
        // An entry has at least one record, so this may read too many, never too few to make progress.
        range.arg(max.div_ceil(4).max(1));
        let mut records =
            wire::entries(self.link.query(&range).await?).flat_map(|entry| entry.records).collect::<Vec<_>>();
        records.retain(|record| record.position > after);
        let contiguous = records.first().is_none_or(|first| first.position.back(1).offset() == after.offset());
        Ok(if contiguous { Tail::Records(records) } else { Tail::Trimmed })
    }

    async fn ends(&self) -> Result<Vec<Position>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.hget(self.keys.meta(partition), "last");
        }
        let lasts: Vec<Option<u64>> = self.link.pipeline(&read).await?;
        Ok(lasts.into_iter().map(|last| position(last.unwrap_or(0))).collect())
    }

    async fn progress(&self, role: Role) -> Result<Vec<Position>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.hget(self.keys.meta(partition), format!("at:{role}"));
        }
        let at: Vec<Option<String>> = self.link.pipeline(&read).await?;
        Ok(at.into_iter().map(|at| at.and_then(|id| wire::position(&id)).unwrap_or_default()).collect())
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
}

fn position(offset: u64) -> Position {
    if offset == 0 { Position::ZERO } else { Position::new(GENERATION, offset) }
}
