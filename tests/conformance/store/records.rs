//! Records, leases and names for the cases.

use everpost_core::{
    event::{Draft, Event, Record},
    identity::{Digest, Key},
    lease::Lease,
    name::{ConversationId, EventName, UserId},
    partition::Partition,
    position::Position,
    role::Role,
    store::{Messages, Want},
};
use uuid::Uuid;

pub(crate) fn conversation(text: &str) -> ConversationId {
    ConversationId::new(text).expect("a name")
}

pub(crate) fn user(text: &str) -> UserId {
    UserId::new(text).expect("a name")
}

/// A position with room before and after it.
pub(crate) fn position(seq: u64) -> Position {
    Position::new(1, seq * 10)
}

/// A new event of alice at a place; two calls make two different events.
pub(crate) fn record(id: &str, seq: u64) -> Record {
    keyed(id, seq, "alice", None)
}

/// The same with a sender and a key.
pub(crate) fn keyed(id: &str, seq: u64, sender: &str, key: Option<&str>) -> Record {
    let message_id = Uuid::now_v7();
    let draft = Draft {
        conversation: conversation(id),
        name: EventName::new(EventName::NEW_MESSAGE).expect("a name"),
        message_id,
        sender: user(sender),
        key: key.map(|key| Key::new(key).expect("a key")),
        body: Digest::of_message(message_id),
        created_ms: 1_700_000_000_000 + seq,
        data: format!(r#"{{"content":{{"text":"Grüße № {seq} 🎈 \"quoted\" 'n' \\ done"}}}}"#).into(),
        verified: None,
    };
    Record::place(&draft, seq, position(seq))
}

/// New events with these sequence numbers.
pub(crate) fn run(id: &str, seqs: impl IntoIterator<Item = u64>) -> Vec<Record> {
    seqs.into_iter().map(|seq| record(id, seq)).collect()
}

/// The tombstone that must stand in place of a record whose key the event `of` had first.
pub(crate) fn tombstone(record: &Record, of: u64) -> Record {
    let data = format!(r#"{{"reason":"duplicate","of":{of}}}"#);
    let event = record.event().expect("well formed");
    Record::of(&Event { name: EventName::TOMBSTONE, key: None, data: &data, ..event })
}

/// A lease of the persist role, at a position.
pub(crate) fn lease(partition: u16, token: u64, at: Position) -> (Lease, Position) {
    (Lease { role: Role::Persist, partition: Partition(partition), token }, at)
}

/// Stores records under one valid lease.
pub(crate) async fn persist(store: &(impl Messages + ?Sized), records: &[Record]) -> u64 {
    let last = records.iter().map(|record| record.position).max().unwrap_or_default();
    store.persist(&[lease(0, 1, last)], records).await.expect("it can be stored")
}

/// Everything of a conversation.
pub(crate) async fn all(store: &(impl Messages + ?Sized), id: &str) -> Vec<Record> {
    let mut pages = store.after(&[want(id, 0)], 10_000).await.expect("readable");
    assert_eq!(pages.len(), 1);
    pages.remove(0)
}

pub(crate) fn want(id: &str, after: u64) -> Want {
    Want { conversation: conversation(id), after }
}
