//! The embedded log: one SQLite file, one writer, one partition.
//!
//! The file is an append-only table, a row for each group commit; sequence numbers and identities live in memory and
//! are rebuilt from the rows that are left when the process starts. One task owns the writing connection and commits
//! whatever has gathered, so a flush to disk is shared by all who wait for it. Only this task writes, and only it
//! checkpoints. Partitions spread owners over machines; one process has nothing to spread.

mod follower;
mod leases;
mod ledger;
mod rows;
mod writer;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot, watch};

use self::{follower::SqliteFollower, ledger::Ledger, writer::Command};
use super::{Appended, Durability, Follower, Log, LogError, Tail, Top};
use crate::{
    event::{Draft, Record},
    lease::{Lease, LeaseView},
    partition::{Partition, Partitions},
    position::Position,
    role::Role,
};

/// Drafts in one call; one group commit may take several calls.
const MAX_BATCH: usize = 1_024;
/// The latest records are kept in memory, because nearly every read wants them.
const RECENT: usize = 16_384;
const GENERATION: u16 = 1;

/// An embedded log. Clones share it.
#[derive(Clone)]
pub struct SqliteLog {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    readers: SqlitePool,
    durability: Durability,
    epoch: u32,
    end: watch::Receiver<Position>,
    view: Mutex<View>,
}

/// What readers see; the writer changes it after each commit.
#[derive(Default)]
struct View {
    recent: VecDeque<Record>,
    progress: HashMap<Role, Position>,
    leases: HashMap<Role, LeaseView>,
    workers: HashMap<Role, HashMap<String, u64>>,
}

impl SqliteLog {
    /// Opens the log in a file, which is created if it is not there. The durability decides whether a commit waits for
    /// the disk.
    pub async fn open(path: &Path, durability: Durability) -> Result<Self, LogError> {
        let mut connection = rows::connect(path, durability).await?;
        let epoch = rows::prepare(&mut connection).await?;
        let mut ledger = Ledger::new(GENERATION, rows::end(&mut connection).await?);
        let mut view = View::default();
        rows::replay(&mut connection, |record| {
            ledger.remember(&record);
            push_recent(&mut view.recent, record);
        })
        .await?;
        view.progress = rows::progress(&mut connection).await?;
        view.leases = rows::tokens(&mut connection).await?;
        let readers = rows::readers(path).await?;
        let (commands, inbox) = mpsc::channel(256);
        let (announce, end) = watch::channel(ledger.end());
        let shared = Arc::new(Shared { commands, readers, durability, epoch, end, view: Mutex::new(view) });
        tokio::spawn(writer::run(connection, ledger, inbox, announce, Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    async fn command<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, LogError> {
        let (answer, answered) = oneshot::channel();
        self.shared.commands.send(make(answer)).await.map_err(|_| LogError::Closing)?;
        answered.await.map_err(|_| LogError::Closing)
    }

    fn recent_after(&self, after: Position, max: usize) -> Option<Vec<Record>> {
        let view = self.shared.view();
        let first = view.recent.front()?.position;
        if after.next() < first {
            return None;
        }
        let skip = after.offset().saturating_sub(first.offset() - 1) as usize;
        Some(view.recent.iter().skip(skip).take(max).cloned().collect())
    }
}

impl Shared {
    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push_recent(recent: &mut VecDeque<Record>, record: Record) {
    if recent.len() == RECENT {
        recent.pop_front();
    }
    recent.push_back(record);
}

#[async_trait]
impl Log for SqliteLog {
    fn partitions(&self) -> Partitions {
        Partitions::ONE
    }

    fn epoch(&self) -> u32 {
        self.shared.epoch
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    async fn append(&self, _: Partition, drafts: &[Draft]) -> Result<Vec<Appended>, LogError> {
        let drafts = drafts.to_vec();
        self.command(|answer| Command::Append { drafts, answer }).await?
    }

    async fn hydrate(&self, _: Partition, tops: &[Top]) -> Result<(), LogError> {
        let tops = tops.to_vec();
        self.command(|answer| Command::Hydrate { tops, answer }).await
    }

    async fn read_after(&self, _: Partition, after: Position, max: usize) -> Result<Tail, LogError> {
        if after >= *self.shared.end.borrow() {
            return Ok(Tail::Records(Vec::new()));
        }
        if let Some(records) = self.recent_after(after, max) {
            return Ok(Tail::Records(records));
        }
        let mut records = rows::after(&self.shared.readers, after, max).await?;
        records.retain(|record| record.position > after);
        let contiguous = records.first().is_some_and(|first| first.position.back(1).offset() == after.offset());
        Ok(if contiguous { Tail::Records(records) } else { Tail::Trimmed })
    }

    async fn ends(&self) -> Result<Vec<Position>, LogError> {
        Ok(vec![*self.shared.end.borrow()])
    }

    async fn progress(&self, role: Role) -> Result<Vec<Position>, LogError> {
        Ok(vec![self.shared.view().progress.get(&role).copied().unwrap_or_default()])
    }

    async fn follow(&self, role: Role) -> Result<Box<dyn Follower>, LogError> {
        Ok(Box::new(SqliteFollower::new(self.clone(), role)))
    }

    async fn trim(&self, lease: &Lease, keep: u64) -> Result<u64, LogError> {
        let lease = *lease;
        self.command(|answer| Command::Trim { lease, keep, answer }).await?
    }
}
