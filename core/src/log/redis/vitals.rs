//! A look at the log in Redis: a few fields of each partition, and what the server says of its memory.

use redis::{cmd, pipe};

use super::{RedisLog, RedisSettings, wire};
use crate::{
    log::{LogError, Memory, Vitals},
    position::Position,
    role::Role,
};

impl RedisLog {
    /// One round trip for any number of partitions.
    pub(super) async fn look(&self) -> Result<Vitals, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            let fields = Role::ALL.map(|role| format!("at:{role}"));
            read.cmd("HMGET").arg(self.keys.meta(partition)).arg("generation").arg("last").arg(&fields);
        }
        let mut info = cmd("INFO");
        info.arg("memory");
        let (rows, info) = futures_util::try_join!(
            self.link.pipeline::<Vec<Vec<Option<String>>>>(&read),
            self.link.query::<String>(&info)
        )?;
        let ends = rows.iter().map(|row| end(row)).collect();
        let at = |row: &Vec<Option<String>>, index: usize| row.get(2 + index)?.as_deref().and_then(wire::position);
        let progress = Role::ALL.into_iter().enumerate();
        let progress =
            progress.map(|(index, role)| (role, rows.iter().map(|row| at(row, index).unwrap_or_default()).collect()));
        Ok(Vitals { ends, progress: progress.collect(), memory: Some(memory(&info)) })
    }

    /// What makes a promise false, as the server is set up now.
    pub(super) async fn unsuitable(&self) -> Result<Vec<String>, LogError> {
        Ok(RedisSettings::read(&self.link).await?.faults_for(self.durability))
    }
}

/// The last position of a partition, from its generation and last offset.
fn end(row: &[Option<String>]) -> Position {
    let number = |at: usize| row.get(at)?.as_deref()?.parse::<u64>().ok();
    let generation = number(0).and_then(|generation| u16::try_from(generation).ok()).unwrap_or(0);
    match number(1) {
        Some(offset) if offset > 0 => Position::new(generation, offset),
        _ => Position::ZERO,
    }
}

/// Buffers for replicas and for the append-only file do not count towards the limit.
fn memory(info: &str) -> Memory {
    let told = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let used = told("used_memory:").unwrap_or(0).saturating_sub(told("mem_not_counted_for_evict:").unwrap_or(0));
    Memory { used, limit: told("maxmemory:").filter(|&limit| limit > 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_count_and_no_limit_is_none() {
        let info = "# Memory\r\nused_memory:1000\r\nused_memory_human:1K\r\nmaxmemory:4000\r\n\
                    mem_not_counted_for_evict:200\r\n";
        assert_eq!(memory(info), Memory { used: 800, limit: Some(4_000) });
        assert_eq!(memory("used_memory:5\r\nmaxmemory:0\r\n"), Memory { used: 5, limit: None });
    }

    #[test]
    fn a_partition_without_bookkeeping_ends_at_its_start() {
        let row = |fields: [Option<&str>; 2]| fields.map(|field| field.map(str::to_owned)).to_vec();
        assert_eq!(end(&row([None, None])), Position::ZERO);
        assert_eq!(end(&row([Some("3"), Some("17")])), Position::new(3, 17));
        assert_eq!(end(&row([Some("1"), Some("0")])), Position::ZERO);
    }
}
