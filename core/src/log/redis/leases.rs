//! Leases in Redis, beside the partition they guard.

use async_trait::async_trait;
use redis::{cmd, pipe};

use super::RedisLog;
use crate::{
    lease::{Lease, LeaseView, Leases},
    log::LogError,
    partition::Partition,
    role::Role,
};

impl RedisLog {
    async fn hold_on(&self, lease: &Lease, what: &str) -> Result<bool, LogError> {
        let key = self.keys().lease(lease.role, lease.partition);
        self.link()
            .script(&self.scripts.beat, |call| {
                call.key(key).arg(lease.token).arg(what);
            })
            .await
    }
}

#[async_trait]
impl Leases for RedisLog {
    async fn view(&self, role: Role) -> Result<Vec<LeaseView>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.cmd("HMGET").arg(self.keys().lease(role, partition)).arg(&["owner", "token", "beat"]);
        }
        let leases: Vec<(Option<String>, Option<u64>, Option<u64>)> = self.link().pipeline(&read).await?;
        let view = |(owner, token, beat): (_, Option<u64>, Option<u64>)| LeaseView {
            owner,
            token: token.unwrap_or(0),
            beat: beat.unwrap_or(0),
        };
        Ok(leases.into_iter().map(view).collect())
    }

    async fn announce(&self, role: Role, owner: &str) -> Result<Vec<(String, u64)>, LogError> {
        let key = self.keys().workers(role);
        let announce = |call: &mut redis::ScriptInvocation<'_>| {
            call.arg(owner).arg(1);
        };
        self.link().insist::<()>("HINCRBY", &key, announce).await?;
        self.link().query(cmd("HGETALL").arg(&key)).await
    }

    async fn acquire(
        &self,
        role: Role,
        partition: Partition,
        owner: &str,
        seen: &LeaseView,
    ) -> Result<Option<Lease>, LogError> {
        let key = self.keys().lease(role, partition);
        let token: Option<u64> = self
            .link()
            .script(&self.scripts.acquire, |call| {
                call.key(key).arg(owner).arg(seen.token).arg(seen.beat);
            })
            .await?;
        Ok(token.map(|token| Lease { role, partition, token }))
    }

    async fn beat(&self, leases: &[Lease]) -> Result<Vec<bool>, LogError> {
        futures_util::future::try_join_all(leases.iter().map(|lease| self.hold_on(lease, "beat"))).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), LogError> {
        self.hold_on(lease, "release").await.map(drop)
    }

    async fn retire(&self, role: Role, owner: &str) -> Result<(), LogError> {
        self.link().query(cmd("HDEL").arg(self.keys().workers(role)).arg(owner)).await
    }
}
