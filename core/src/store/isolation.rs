//! Finds what a window is refused for and gives it up; everything else of the window is stored, in order.
//!
//! Halving, always from the front: what lies before the culprit is stored on the way, so a culprit costs the logarithm
//! of the window and three transactions, and no record is stored before an earlier one of its partition. Where culprits
//! are many they are close, and then each costs the logarithm of their distance: two transactions when all are bad.

use std::{collections::HashMap, error::Error, ops::Range, sync::Arc};

use uuid::Uuid;

use super::{Death, Reason, Store, StoreError};
use crate::{clock::now_ms, event::Record, lease::Lease, position::Position};

/// Records that were refused together, each with the lease it was read under.
pub struct Refused<'a> {
    store: &'a dyn Store,
    leases: Vec<Lease>,
    records: &'a [Record],
    since_ms: u64,
    given_up: Vec<GivenUp>,
}

/// How much longer each stretch is than the last, after a culprit.
const GROWTH: usize = 4;

/// Consecutive records that were refused together, and with which words if they were tried together.
struct Stretch {
    range: Range<usize>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// An event that has just become a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// The letter.
    pub id: Uuid,
    /// Under which lease the event was read.
    pub lease: Lease,
    /// Why.
    pub reason: Reason,
}

impl<'a> Refused<'a> {
    /// `leases` has one for each record.
    pub fn new(store: &'a dyn Store, leases: Vec<Lease>, records: &'a [Record]) -> Self {
        Self { store, leases, records, since_ms: now_ms(), given_up: Vec::new() }
    }

    /// What was given up so far.
    pub fn given_up(&self) -> &[GivenUp] {
        &self.given_up
    }

    /// Stores all but the culprits, which become dead letters.
    pub async fn isolate(&mut self) -> Result<(), StoreError> {
        let everything = 0..self.records.len();
        let (mut stretch, mut before) = (Some(Stretch { range: everything, cause: None }), None);
        while let Some(refused) = stretch {
            let culprit = self.narrow(refused).await?;
            let at = culprit.range.start;
            self.settle(culprit).await?;
            // Nearly always there was one culprit, so the rest goes at once; where there are more, they are as close as
            // the last two were.
            let width = before.map_or(self.records.len(), |before| at - before);
            before = Some(at);
            stretch = self.advance(at + 1, width).await?;
        }
        Ok(())
    }

    /// Stores what lies before the first culprit of a stretch that was refused, and returns that one alone.
    async fn narrow(&self, mut refused: Stretch) -> Result<Stretch, StoreError> {
        while refused.range.len() > 1 {
            let Range { start, end } = refused.range;
            let middle = start.midpoint(end);
            refused = match self.store(start..middle).await {
                Ok(()) => Stretch { range: middle..end, cause: None },
                Err(StoreError::Refused(cause)) => Stretch { range: start..middle, cause: Some(cause) },
                Err(error) => return Err(error),
            };
        }
        Ok(refused)
    }

    /// Gives one record up, but by inference never: if it was not refused by itself before, it is tried by itself.
    async fn settle(&mut self, culprit: Stretch) -> Result<(), StoreError> {
        let at = culprit.range.start;
        match culprit.cause {
            Some(cause) => self.bury(at, &*cause).await,
            None => match self.store(culprit.range).await {
                Err(StoreError::Refused(cause)) => self.bury(at, &*cause).await,
                outcome => outcome,
            },
        }
    }

    /// Stores what follows in ever longer stretches, until one of them is refused or nothing is left.
    async fn advance(&self, mut from: usize, mut width: usize) -> Result<Option<Stretch>, StoreError> {
        while from < self.records.len() {
            let range = from..self.records.len().min(from.saturating_add(width));
            (from, width) = (range.end, width.saturating_mul(GROWTH));
            match self.store(range.clone()).await {
                Ok(()) => {}
                Err(StoreError::Refused(cause)) => return Ok(Some(Stretch { range, cause: Some(cause) })),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn bury(&mut self, at: usize, cause: &(dyn Error + Send + Sync)) -> Result<(), StoreError> {
        let record = &self.records[at];
        let death = Death {
            lease: self.leases[at],
            record,
            reason: Reason::of_refusal(record),
            detail: cause.to_string(),
            attempts: 1,
            first_failed_ms: self.since_ms,
            last_failed_ms: now_ms(),
        };
        let (lease, reason) = (death.lease, death.reason);
        let buried = self.store.bury(&death).await?;
        self.given_up.extend(buried.map(|id| GivenUp { id, lease, reason }));
        Ok(())
    }

    async fn store(&self, range: Range<usize>) -> Result<(), StoreError> {
        let mut ends: HashMap<Lease, Position> = HashMap::new();
        let records = &self.records[range.clone()];
        ends.extend(self.leases[range].iter().copied().zip(records.iter().map(|record| record.position)));
        let done: Vec<(Lease, Position)> = ends.into_iter().collect();
        self.store.persist(&done, records).await.map(drop)
    }
}
