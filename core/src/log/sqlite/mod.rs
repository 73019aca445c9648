//! The embedded log: one SQLite file, one writer, one partition.
//!
//! The file is an append-only table, a row for each group commit; sequence numbers and identities live in memory and
//! are rebuilt from the rows that are left when the process starts. One task owns the writing connection and commits
//! whatever has gathered, so a flush to disk is shared by all who wait for it. Only this task writes, and only it
//! checkpoints. Partitions spread owners over machines; one process has nothing to spread.

mod follower;
mod generations;
mod leases;
mod ledger;
mod origin;
mod rows;
mod writer;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot, watch};

use self::{follower::SqliteFollower, generations::Generations, ledger::Ledger, origin::Origin, writer::Command};
use super::{Appended, Condition, Durability, Fault, Follower, Log, LogError, Renewal, Tail, Top, Vitals};
use crate::{
    disk::Alarm,
    event::{Draft, Record},
    lease::{Lease, LeaseView},
    name::ConversationId,
    partition::{Partition, Partitions},
    position::Position,
    role::Role,
    store::Installation,
};

/// Drafts in one call; one group commit may take several calls.
const MAX_BATCH: usize = 1_024;
/// The latest records are kept in memory, because nearly every read wants them.
const RECENT: usize = 16_384;

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
    alarm: Alarm,
    view: Mutex<View>,
}

/// What readers see; the writer changes it after each commit.
#[derive(Default)]
struct View {
    generations: Generations,
    fault: Option<Fault>,
    recent: VecDeque<Record>,
    progress: HashMap<Role, Position>,
    leases: HashMap<Role, LeaseView>,
    workers: HashMap<Role, HashMap<String, u64>>,
}

impl SqliteLog {
    /// Opens the log in a file, which is created if it is not there. The durability decides whether a commit waits for
    /// the disk.
    pub async fn open(path: &Path, durability: Durability) -> Result<Self, LogError> {
        Self::open_as(None, path, durability).await
    }

    /// The same for a store that belongs to an installation already. A file that may have lost something takes no
    /// events until it goes on in a new generation.
    pub async fn open_as(known: Option<Installation>, path: &Path, durability: Durability) -> Result<Self, LogError> {
        let mut connection = rows::connect(path, durability).await?;
        let is_new = rows::prepare(&mut connection, known.map(|known| known.epoch)).await?;
        let epoch = rows::epoch(&mut connection).await?;
        let origin = Origin::examine(&mut connection, path).await?;
        let mut view = View { generations: rows::generations(&mut connection).await?, ..View::default() };
        view.fault = if is_new && known.is_some() { Some(Fault::Emptied) } else { origin.fault() };
        if view.fault.is_none() {
            origin.announce()?;
            rows::whole(&mut connection, async |connection| rows::sign(connection, &origin).await).await?;
            origin.settle()?;
        }
        let ledger = recall(&mut connection, &mut view).await?;
        let readers = rows::readers(path).await?;
        let (commands, inbox) = mpsc::channel(256);
        let (announce, end) = watch::channel(ledger.end());
        let (view, alarm) = (Mutex::new(view), Alarm::new());
        let shared = Arc::new(Shared { commands, readers, durability, epoch, end, alarm, view });
        tokio::spawn(writer::run(connection, ledger, origin, inbox, announce, Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    /// Rings when nobody knows any more what is in the file. Nothing is written to it after that.
    pub fn alarm(&self) -> Alarm {
        self.shared.alarm.clone()
    }

    async fn command<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, LogError> {
        let (answer, answered) = oneshot::channel();
        self.shared.commands.send(make(answer)).await.map_err(|_| LogError::Closing)?;
        answered.await.map_err(|_| LogError::Closing)
    }

    fn recent_after(&self, after: u64, max: usize) -> Option<Vec<Record>> {
        let view = self.shared.view();
        let first = view.recent.front()?.position.offset();
        let skip = (after + 1).checked_sub(first)? as usize;
        Some(view.recent.iter().skip(skip).take(max).cloned().collect())
    }
}

impl Shared {
    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what the file holds.
async fn recall(connection: &mut SqliteConnection, view: &mut View) -> Result<Ledger, LogError> {
    let (generations, end) = (view.generations.clone(), rows::end(connection).await?);
    let mut ledger = Ledger::new(generations.clone(), end.max(generations.base()));
    rows::replay(connection, &generations, |record| {
        if !push_recent(&mut view.recent, &record) {
            ledger.forget_courses();
        }
        ledger.remember(&record);
    })
    .await?;
    if end < generations.base() {
        view.recent.clear();
        ledger.forget_courses();
    }
    view.progress = rows::progress(connection, &generations).await?;
    view.leases = rows::tokens(connection).await?;
    Ok(ledger)
}

/// Adds the next record; `false` if there is a gap before it, which empties the list first.
fn push_recent(recent: &mut VecDeque<Record>, record: &Record) -> bool {
    let follows = recent.back().is_none_or(|last| last.position.offset() + 1 == record.position.offset());
    if !follows {
        recent.clear();
    } else if recent.len() == RECENT {
        recent.pop_front();
    }
    recent.push_back(record.clone());
    follows
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
        if self.shared.view().fault.is_some() {
            return Err(LogError::Renewing);
        }
        let drafts = drafts.to_vec();
        self.command(|answer| Command::Append { drafts, answer }).await?
    }

    fn generation(&self, _: Partition) -> u16 {
        self.shared.view().generations.current()
    }

    async fn hydrate(&self, _: Partition, generation: u16, tops: &[Top]) -> Result<(), LogError> {
        let tops = tops.to_vec();
        self.command(|answer| Command::Hydrate { generation, tops, answer }).await?
    }

    async fn read_after(&self, _: Partition, after: Position, max: usize) -> Result<Tail, LogError> {
        if after >= *self.shared.end.borrow() {
            return Ok(Tail::Records(Vec::new()));
        }
        let (readers, generations) = (&self.shared.readers, self.shared.view().generations.clone());
        let after = generations.shared(after);
        if let Some(records) = self.recent_after(after, max) {
            return Ok(Tail::Records(records));
        }
        let records = rows::after(readers, &generations, after, max).await?.into_iter();
        let behind = records.skip_while(|record| record.position.offset() <= after).zip(after + 1..);
        let records: Vec<Record> =
            behind.take_while(|(record, next)| record.position.offset() == *next).map(|(record, _)| record).collect();
        Ok(if records.is_empty() { Tail::Trimmed } else { Tail::Records(records) })
    }

    async fn ends(&self) -> Result<Vec<Position>, LogError> {
        Ok(vec![*self.shared.end.borrow()])
    }

    async fn progress(&self, role: Role) -> Result<Vec<Position>, LogError> {
        Ok(vec![self.shared.view().progress.get(&role).copied().unwrap_or_default()])
    }

    /// The progress is read first, so that it is never ahead of the end.
    async fn vitals(&self) -> Result<Vitals, LogError> {
        let of = |view: &View, role| vec![view.progress.get(&role).copied().unwrap_or_default()];
        let progress = {
            let view = self.shared.view();
            Role::ALL.map(|role| (role, of(&view, role))).to_vec()
        };
        Ok(Vitals { ends: vec![*self.shared.end.borrow()], progress, memory: None })
    }

    /// The file belongs to this process, and nobody changes its settings meanwhile.
    async fn faults(&self) -> Result<Vec<String>, LogError> {
        Ok(Vec::new())
    }

    async fn follow(&self, role: Role) -> Result<Box<dyn Follower>, LogError> {
        Ok(Box::new(SqliteFollower::new(self.clone(), role)))
    }

    async fn trim(&self, lease: &Lease, keep: u64) -> Result<u64, LogError> {
        let lease = *lease;
        self.command(|answer| Command::Trim { lease, keep, answer }).await?
    }

    async fn tops(&self, _: Partition) -> Result<Vec<Top>, LogError> {
        self.command(|answer| Command::Tops { answer }).await
    }

    async fn tops_of(&self, _: Partition, conversations: &[ConversationId]) -> Result<Vec<u64>, LogError> {
        let conversations = conversations.to_vec();
        self.command(|answer| Command::TopsOf { conversations, answer }).await
    }

    async fn survey(&self) -> Result<Vec<Condition>, LogError> {
        let end = self.shared.end.borrow().offset();
        let view = self.shared.view();
        let (partition, generation, fault) = (Partition(0), view.generations.current(), view.fault);
        let witness = witness(generation, end);
        Ok(vec![Condition { partition, generation, fault, end, intact: true, seen: end, witness }])
    }

    /// Whatever is wrong with a file is found while it is opened, when nobody appends yet.
    async fn freeze(&self, _: Partition, _: u16) -> Result<(), LogError> {
        Ok(())
    }

    async fn renew(&self, condition: &Condition, renewal: &Renewal) -> Result<bool, LogError> {
        let (seen, renewal) = (condition.witness.clone(), *renewal);
        self.command(|answer| Command::Renew { seen, renewal, answer }).await?
    }

    async fn salvage(&self, _: Partition, after: Position, max: usize) -> Result<Vec<Record>, LogError> {
        let generations = self.shared.view().generations.clone();
        let after = generations.shared(after);
        let mut records = rows::after(&self.shared.readers, &generations, after, max).await?;
        records.retain(|record| record.position.offset() > after);
        Ok(records)
    }
}

/// What a state of the log is recognised by.
fn witness(generation: u16, end: u64) -> String {
    format!("{generation}-{end}")
}
