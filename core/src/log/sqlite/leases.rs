//! Leases of the embedded log. There is one process, so they guard against its past: tokens outlive it.

use async_trait::async_trait;

use super::{SqliteLog, writer::Command};
use crate::{
    lease::{Lease, LeaseView, Leases},
    log::LogError,
    partition::Partition,
    role::Role,
};

#[async_trait]
impl Leases for SqliteLog {
    async fn view(&self, role: Role) -> Result<Vec<LeaseView>, LogError> {
        Ok(vec![self.shared.view().leases.get(&role).cloned().unwrap_or_default()])
    }

    async fn announce(&self, role: Role, owner: &str) -> Result<Vec<(String, u64)>, LogError> {
        let mut view = self.shared.view();
        let workers = view.workers.entry(role).or_default();
        *workers.entry(owner.to_owned()).or_default() += 1;
        Ok(workers.iter().map(|(owner, &count)| (owner.clone(), count)).collect())
    }

    async fn acquire(
        &self,
        role: Role,
        partition: Partition,
        owner: &str,
        seen: &LeaseView,
    ) -> Result<Option<Lease>, LogError> {
        let (owner, seen) = (owner.to_owned(), seen.clone());
        let token = self.command(|answer| Command::Acquire { role, owner, seen, answer }).await??;
        Ok(token.map(|token| Lease { role, partition, token }))
    }

    async fn beat(&self, leases: &[Lease]) -> Result<Vec<bool>, LogError> {
        let mut view = self.shared.view();
        let mut beat = |lease: &Lease| {
            let held = view.leases.get_mut(&lease.role).filter(|held| held.is_held(lease));
            held.map(|held| held.beat += 1).is_some()
        };
        Ok(leases.iter().map(&mut beat).collect())
    }

    async fn release(&self, lease: &Lease) -> Result<(), LogError> {
        let mut view = self.shared.view();
        if let Some(held) = view.leases.get_mut(&lease.role).filter(|held| held.is_held(lease)) {
            held.owner = None;
            held.beat += 1;
        }
        Ok(())
    }

    async fn retire(&self, role: Role, owner: &str) -> Result<(), LogError> {
        if let Some(workers) = self.shared.view().workers.get_mut(&role) {
            workers.remove(owner);
        }
        Ok(())
    }
}
