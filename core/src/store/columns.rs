//! Numbers and names as both databases keep them.

use super::{Installation, Reach, Standing, StoreError};
use crate::{
    generation::{Generation, History},
    name::{ConversationId, InvalidName, UserId},
};

/// A number as a column. Databases have no unsigned integers; what no column can hold is beyond everything stored.
pub(super) fn to_column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The number a column holds.
pub(super) fn from_column(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// A count of rows as a column.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The count a column holds.
pub(super) fn count(column: i64) -> usize {
    usize::try_from(column).unwrap_or(0)
}

/// How far a user has come, by the columns of both marks.
pub(super) fn reach(delivered: i64, read: i64) -> Reach {
    let (delivered, read) = (from_column(delivered), from_column(read));
    Reach { delivered: delivered.max(read), read }
}

/// The conversation a column names.
pub(super) fn conversation(text: &str) -> Result<ConversationId, StoreError> {
    ConversationId::new(text).map_err(damaged)
}

/// The user a column names.
pub(super) fn user(text: &str) -> Result<UserId, StoreError> {
    UserId::new(text).map_err(damaged)
}

/// How a user stands to a conversation, by whether it exists and whether the user takes part.
pub(super) fn standing((exists, takes_part): (bool, bool)) -> Standing {
    match (exists, takes_part) {
        (_, true) => Standing::Participant,
        (true, false) => Standing::Stranger,
        (false, false) => Standing::Unknown,
    }
}

/// What a log was set up with.
pub(super) fn installation(epoch: i64, partitions: i64) -> Option<Installation> {
    Some(Installation { epoch: epoch.try_into().ok()?, partitions: partitions.try_into().ok()? })
}

/// The generations in rows of partition, number and base, in their order.
pub(super) fn history(partitions: usize, rows: impl IntoIterator<Item = (i64, i64, i64)>) -> History {
    let mut later = vec![Vec::new(); partitions];
    for (partition, number, base) in rows {
        let of = usize::try_from(partition).ok().and_then(|index| later.get_mut(index));
        if let (Some(of), Ok(number)) = (of, u16::try_from(number)) {
            of.push(Generation { number, base: from_column(base) });
        }
    }
    History::new(later)
}

fn damaged(error: InvalidName) -> StoreError {
    StoreError::Damaged(error.to_string())
}
