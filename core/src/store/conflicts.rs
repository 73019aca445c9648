//! What becomes of records the database did not take as they were.
//!
//! Records are inserted as if nothing could be in their way. Only when fewer rows appeared than were given is the
//! database asked, for each record, what is in its place and where its key is; this file decides what that means.
//!
//! ```text
//! place taken by the same message      → stored already, left as it is
//! place taken by another message       → fork
//! place free, key used by another one  → a tombstone in its place
//! ```

use uuid::Uuid;

use super::StoreError;
use crate::{
    event::{CorruptRecord, Event, Record},
    name::EventName,
};

/// What the database holds where a record belongs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// The message in the record's place.
    pub(super) in_place: Option<Uuid>,
    /// The sequence number of the event that has the record's key.
    pub(super) key_at: Option<u64>,
}

/// An event that repeats another one's key: its index among those looked at, and the data of its tombstone.
pub(super) type Duplicate = (usize, String);

/// The fields of records. One that cannot be read is refused, unless a newer version wrote it: that one is waited for.
pub(super) fn events(records: &[Record]) -> Result<Vec<Event<'_>>, StoreError> {
    let unreadable = |record: &Record, error: CorruptRecord| match record.is_newer() {
        true => StoreError::unavailable("a newer version wrote what is to be stored"),
        false => StoreError::refused(error),
    };
    records.iter().map(|record| record.event().map_err(|error| unreadable(record, error))).collect()
}

/// Decides about events by what was found for each.
pub(super) fn settle(events: &[Event<'_>], found: &[Found]) -> Result<Vec<Duplicate>, StoreError> {
    let decide = |(index, (event, found)): (usize, (&Event<'_>, &Found))| match (found.in_place, found.key_at) {
        (Some(id), _) if id == event.message_id => None,
        (Some(_), _) => Some(Err(StoreError::Fork(event.position))),
        (None, Some(seq)) => Some(Ok((index, format!(r#"{{"reason":"duplicate","of":{seq}}}"#)))),
        (None, None) => Some(Err(StoreError::unavailable("a conflicting row vanished"))),
    };
    events.iter().zip(found).enumerate().filter_map(decide).collect()
}

/// The tombstones of duplicates. Each keeps its event's identity, so that a replay finds the place its own.
pub(super) fn tombstones<'a>(events: &[Event<'a>], duplicates: &'a [Duplicate]) -> Vec<Event<'a>> {
    let lay = |(index, data): &'a Duplicate| Event { name: EventName::TOMBSTONE, key: None, data, ..events[*index] };
    duplicates.iter().map(lay).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::Digest, position::Position};

    fn event(message_id: u128) -> Event<'static> {
        Event {
            position: Position::new(1, 9),
            seq: 9,
            created_ms: 0,
            message_id: Uuid::from_u128(message_id),
            body: Digest([0; 16]),
            name: "new_message",
            conversation: "general",
            sender: "alice",
            key: Some("k"),
            data: "{}",
        }
    }

    fn found(in_place: Option<u128>, key_at: Option<u64>) -> Found {
        Found { in_place: in_place.map(Uuid::from_u128), key_at }
    }

    #[test]
    fn a_place_held_by_the_same_message_is_a_replay_whatever_the_key_says() {
        for key_at in [None, Some(9), Some(3)] {
            assert_eq!(settle(&[event(1)], &[found(Some(1), key_at)]).expect("no fork"), []);
        }
    }

    #[test]
    fn a_place_held_by_another_message_is_a_fork() {
        let settled = settle(&[event(1)], &[found(Some(2), Some(9))]);
        assert!(matches!(settled, Err(StoreError::Fork(at)) if at == Position::new(1, 9)), "{settled:?}");
    }

    #[test]
    fn a_used_key_leaves_a_tombstone_without_a_key() {
        let duplicates = settle(&[event(1)], &[found(None, Some(3))]).expect("no fork");
        let [tombstone] = tombstones(&[event(1)], &duplicates)[..] else { panic!("one tombstone") };
        assert_eq!((tombstone.name, tombstone.key, tombstone.seq), ("tombstone", None, 9));
        assert_eq!(tombstone.data, r#"{"reason":"duplicate","of":3}"#);
        assert_eq!(tombstone.message_id, Uuid::from_u128(1), "a replay must recognise its place");
    }

    #[test]
    fn a_conflict_without_a_cause_is_tried_again() {
        assert!(settle(&[event(1)], &[found(None, None)]).is_err_and(|error| error.is_retryable()));
    }
}
