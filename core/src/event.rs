//! Events on their way: a draft before the log has it, a record after, and the fields of a record.
//!
//! A record is two pieces of text. The header is one line of fields separated by single spaces; the key comes last
//! because it alone may contain spaces. The data is the JSON object clients see, without the conversation and the
//! sequence number, which only the log knows; whoever builds a frame splices them in. Nothing parses the data again.
//!
//! ```text
//! 1 <seq> <created_ms> <message_id> <body digest> <event> <conversation> <sender> <key or ->
//! ```

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    identity::{Digest, Key},
    name::{ConversationId, EventName, UserId},
    position::Position,
};

/// The version of the header this code writes; it reads no other.
pub const HEADER_VERSION: &str = "1";
const NO_KEY: &str = "-";

/// An event that wants to be accepted: everything but its place.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it belongs.
    pub conversation: ConversationId,
    /// Its type as clients see it.
    pub name: EventName,
    /// Its identity for good, a version 7 UUID.
    pub message_id: Uuid,
    /// Who sent it.
    pub sender: UserId,
    /// The sender's idempotency key, if it gave one.
    pub key: Option<Key>,
    /// What a repeat with the same key is compared with.
    pub body: Digest,
    /// When the gateway took it.
    pub created_ms: u64,
    /// The JSON object for clients, without conversation and sequence number. A log may turn line feeds between its
    /// tokens into spaces.
    pub data: Box<str>,
    /// The generation of the log in which the store was asked, and did not know the key.
    pub verified: Option<u16>,
}

impl Draft {
    /// What the log recognises a repeat by.
    pub fn identity(&self) -> Digest {
        match &self.key {
            Some(key) => Digest::of_key(&self.conversation, &self.sender, key),
            None => Digest::of_message(self.message_id),
        }
    }

    /// The time since which the identity can have existed: [`u64::MAX`] when it is known to be new, 0 when nothing is
    /// known. The log takes the draft if its memory of identities reaches further back. What the store said in an
    /// earlier generation of the log counts for nothing.
    pub fn minted_ms(&self, generation: u16) -> u64 {
        match &self.key {
            _ if self.verified == Some(generation) => u64::MAX,
            None => u64::MAX,
            Some(key) => key.minted_ms(self.created_ms).unwrap_or(0),
        }
    }

    /// The header without its first two fields, version and sequence number.
    pub fn header_tail(&self) -> String {
        let (id, body) = (self.message_id.as_simple(), self.body.hex());
        let key = self.key.as_ref().map_or(NO_KEY.to_owned(), |key| format!("={}", key.as_str()));
        let (created, name, conversation, sender) = (self.created_ms, &self.name, &self.conversation, &self.sender);
        format!("{created} {id} {body} {name} {conversation} {sender} {key}")
    }
}

/// An event with its place, as the log and the store hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands in its partition.
    pub position: Position,
    /// The fields, see [`crate::event`].
    pub header: Bytes,
    /// The JSON object for clients.
    pub data: Bytes,
}

/// The fields of a record, borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where it stands in its partition.
    pub position: Position,
    /// Its number within the conversation: 1, 2, 3 …
    pub seq: u64,
    /// When the gateway took it.
    pub created_ms: u64,
    /// Its identity.
    pub message_id: Uuid,
    /// What repeats are compared with.
    pub body: Digest,
    /// Its type as clients see it.
    pub name: &'a str,
    /// Where it belongs.
    pub conversation: &'a str,
    /// Who sent it.
    pub sender: &'a str,
    /// The sender's idempotency key.
    pub key: Option<&'a str>,
    /// The JSON object for clients.
    pub data: &'a str,
}

/// A record that is not in the format of [`crate::event`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record at {position:?} cannot be read")]
pub struct CorruptRecord {
    position: Position,
}

impl Record {
    /// The record of a draft that was given its place.
    pub fn place(draft: &Draft, seq: u64, position: Position) -> Self {
        let header = format!("{HEADER_VERSION} {seq} {}", draft.header_tail());
        Self { position, header: header.into(), data: Bytes::copy_from_slice(draft.data.as_bytes()) }
    }

    /// The record of fields that a store kept in columns.
    pub fn of(event: &Event<'_>) -> Self {
        let Event { seq, created_ms, name, conversation, sender, .. } = *event;
        let (id, body) = (event.message_id.as_simple(), event.body.hex());
        let key = event.key.map_or(NO_KEY.to_owned(), |key| format!("={key}"));
        let header = format!("{HEADER_VERSION} {seq} {created_ms} {id} {body} {name} {conversation} {sender} {key}");
        Self { position: event.position, header: header.into(), data: Bytes::copy_from_slice(event.data.as_bytes()) }
    }

    /// The conversation alone, for routing: it reads no further than it must.
    pub fn conversation(&self) -> Result<&str, CorruptRecord> {
        let field = std::str::from_utf8(&self.header).ok().and_then(|header| header.split(' ').nth(6));
        field.ok_or(CorruptRecord { position: self.position })
    }

    /// All fields.
    pub fn event(&self) -> Result<Event<'_>, CorruptRecord> {
        self.parse().ok_or(CorruptRecord { position: self.position })
    }

    /// What can still be told of a record that cannot be read: enough to lay something in its place. `None` when not
    /// even the conversation and the number are legible. Fields that are not get a stand-in, the same every time.
    pub fn salvage(&self) -> Option<Event<'_>> {
        let mut fields =
            self.header.splitn(9, |byte| *byte == b' ').map(|field| std::str::from_utf8(field).ok()).skip(1);
        let seq = fields.next()??.parse().ok().filter(|seq| *seq > 0)?;
        let created_ms = fields.next().flatten().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        let message_id = fields.next().flatten().and_then(|id| Uuid::try_parse(id).ok());
        let body = fields.next().flatten().and_then(Digest::from_hex);
        let stand_in = Digest::of_bytes(&[&self.header, &self.data]);
        let name = fields.next().flatten().filter(|name| EventName::new(name).is_ok());
        Some(Event {
            position: self.position,
            seq,
            created_ms,
            message_id: message_id.unwrap_or_else(|| Uuid::from_bytes(stand_in.0)),
            body: body.unwrap_or(stand_in),
            name: name.unwrap_or("unreadable"),
            conversation: fields.next().flatten().filter(|name| ConversationId::new(name).is_ok())?,
            sender: fields.next().flatten().filter(|sender| UserId::new(sender).is_ok()).unwrap_or(UserId::SYSTEM),
            key: None,
            data: std::str::from_utf8(&self.data).unwrap_or_default(),
        })
    }

    /// Whether a newer version than this wrote it. Then it is not corrupt, and this version must leave it alone.
    pub fn is_newer(&self) -> bool {
        let version = self.header.split(|byte| *byte == b' ').next().and_then(|field| std::str::from_utf8(field).ok());
        let version = version.and_then(|version| version.parse::<u16>().ok());
        version > HEADER_VERSION.parse().ok()
    }

    fn parse(&self) -> Option<Event<'_>> {
        let mut fields = std::str::from_utf8(&self.header).ok()?.splitn(9, ' ');
        if fields.next()? != HEADER_VERSION {
            return None;
        }
        Some(Event {
            position: self.position,
            seq: fields.next()?.parse().ok()?,
            created_ms: fields.next()?.parse().ok()?,
            message_id: Uuid::try_parse(fields.next()?).ok()?,
            body: Digest::from_hex(fields.next()?)?,
            name: fields.next()?,
            conversation: fields.next()?,
            sender: fields.next()?,
            key: fields.next()?.strip_prefix('='),
            data: std::str::from_utf8(&self.data).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(key: Option<&str>) -> Draft {
        Draft {
            conversation: ConversationId::new("general").expect("a name"),
            name: EventName::new(EventName::NEW_MESSAGE).expect("a name"),
            message_id: Uuid::now_v7(),
            sender: UserId::new("alice").expect("a name"),
            key: key.map(|key| Key::new(key).expect("a key")),
            body: Digest::of_body(&["hello"]),
            created_ms: 1_700_000_000_000,
            data: r#"{"content":{"text":"hello"}}"#.into(),
            verified: None,
        }
    }

    #[test]
    fn a_placed_draft_reads_back() {
        for key in [None, Some("order 17"), Some("-"), Some("=")] {
            let draft = draft(key);
            let record = Record::place(&draft, 7, Position::new(1, 42));
            let event = record.event().expect("well formed");
            assert_eq!((event.seq, event.conversation, event.key), (7, "general", key));
            assert_eq!((event.message_id, event.body, event.data), (draft.message_id, draft.body, &*draft.data));
            assert_eq!(record.conversation(), Ok("general"));
            assert_eq!(Record::of(&event), record, "columns make the same record");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(header in prop::collection::vec(any::<u8>(), 0..120)) {
            let record = Record { position: Position::ZERO, header: header.into(), data: Bytes::new() };
            let _ = (record.event(), record.conversation(), record.salvage(), record.is_newer());
        }
    }

    #[test]
    fn what_is_legible_of_a_corrupt_record_is_enough_for_its_place() {
        let whole = Record::place(&draft(Some("k")), 7, Position::new(1, 42));
        let cut = |from: &str, to: &str| {
            let header = std::str::from_utf8(&whole.header).expect("text").replacen(from, to, 1);
            Record { header: header.into(), ..whole.clone() }
        };
        let broken =
            [cut(" alice", " al\0ce"), cut(" new_message", " {}"), cut("1 7 17", "1 7 x"), cut("1 7 ", "x 7 ")];
        for record in broken {
            let salvaged = record.salvage().expect("enough");
            assert_eq!((salvaged.seq, salvaged.conversation, salvaged.key), (7, "general", None));
            assert_eq!(record.salvage().expect("enough").message_id, salvaged.message_id, "the same every time");
        }
        for record in [cut("1 7 ", "1 0 "), cut(" general", " \"general"), cut("1 7 ", "1 seven ")] {
            assert_eq!(record.salvage(), None);
        }
    }

    #[test]
    fn only_a_greater_number_is_a_newer_version() {
        let newer = |header: &'static [u8]| {
            Record { position: Position::ZERO, header: header.into(), data: Bytes::new() }.is_newer()
        };
        assert!(newer(b"2 7 x") && newer(b"10"));
        assert!(!newer(b"1 7 x") && !newer(b"x 7") && !newer(b"") && !newer(b"999999 7"));
    }

    #[test]
    fn a_publish_without_a_key_is_always_new() {
        assert_eq!(draft(None).minted_ms(1), u64::MAX);
        assert_eq!(draft(Some("order 17")).minted_ms(1), 0);
    }
}
