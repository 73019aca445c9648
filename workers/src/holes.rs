//! Fills the holes that entries leave which vanish from the log behind our back.
//!
//! Offsets are dense, so whoever stores a partition sees that one is missing. An entry that is there and was not handed
//! out, because somebody moved the group, is read directly. Which events stood at the other offsets nobody can say
//! any more; but the log still knows the last number it gave in each conversation, and what the store has and what is
//! left in the log says which numbers are not accounted for. Each gets a tombstone with the reason `lost`, in the place
//! of what is missing, so that no conversation keeps a hole.

use std::collections::HashMap;

use everpost_core::{
    clock::now_ms,
    event::{Event, Record},
    identity::Digest,
    log::{Batch, Top},
    name::{ConversationId, EventName},
    partition::Partition,
    position::Position,
};
use uuid::Uuid;

use crate::{Ports, StepError};

const LOST: &str = r#"{"reason":"lost"}"#;
/// Who stands for the sender of what nobody remembers.
const NOBODY: &str = "everpost";
/// Conversations compared in one go, and records read in one.
const CONVERSATIONS: usize = 1_000;
const RECORDS: usize = 1_000;

/// Offsets of a partition at which nothing came.
struct Hole {
    /// What is stored before it.
    after: Position,
    /// How many are missing.
    missing: u64,
    /// Before which record of the batch it gapes.
    before: usize,
}

/// Puts tombstones into the holes of a window whose partitions are stored up to the given positions. Returns how many
/// missing offsets have one now.
pub(crate) async fn fill(
    ports: &Ports,
    window: &mut [Batch],
    mut stored: HashMap<Partition, Position>,
) -> Result<u64, StepError> {
    let (mut filled, mut passed) = (0, HashMap::new());
    for index in 0..window.len() {
        let (earlier, batch) = window.split_at_mut(index);
        let batch = &mut batch[0];
        let Some(at) = stored.get_mut(&batch.lease.partition) else { continue };
        while let Some(hole) = first_hole(batch, *at) {
            let passed_over = passed_over(ports, batch, &hole).await?;
            if !passed_over.is_empty() {
                tracing::warn!(
                    partition = batch.lease.partition.0,
                    events = passed_over.len(),
                    "a group passed over events"
                );
                batch.records.splice(hole.before..hole.before, passed_over);
                continue;
            }
            earlier.iter().for_each(|batch| pass(&mut passed, &batch.records));
            pass(&mut passed, &batch.records[..hole.before]);
            let tombstones = tombstones(ports, batch.lease.partition, &hole, &passed).await?;
            filled += hole.missing.min(tombstones.len() as u64);
            tracing::error!(
                partition = batch.lease.partition.0,
                after = ?hole.after,
                missing = hole.missing,
                tombstones = tombstones.len(),
                "entries vanished from the log before they were stored"
            );
            *at = batch.records[hole.before].position;
            batch.records.splice(hole.before..hole.before, tombstones);
        }
        *at = batch.records.last().map_or(*at, |last| last.position.max(*at));
    }
    Ok(filled)
}

/// What is in the log where the hole is.
async fn passed_over(ports: &Ports, batch: &Batch, hole: &Hole) -> Result<Vec<Record>, StepError> {
    let (mut found, mut at, end) = (Vec::new(), hole.after, batch.records[hole.before].position);
    loop {
        let records = ports.log.salvage(batch.lease.partition, at, RECORDS).await?;
        let Some(last) = records.last() else { return Ok(found) };
        at = last.position;
        found.extend(records.into_iter().filter(|record| record.position < end));
        if at >= end {
            return Ok(found);
        }
    }
}

/// Notes the last number of each conversation among records that will be stored.
fn pass(passed: &mut HashMap<String, u64>, records: &[Record]) {
    for event in records.iter().filter_map(|record| record.event().ok()) {
        let last = passed.entry(event.conversation.to_owned()).or_default();
        *last = event.seq.max(*last);
    }
}

/// The first place behind `at` where an offset is missing.
fn first_hole(batch: &Batch, at: Position) -> Option<Hole> {
    let mut after = at;
    for (before, record) in batch.records.iter().enumerate() {
        let missing = record.position.offset().saturating_sub(after.offset() + 1);
        if missing > 0 {
            return Some(Hole { after, missing, before });
        }
        after = after.max(record.position);
    }
    None
}

/// A tombstone for each number that is given and is neither stored nor left in the log.
async fn tombstones(
    ports: &Ports,
    partition: Partition,
    hole: &Hole,
    passed: &HashMap<String, u64>,
) -> Result<Vec<Record>, StepError> {
    let mut open = Vec::new();
    // First what was given, then what is left of it: what is given meanwhile is left.
    for given in ports.log.tops(partition).await?.chunks(CONVERSATIONS) {
        let names: Vec<ConversationId> = given.iter().map(|top| top.conversation.clone()).collect();
        let stored = ports.store.tops(&names).await?;
        open.extend(
            given.iter().zip(stored).filter(|(given, stored)| stored.seq < given.seq).map(|(g, s)| (g.clone(), s)),
        );
    }
    let left = left(ports, partition, hole.after).await?;
    let numbers = open.into_iter().flat_map(|(given, stored)| {
        let next = left.get(given.conversation.as_str()).copied().unwrap_or(given.seq + 1);
        let last = passed.get(given.conversation.as_str()).copied().unwrap_or(0).max(stored.seq);
        (last + 1..next).map(move |seq| Top { conversation: given.conversation.clone(), seq })
    });
    Ok(numbers.enumerate().map(|(index, lost)| tombstone(&lost, hole, index as u64)).collect())
}

/// The first number of each conversation that is left in the log after a position.
async fn left(ports: &Ports, partition: Partition, after: Position) -> Result<HashMap<String, u64>, StepError> {
    let (mut first, mut at) = (HashMap::new(), after);
    loop {
        let records = ports.log.salvage(partition, at, RECORDS).await?;
        let Some(last) = records.last() else { return Ok(first) };
        at = last.position;
        for event in records.iter().filter_map(|record| record.event().ok()) {
            first.entry(event.conversation.to_owned()).or_insert(event.seq);
        }
    }
}

fn tombstone(lost: &Top, hole: &Hole, index: u64) -> Record {
    let offset = hole.after.offset() + 1 + index.min(hole.missing - 1);
    Record::of(&Event {
        position: Position::new(hole.after.generation().max(1), offset),
        seq: lost.seq,
        created_ms: now_ms(),
        message_id: Uuid::now_v7(),
        body: Digest::of_body(&[LOST]),
        name: EventName::TOMBSTONE,
        conversation: lost.conversation.as_str(),
        sender: NOBODY,
        key: None,
        data: LOST,
    })
}
