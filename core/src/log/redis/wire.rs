//! Redis replies to records and answers. The typed replies of the client would build a map for every entry.

use bytes::Bytes;
use redis::Value;
use uuid::Uuid;

use crate::{
    event::Record,
    identity::Digest,
    log::{Appended, Prior},
    position::Position,
};

/// One stream entry: everything one append wrote.
pub(crate) struct Entry {
    pub(crate) id: Position,
    /// Empty when the entry was deleted behind our back.
    pub(crate) records: Vec<Record>,
}

/// A position as a stream id.
pub(crate) fn id(position: Position) -> String {
    format!("{}-{}", position.generation(), position.offset())
}

/// A stream id as a position.
pub(crate) fn position(id: &str) -> Option<Position> {
    let (generation, offset) = id.split_once('-')?;
    let offset = offset.parse().ok()?;
    Some(if offset == 0 { Position::ZERO } else { Position::new(generation.parse().ok()?, offset) })
}

/// The entries of an XRANGE reply.
pub(crate) fn entries(reply: Value) -> impl Iterator<Item = Entry> {
    items(reply).into_iter().filter_map(entry)
}

/// The streams of an XREAD or XREADGROUP reply, each with its key.
pub(crate) fn streams(reply: Value) -> impl Iterator<Item = (Vec<u8>, Vec<Entry>)> {
    items(reply).into_iter().filter_map(|stream| {
        let [key, found] = <[Value; 2]>::try_from(items(stream)).ok()?;
        Some((bulk(key)?, entries(found).collect()))
    })
}

fn entry(value: Value) -> Option<Entry> {
    let [id, fields] = <[Value; 2]>::try_from(items(value)).ok()?;
    let id = position(std::str::from_utf8(&bulk(id)?).ok()?)?;
    let mut pairs = Vec::new();
    let mut fields = items(fields).into_iter();
    while let (Some(header), Some(data)) = (fields.next(), fields.next()) {
        pairs.push((Bytes::from(bulk(header)?), Bytes::from(bulk(data)?)));
    }
    let before = id.back(pairs.len() as u64).offset();
    let place = |at: usize| Position::new(id.generation(), before + 1 + at as u64);
    let records =
        pairs.into_iter().enumerate().map(|(at, (header, data))| Record { position: place(at), header, data });
    Some(Entry { id, records: records.collect() })
}

/// The fields of an entry as they are, for streams that hold something else.
pub(crate) fn raw_entries(reply: Value) -> impl Iterator<Item = (String, Vec<Vec<u8>>)> {
    items(reply).into_iter().filter_map(|value| {
        let [id, fields] = <[Value; 2]>::try_from(items(value)).ok()?;
        let fields = items(fields).into_iter().filter_map(bulk).collect();
        Some((String::from_utf8(bulk(id)?).ok()?, fields))
    })
}

/// The answers of the append script to a batch.
pub(crate) fn answers(reply: &[Value], generation: u16) -> Option<Vec<Appended>> {
    let (Value::Int(before), answers) = reply.split_first()? else { return None };
    let mut offset = u64::try_from(*before).ok()?;
    answers
        .iter()
        .map(|answer| match answer {
            Value::Int(-1) => Some(Appended::Unhydrated),
            Value::Int(0) => Some(Appended::Unverified),
            Value::Int(seq) => {
                offset += 1;
                Some(Appended::Accepted { seq: u64::try_from(*seq).ok()?, position: Position::new(generation, offset) })
            }
            Value::BulkString(prior) => Some(Appended::Duplicate(self::prior(prior)?)),
            _ => None,
        })
        .collect()
}

/// `seq id` as text, then 16 bytes of message id and 16 of body digest.
fn prior(bytes: &[u8]) -> Option<Prior> {
    let (text, identity) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let mut fields = std::str::from_utf8(text).ok()?.split(' ');
    Some(Prior {
        seq: fields.next()?.parse().ok()?,
        position: position(fields.next()?)?,
        message_id: Uuid::from_slice(&identity[..16]).ok()?,
        body: Digest(identity[16..].try_into().ok()?),
    })
}

fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Map(pairs) => pairs.into_iter().map(|(key, value)| Value::Array(vec![key, value])).collect(),
        _ => Vec::new(),
    }
}

fn bulk(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_entry_counts_its_records_back_from_its_id() {
        let fields = Value::Array(["h1", "d1", "h2", "d2"].map(text).to_vec());
        let reply = Value::Array(vec![Value::Array(vec![text("1-9"), fields])]);
        let positions: Vec<_> = entries(reply).flat_map(|entry| entry.records).map(|r| r.position.offset()).collect();
        assert_eq!(positions, [8, 9]);
    }

    #[test]
    fn a_deleted_entry_has_no_records() {
        let reply = Value::Array(vec![Value::Array(vec![text("1-9"), Value::Nil])]);
        let found: Vec<_> = entries(reply).collect();
        assert_eq!((found[0].id, found[0].records.len()), (Position::new(1, 9), 0));
    }

    #[test]
    fn nothing_readable_is_nothing() {
        assert!(entries(Value::Nil).next().is_none());
        assert!(answers(&[Value::Nil], 1).is_none());
    }
}
