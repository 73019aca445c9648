//! What is laid in the place of an event that is given up, and what is kept of it.

use uuid::Uuid;

use super::{
    Death, StoreError,
    conflicts::{Found, settle},
};
use crate::{
    event::{Event, Record},
    name::{ConversationId, EventName, UserId},
    role::Role,
};

/// What is kept of a record that cannot be read; one that can is as long as a publish may be.
const MAX_UNREADABLE_BYTES: usize = 256 * 1024;
/// What is kept of a text for people, in characters.
const MAX_LEGIBLE: usize = 300;

/// A dead letter in the making.
pub(super) struct Burial<'a> {
    pub(super) id: Uuid,
    pub(super) death: &'a Death<'a>,
    /// The event as far as it is legible.
    pub(super) event: Option<Event<'a>>,
    readable: bool,
    tombstone: String,
}

/// What laying a tombstone met.
pub(super) enum Laid {
    /// It lies, and the letter with it.
    New,
    /// The event, or its tombstone, is there already.
    Already,
    /// Another event has its key.
    KeyTaken,
}

impl<'a> Burial<'a> {
    pub(super) fn of(death: &'a Death<'a>) -> Self {
        let id = Uuid::now_v7();
        let whole = death.record.event().ok().filter(|event| ConversationId::new(event.conversation).is_ok());
        let (readable, event) = (whole.is_some(), whole.or_else(|| death.record.salvage()));
        let tombstone = format!(r#"{{"reason":"{}","dead_letter":"{id}"}}"#, death.reason.as_str());
        Self { id, death, event, readable, tombstone }
    }

    /// What to try, one after the other: the place and the key, the place alone, nothing at all. Nothing comes into
    /// question only for a record that cannot be read, because of any other it would leave a hole.
    pub(super) fn tombstones(&self) -> Vec<Option<Event<'_>>> {
        let Some(event) = self.event.filter(|_| self.death.lease.role == Role::Persist) else { return vec![None] };
        let keyed = Event { name: EventName::TOMBSTONE, data: &self.tombstone, ..event };
        let bare = Event { sender: UserId::SYSTEM, key: None, ..keyed };
        if self.readable { vec![Some(keyed), Some(bare)] } else { vec![Some(bare), None] }
    }

    /// Whether the next of the tombstones may be tried after this.
    pub(super) fn goes_on(&self, outcome: &Result<Laid, StoreError>) -> bool {
        match outcome {
            Ok(Laid::KeyTaken) | Err(StoreError::Refused(_)) => true,
            Err(StoreError::Fork(_)) => !self.readable, // a place misread is no fork
            _ => false,
        }
    }

    /// Header and data as they are kept.
    pub(super) fn bytes(&self) -> (&[u8], &[u8]) {
        let Record { header, data, .. } = self.death.record;
        let cut = |bytes: &'a [u8]| if self.readable { bytes } else { &bytes[..bytes.len().min(MAX_UNREADABLE_BYTES)] };
        (cut(header), cut(data))
    }

    /// A field of the event as it is shown.
    pub(super) fn shown(&self, field: impl FnOnce(Event<'a>) -> Option<&'a str>) -> Option<String> {
        self.event.and_then(field).map(legible)
    }
}

/// Decides what it means that a tombstone found no room.
pub(super) fn why_not(tombstone: Event<'_>, found: Found) -> Result<Laid, StoreError> {
    let duplicates = settle(&[tombstone], &[found])?;
    Ok(if duplicates.is_empty() { Laid::Already } else { Laid::KeyTaken })
}

/// A text without what a database or a terminal would stumble over, and not longer than somebody reads.
pub(super) fn legible(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(MAX_LEGIBLE).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{lease::Lease, partition::Partition, position::Position, store::Reason};

    const HEADER: &str = "1 7 1700000000000 00000000000000000000000000000001 000102030405060708090a0b0c0d0e0f new_message \
                          general alice =k";

    fn record(header: &'static str) -> Record {
        Record { position: Position::new(1, 9), header: header.into(), data: Bytes::from_static(b"{}") }
    }

    fn death(role: Role, record: &Record) -> Death<'_> {
        let lease = Lease { role, partition: Partition(0), token: 1 };
        let (reason, detail) = (Reason::Refused, String::new());
        Death { lease, record, reason, detail, attempts: 1, first_failed_ms: 1, last_failed_ms: 1 }
    }

    #[test]
    fn a_tombstone_keeps_the_key_if_it_can() {
        let record = record(HEADER);
        let death = death(Role::Persist, &record);
        let burial = Burial::of(&death);
        let [Some(keyed), Some(bare)] = burial.tombstones()[..] else { panic!("two tries") };
        assert_eq!((keyed.seq, keyed.key, keyed.sender, keyed.name), (7, Some("k"), "alice", "tombstone"));
        assert_eq!((bare.seq, bare.key, bare.sender, bare.message_id), (7, None, "system", keyed.message_id));
        assert_eq!(keyed.data, format!(r#"{{"reason":"refused","dead_letter":"{}"}}"#, burial.id));
        assert!(burial.goes_on(&Err(StoreError::refused("no"))) && burial.goes_on(&Ok(Laid::KeyTaken)));
        assert!(!burial.goes_on(&Err(StoreError::Fork(Position::ZERO))), "a fork is never papered over");
    }

    #[test]
    fn a_record_that_cannot_be_read_may_go_without_a_tombstone() {
        let half = record("1 7 never ? ? ? general");
        let death_of_half = death(Role::Persist, &half);
        let burial = Burial::of(&death_of_half);
        let [Some(bare), None] = burial.tombstones()[..] else { panic!("a try, then none") };
        assert_eq!((bare.conversation, bare.seq), ("general", 7));
        assert!(burial.goes_on(&Err(StoreError::Fork(Position::ZERO))), "a place misread is no fork");
        let nothing = record("?");
        assert_eq!(Burial::of(&death(Role::Persist, &nothing)).tombstones(), [None]);
    }

    #[test]
    fn a_role_that_stores_nothing_leaves_no_tombstone() {
        let record = record(HEADER);
        assert_eq!(Burial::of(&death(Role::Fanout, &record)).tombstones(), [None]);
    }

    #[test]
    fn texts_for_people_are_short_and_plain() {
        assert_eq!(legible("a\0b\u{1b}[31m\n"), "ab[31m");
        assert_eq!(legible(&"x".repeat(1_000)).len(), MAX_LEGIBLE);
    }
}
