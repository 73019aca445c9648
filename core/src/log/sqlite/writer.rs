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
    push_recent,
    rows::Commit,
};
use crate::{
    event::Draft,
    lease::{Lease, LeaseView},
    log::{Appended, LogError, Top},
    position::Position,
    role::Role,
};

/// How many commands share one commit at most.
const MAX_COMMANDS: usize = 64;

pub(super) enum Command {
    Append { drafts: Vec<Draft>, answer: oneshot::Sender<Result<Vec<Appended>, LogError>> },
    Hydrate { tops: Vec<Top>, answer: oneshot::Sender<()> },
    Ack { done: Vec<(Lease, Position)>, answer: oneshot::Sender<Result<(), LogError>> },
    Acquire { role: Role, owner: String, seen: LeaseView, answer: oneshot::Sender<Result<Option<u64>, LogError>> },
    Trim { lease: Lease, keep: u64, answer: oneshot::Sender<Result<u64, LogError>> },
}

struct Writer {
    connection: SqliteConnection,
    ledger: Ledger,
    end: watch::Sender<Position>,
    shared: Weak<Shared>,
}

type Appending = (Vec<Appended>, oneshot::Sender<Result<Vec<Appended>, LogError>>);

/// Serves commands until the last handle of the log is gone.
pub(super) async fn run(
    connection: SqliteConnection,
    ledger: Ledger,
    mut inbox: mpsc::Receiver<Command>,
    end: watch::Sender<Position>,
    shared: Weak<Shared>,
) {
    let mut writer = Writer { connection, ledger, end, shared };
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
                    staged = writer.ledger.stage();
                    writer.other(other).await;
                }
            }
        }
        writer.append(staged, &mut appending).await;
    }
}

impl Writer {
    /// Commits staged records and answers everybody who waits for them.
    async fn append(&mut self, staged: Staged, appending: &mut Vec<Appending>) {
        let outcome = if staged.records.is_empty() {
            Ok(0)
        } else {
            Commit { records: &staged.records, ..Commit::default() }.write(&mut self.connection).await
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
            records.into_iter().skip(skip).for_each(|record| push_recent(&mut view.recent, record));
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
            Command::Hydrate { tops, answer } => {
                self.ledger.hydrate(&tops);
                let _ = answer.send(());
            }
            Command::Append { .. } => {}
        }
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
        Commit { roles: &[(role, acked, token)], ..Commit::default() }.write(&mut self.connection).await?;
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
        Commit { roles: &roles, trim_to: Some(cut), ..Commit::default() }.write(&mut self.connection).await
    }
}
