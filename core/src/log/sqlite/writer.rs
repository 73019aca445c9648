//! The one task that writes: it takes all commands that have gathered and commits them together.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    RECENT, Shared,
    ledger::{Ledger, Staged},
    origin::Origin,
    push_recent,
    rows::{self, Commit},
    witness,
};
use crate::{
    disk::Alarm,
    event::Draft,
    lease::{Lease, LeaseView},
    log::{Appended, LogError, Renewal, Top},
    name::ConversationId,
    position::Position,
    role::Role,
};

/// How many commands share one commit at most.
const MAX_COMMANDS: usize = 64;

pub(super) enum Command {
    Append { drafts: Vec<Draft>, answer: oneshot::Sender<Result<Vec<Appended>, LogError>> },
    Tops { answer: oneshot::Sender<Vec<Top>> },
    TopsOf { conversations: Vec<ConversationId>, answer: oneshot::Sender<Vec<u64>> },
    Hydrate { generation: u16, tops: Vec<Top>, answer: oneshot::Sender<Result<(), LogError>> },
    Renew { seen: String, renewal: Renewal, answer: oneshot::Sender<Result<bool, LogError>> },
    Ack { done: Vec<(Lease, Position)>, answer: oneshot::Sender<Result<(), LogError>> },
    Acquire { role: Role, owner: String, seen: LeaseView, answer: oneshot::Sender<Result<Option<u64>, LogError>> },
    Trim { lease: Lease, keep: u64, answer: oneshot::Sender<Result<u64, LogError>> },
}

struct Writer {
    connection: SqliteConnection,
    ledger: Ledger,
    end: watch::Sender<Position>,
    shared: Weak<Shared>,
    alarm: Alarm,
    origin: Origin,
}

type Appending = (Vec<Appended>, oneshot::Sender<Result<Vec<Appended>, LogError>>);

/// Serves commands until the last handle of the log is gone.
pub(super) async fn run(
    connection: SqliteConnection,
    ledger: Ledger,
    origin: Origin,
    mut inbox: mpsc::Receiver<Command>,
    end: watch::Sender<Position>,
    shared: Weak<Shared>,
) {
    let Some(alarm) = shared.upgrade().map(|shared| shared.alarm.clone()) else { return };
    let mut writer = Writer { connection, ledger, end, shared, alarm, origin };
    let mut commands = Vec::with_capacity(MAX_COMMANDS);
    while inbox.recv_many(&mut commands, MAX_COMMANDS).await > 0 {
        let mut staged = writer.ledger.stage();
        let mut appending: Vec<Appending> = Vec::new();
        for command in commands.drain(..) {
            match command {
                Command::Append { drafts, answer } => {
                    appending.push((writer.ledger.decide(&mut staged, &drafts), answer));
                }
                other => {
                    // What is staged was decided on the state before, so it goes first.
                    writer.append(std::mem::replace(&mut staged, writer.ledger.stage()), &mut appending).await;
                    writer.other(other).await;
                    staged = writer.ledger.stage();
                }
            }
        }
        writer.append(staged, &mut appending).await;
        if writer.has_lost_its_disk() {
            // Closing the connection would write to the file once more. Whoever asks from now on finds nobody here.
            std::mem::forget(writer.connection);
            return;
        }
    }
}

impl Writer {
    /// Writes, unless nobody knows what is in the file.
    async fn write(&mut self, commit: Commit<'_>) -> Result<u64, LogError> {
        if self.has_lost_its_disk() {
            return Err(LogError::Closing);
        }
        let written = commit.write(&mut self.connection).await;
        if let Err(LogError::Disk(failed)) = &written {
            self.alarm.ring(failed);
        }
        written
    }

    fn has_lost_its_disk(&self) -> bool {
        self.alarm.has_rung()
    }

    /// Commits staged records and answers everybody who waits for them.
    async fn append(&mut self, staged: Staged, appending: &mut Vec<Appending>) {
        let outcome = if staged.records.is_empty() {
            Ok(0)
        } else {
            self.write(Commit { records: &staged.records, ..Commit::default() }).await
        };
        if outcome.is_ok() {
            self.publish(staged);
        }
        for (answers, answer) in appending.drain(..) {
            let _ = answer.send(outcome.as_ref().map(|_| answers).map_err(Clone::clone));
        }
    }

    fn publish(&mut self, staged: Staged) {
        let records = self.ledger.commit(staged);
        if let (Some(shared), false) = (self.shared.upgrade(), records.is_empty()) {
            let mut view = shared.view();
            let skip = records.len().saturating_sub(RECENT);
            for record in &records[skip..] {
                push_recent(&mut view.recent, record);
            }
            drop(view);
            self.end.send_replace(self.ledger.end());
        }
    }

    async fn other(&mut self, command: Command) {
        let Some(shared) = self.shared.upgrade() else { return };
        match command {
            Command::Ack { done, answer } => drop(answer.send(self.ack(&shared, &done).await)),
            Command::Acquire { role, owner, seen, answer } => {
                drop(answer.send(self.acquire(&shared, role, owner, &seen).await));
            }
            Command::Trim { lease, keep, answer } => drop(answer.send(self.trim(&shared, lease, keep).await)),
            Command::Tops { answer } => drop(answer.send(self.ledger.tops())),
            Command::TopsOf { conversations, answer } => drop(answer.send(self.ledger.tops_of(&conversations))),
            Command::Hydrate { generation, tops, answer } => drop(answer.send(self.hydrate(generation, &tops))),
            Command::Renew { seen, renewal, answer } => {
                drop(answer.send(self.renew(&shared, &seen, renewal).await));
            }
            Command::Append { .. } => {}
        }
    }

    fn hydrate(&mut self, generation: u16, tops: &[Top]) -> Result<(), LogError> {
        if generation != self.ledger.generations().current() {
            return Err(LogError::Renewing);
        }
        self.ledger.hydrate(tops);
        Ok(())
    }

    async fn renew(&mut self, shared: &Arc<Shared>, seen: &str, renewal: Renewal) -> Result<bool, LogError> {
        let Renewal { generation, intact, .. } = renewal;
        if witness(self.ledger.generations().current(), self.ledger.end().offset()) != seen {
            return Ok(false);
        }
        self.origin.announce()?;
        rows::whole(&mut self.connection, async |connection| {
            rows::begin(connection, generation).await?;
            rows::sign(connection, &self.origin).await
        })
        .await?;
        self.origin.settle()?;
        let generations = self.ledger.generations().clone().and(generation);
        let (progress, leases) =
            (rows::progress(&mut self.connection, &generations).await?, rows::tokens(&mut self.connection).await?);
        let gap = self.ledger.end().offset() < generation.base;
        self.ledger.renew(generations.clone(), intact && !gap);
        let mut view = shared.view();
        if gap {
            view.recent.clear();
        }
        (view.generations, view.fault) = (generations, None);
        view.leases = leases;
        for (role, acked) in progress {
            let at = view.progress.entry(role).or_default();
            *at = (*at).max(acked); // what is not on disk yet counts as well
        }
        drop(view);
        self.end.send_replace(self.ledger.end());
        Ok(true)
    }

    /// Progress reaches the disk with the next trim or acquisition: forgetting it only repeats work.
    async fn ack(&mut self, shared: &Arc<Shared>, done: &[(Lease, Position)]) -> Result<(), LogError> {
        let mut view = shared.view();
        for (lease, upto) in done {
            if view.leases.get(&lease.role).map(|held| held.token) != Some(lease.token) {
                return Err(LogError::Fenced);
            }
            let at = view.progress.entry(lease.role).or_default();
            *at = (*at).max(*upto);
        }
        Ok(())
    }

    async fn acquire(
        &mut self,
        shared: &Arc<Shared>,
        role: Role,
        owner: String,
        seen: &LeaseView,
    ) -> Result<Option<u64>, LogError> {
        let (now, acked) = {
            let view = shared.view();
            let now = view.leases.get(&role).cloned().unwrap_or_default();
            (now, view.progress.get(&role).copied().unwrap_or_default())
        };
        if (now.token, now.beat) != (seen.token, seen.beat) {
            return Ok(None);
        }
        let token = seen.token + 1;
        self.write(Commit { roles: &[(role, acked, token)], ..Commit::default() }).await?;
        shared.view().leases.insert(role, LeaseView { owner: Some(owner), token, beat: 0 });
        Ok(Some(token))
    }

    async fn trim(&mut self, shared: &Arc<Shared>, lease: Lease, keep: u64) -> Result<u64, LogError> {
        let roles: BTreeMap<Role, (Position, u64)> = {
            let view = shared.view();
            if view.leases.get(&lease.role).map(|held| held.token) != Some(lease.token) {
                return Err(LogError::Fenced);
            }
            let token = |role| view.leases.get(&role).map_or(0, |held| held.token);
            let acked = |role| view.progress.get(&role).copied().unwrap_or_default();
            Role::ALL.into_iter().map(|role| (role, (acked(role), token(role)))).collect()
        };
        let low = roles.values().map(|(acked, _)| *acked).min().unwrap_or_default();
        self.ledger.turn_over(low);
        let roles: Vec<_> = roles.into_iter().map(|(role, (acked, token))| (role, acked, token)).collect();
        let cut = low.offset().min(self.ledger.end().offset().saturating_sub(keep.max(1)));
        self.write(Commit { roles: &roles, trim_to: Some(cut), ..Commit::default() }).await
    }
}
