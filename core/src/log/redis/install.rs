//! Setting a log up, once.

use redis::{cmd, pipe};

use super::{RedisLog, keys::Keys, link::Link};
use crate::{
    clock::now_ms, generation::Generation, log::LogError, partition::Partitions, role::Role, store::Installation,
};

const LAYOUT: &str = "1";

/// Reads what the installation was set up with, or sets it up.
pub(super) async fn install(link: &Link, keys: &Keys, wanted: Installation) -> Result<(u32, Partitions), LogError> {
    let key = keys.install();
    // Also when Redis is full: a process that starts then may be the one that makes room.
    let particulars = [("layout", LAYOUT.to_owned()), ("partitions", wanted.partitions.to_string())];
    for (field, value) in particulars.into_iter().chain([("epoch", wanted.epoch.to_string())]) {
        link.insist::<()>("HSETNX", &key, |call| {
            call.arg(field).arg(value);
        })
        .await?;
    }
    let mut read = cmd("HMGET");
    read.arg(&key).arg(&["layout", "partitions", "epoch"]);
    let (layout, partitions, epoch): (String, u16, u32) = link.query(&read).await?;
    if layout != LAYOUT {
        return Err(LogError::Unsuitable(format!("the log in Redis has layout {layout}, this version knows {LAYOUT}")));
    }
    let partitions = Partitions::new(partitions).map_err(|error| LogError::Damaged(error.to_string()))?;
    Ok((epoch, partitions))
}

impl RedisLog {
    /// Creates each partition's bookkeeping and groups. A group starts before everything, never at the end.
    pub(super) async fn prepare(&self, run_id: &str) -> Result<(), LogError> {
        let (mut setup, first) = (pipe(), Generation::FIRST);
        let now = now_ms();
        for partition in self.partitions.iter() {
            let meta = self.keys.meta(partition);
            let fields = [("generation", first.number.into()), ("last", 0), ("known_since", now), ("new_since", now)];
            for (field, value) in fields.into_iter().chain([("old_until", 0_u64), ("base", first.base)]) {
                setup.hset_nx(&meta, field, value).ignore();
            }
            setup.hset_nx(&meta, "run", run_id).ignore();
            setup.hset_nx(self.keys.tops(partition), "", first.number).ignore();
            for role in Role::ALL {
                setup.hset_nx(&meta, format!("at:{role}"), format!("{}-0", first.number)).ignore();
                setup.hset_nx(self.keys.lease(role, partition), "token", 0).ignore();
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
}
