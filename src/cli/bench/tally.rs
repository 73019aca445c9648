//! Counts and latencies of a whole run, in a few shards so that connections hardly ever wait for each other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use hdrhistogram::Histogram;

/// A few times the cores the generator may use.
const SHARDS: usize = 16;
/// A minute in nanoseconds; anything slower is counted as this.
const SLOWEST: u64 = 60_000_000_000;

/// What a share of the connections has counted.
pub(super) struct Shard {
    /// Messages received.
    pub(super) deliveries: u64,
    /// Publishes acknowledged.
    pub(super) acks: u64,
    /// From sending a message to receiving it, in nanoseconds.
    pub(super) delivery: Histogram<u64>,
    /// From sending a message to its acknowledgement.
    pub(super) ack: Histogram<u64>,
    /// What acknowledgements promised, and how often.
    pub(super) durability: Vec<(String, u64)>,
    /// Refused publishes, and the first refusal.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Connections the server closed, and the first reason.
    pub(super) closed: u64,
    pub(super) first_close: Option<String>,
}

impl Shard {
    pub(super) fn new() -> Result<Self> {
        let histogram = || -> Result<Histogram<u64>> {
            let mut histogram = Histogram::new_with_bounds(1_000, SLOWEST, 3)?;
            histogram.auto(false);
            Ok(histogram)
        };
        Ok(Self {
            deliveries: 0,
            acks: 0,
            delivery: histogram()?,
            ack: histogram()?,
            durability: Vec::new(),
            errors: 0,
            first_error: None,
            closed: 0,
            first_close: None,
        })
    }

    /// Notes what `count` acknowledgements promise.
    pub(super) fn promise(&mut self, durability: &[u8], count: u64) {
        match self.durability.iter_mut().find(|(known, _)| known.as_bytes() == durability) {
            Some((_, sum)) => *sum += count,
            None => self.durability.push((String::from_utf8_lossy(durability).into_owned(), count)),
        }
    }

    /// Notes a refusal.
    pub(super) fn refuse(&mut self, frame: &[u8]) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| String::from_utf8_lossy(frame).into_owned());
    }

    /// Notes a connection that ended.
    pub(super) fn close(&mut self, reason: String) {
        self.closed += 1;
        self.first_close.get_or_insert(reason);
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.deliveries += other.deliveries;
        self.acks += other.acks;
        self.delivery.add(&other.delivery)?;
        self.ack.add(&other.ack)?;
        for (durability, count) in &other.durability {
            self.promise(durability.as_bytes(), *count);
        }
        self.errors += other.errors;
        self.closed += other.closed;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        self.first_close = self.first_close.take().or_else(|| other.first_close.clone());
        Ok(())
    }

    /// Everything but the latencies stays; they are measured in the steady part of a run only.
    fn forget_latencies(&mut self) {
        self.delivery.reset();
        self.ack.reset();
    }
}

/// All shards.
pub(super) struct Tally {
    shards: Vec<Mutex<Shard>>,
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        let shards = (0..SHARDS).map(|_| Ok(Mutex::new(Shard::new()?))).collect::<Result<_>>()?;
        Ok(Self { shards })
    }

    /// The shard of the `index`-th connection.
    pub(super) fn shard(&self, index: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[index % SHARDS])
    }

    /// The sum of all shards.
    pub(super) fn total(&self) -> Result<Shard> {
        let mut total = Shard::new()?;
        self.shards.iter().try_for_each(|shard| total.add(&lock(shard)))?;
        Ok(total)
    }

    /// Messages received and publishes acknowledged so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.shards.iter().map(lock).fold((0, 0), |sum, shard| (sum.0 + shard.deliveries, sum.1 + shard.acks))
    }

    /// Starts the latencies over.
    pub(super) fn forget_latencies(&self) {
        self.shards.iter().for_each(|shard| lock(shard).forget_latencies());
    }
}

/// A lock whose holder panicked still guards usable counts.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let tally = Tally::new().expect("valid bounds");
        for index in 0..3 {
            let mut shard = tally.shard(index);
            shard.deliveries += 10;
            shard.acks += 1;
            shard.ack.saturating_record(5_000_000);
            shard.promise(b"fsynced", 2);
        }
        tally.shard(1).promise(b"memory", 1);
        tally.shard(2).close("4008 slow".to_owned());
        let total = tally.total().expect("same bounds");
        assert_eq!((tally.counts(), total.ack.len()), ((30, 3), 3));
        assert_eq!(total.durability, [("fsynced".to_owned(), 6), ("memory".to_owned(), 1)]);
        assert_eq!((total.closed, total.first_close.as_deref()), (1, Some("4008 slow")));
    }

    #[test]
    fn only_latencies_are_forgotten() {
        let tally = Tally::new().expect("valid bounds");
        tally.shard(0).acks = 4;
        tally.shard(0).ack.saturating_record(1);
        tally.forget_latencies();
        let total = tally.total().expect("same bounds");
        assert_eq!((total.acks, total.ack.len()), (4, 0));
    }
}
