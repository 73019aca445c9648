//! Frames to clients: built once, shared by everybody who gets the same.
//!
//! The only part of a sequenced frame that can differ between connections is its cursor. A frame remembers where that
//! stands, so a connection that is ahead of the others replaces it without building the rest again.

use std::{fmt::Write as _, ops::Range, sync::Arc};

use axum::extract::ws::Utf8Bytes;
use everpost_core::{
    clock::rfc3339,
    cursor::Cursor,
    event::{CorruptRecord, Event, Record},
    name::{ConversationId, EventName},
    partition::Partition,
    position::Position,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::{ApiError, wait_ms};

/// One sequenced frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) position: Position,
    pub(crate) seq: u64,
    pub(crate) text: Utf8Bytes,
    cursor: Range<usize>,
}

/// Consecutive frames of one conversation, for everybody who listens to it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) conversation: ConversationId,
    pub(crate) partition: Partition,
    /// Where the gateway stood before the first frame; the frames' own cursors go on from here.
    pub(crate) base: Arc<Cursor>,
    pub(crate) frames: Vec<Frame>,
    /// What it weighs in an outbox.
    pub(crate) bytes: usize,
}

impl Frame {
    /// The frame of a record, with the given cursor.
    pub(crate) fn of(record: &Record, cursor: &Cursor) -> Result<Self, CorruptRecord> {
        let event = record.event()?;
        let mut text = String::with_capacity(event.data.len() + 2 * event.conversation.len() + 256);
        let (name, conversation, seq) = (event.name, event.conversation, event.seq);
        let _ = write!(text, r#"{{"event":"{name}","conversation_id":"{conversation}","seq":{seq},"cursor":""#);
        let start = text.len();
        cursor.write(&mut text);
        let cursor = start..text.len();
        text.push_str(r#"","data":"#);
        push_data(&mut text, &event);
        let _ = write!(text, r#","timestamp":"{}"}}"#, rfc3339(event.created_ms));
        Ok(Self { position: record.position, seq, text: text.into(), cursor })
    }

    /// The same frame with another cursor.
    pub(crate) fn with_cursor(&self, cursor: &Cursor) -> Utf8Bytes {
        let mut text = String::with_capacity(self.text.len() + 16);
        text.push_str(&self.text[..self.cursor.start]);
        cursor.write(&mut text);
        text.push_str(&self.text[self.cursor.end..]);
        text.into()
    }
}

/// The data clients see: a message also tells its conversation and number, so that it stands by itself.
fn push_data(text: &mut String, event: &Event<'_>) {
    match event.data.strip_prefix('{') {
        Some(rest) if event.name == EventName::NEW_MESSAGE => {
            let _ = write!(text, r#"{{"conversation_id":"{}","seq":{},{rest}"#, event.conversation, event.seq);
        }
        _ => text.push_str(event.data),
    }
}

/// A message as HTTP answers it; `None` for anything that is not one.
pub(crate) fn message(record: &Record) -> Option<Box<RawValue>> {
    let event = record.event().ok()?;
    let mut text = String::with_capacity(event.data.len() + 64);
    if event.name == EventName::NEW_MESSAGE {
        push_data(&mut text, &event);
    } else {
        // A page keeps every number, also of what is not a message.
        let (name, conversation, seq) = (event.name, event.conversation, event.seq);
        let created = rfc3339(event.created_ms);
        let _ = write!(
            text,
            r#"{{"conversation_id":"{conversation}","seq":{seq},"event":"{name}","data":{},"created_at":"{created}"}}"#,
            event.data
        );
    }
    RawValue::from_string(text).ok()
}

#[derive(Serialize)]
struct Plain<'a, D> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    data: D,
    timestamp: String,
}

/// A frame without a sequence number.
pub(crate) fn plain<D: Serialize>(event: &str, conversation: Option<&str>, id: Option<&str>, data: D) -> Utf8Bytes {
    let timestamp = rfc3339(everpost_core::clock::now_ms());
    let frame = Plain { event, conversation_id: conversation, id, data, timestamp };
    serde_json::to_string(&frame).unwrap_or_default().into()
}

/// The name of a frame, which every frame begins with.
pub(crate) fn name(text: &str) -> &str {
    let rest = text.strip_prefix(r#"{"event":""#).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}

/// The answer to a client frame that failed.
pub(crate) fn error(id: Option<&str>, conversation: Option<&str>, error: &ApiError) -> Utf8Bytes {
    let mut data = serde_json::json!({
        "code": error.code(), "message": error.to_string(), "retryable": error.is_retryable(),
    });
    if let Some(wait) = error.retry_after() {
        data["retry_after_ms"] = wait_ms(wait).into();
    }
    plain("error", conversation, id, data)
}

#[cfg(test)]
mod tests {
    use everpost_core::{
        event::Draft,
        identity::Digest,
        name::{EventName, UserId},
        partition::Partitions,
    };
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    fn record(name: &str, data: &str) -> Record {
        let draft = Draft {
            conversation: ConversationId::new("general").expect("a name"),
            name: EventName::new(name).expect("a name"),
            message_id: Uuid::now_v7(),
            sender: UserId::new("alice").expect("a name"),
            key: None,
            body: Digest::of_body(&[]),
            created_ms: 1_700_000_000_000,
            data: data.into(),
            verified: None,
        };
        Record::place(&draft, 7, Position::new(1, 9))
    }

    #[test]
    fn a_message_stands_by_itself() {
        let mut cursor = Cursor::start(1, Partitions::ONE);
        let frame = Frame::of(&record("new_message", r#"{"type":"text"}"#), &cursor).expect("readable");
        let json: Value = serde_json::from_str(&frame.text).expect("valid JSON");
        assert_eq!((&json["seq"], &json["data"]["seq"], &json["data"]["type"]), (&7.into(), &7.into(), &"text".into()));
        assert_eq!((name(&frame.text), name(&plain("typing", None, None, 1))), ("new_message", "typing"));
        cursor.advance(Partition(0), Position::new(1, 9));
        let json: Value = serde_json::from_str(&frame.with_cursor(&cursor)).expect("valid JSON");
        assert_eq!(json["cursor"], cursor.encode());
        assert_eq!(json["timestamp"], "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn another_event_keeps_its_data_as_it_is() {
        let cursor = Cursor::start(1, Partitions::ONE);
        let frame = Frame::of(&record("order_shipped", "{}"), &cursor).expect("readable");
        let json: Value = serde_json::from_str(&frame.text).expect("valid JSON");
        assert_eq!((&json["event"], &json["data"]), (&"order_shipped".into(), &serde_json::json!({})));
    }
}
