//! Redis replies to records and answers. The typed replies of the client would build a map for every entry.

use bytes::Bytes;
use redis::Value;
use uuid::Uuid;

use crate::{
    event::{Draft, HEADER_VERSION, Record},
    identity::Digest,
    log::{Appended, Prior},
    name::ConversationId,
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
    Some(Entry { id, records: records(id, items(fields)).unwrap_or_default() })
}

/// The accepted lines of an entry, each with its number; the last one stands at the entry's id.
fn records(id: Position, fields: Vec<Value>) -> Option<Vec<Record>> {
    let [_, conversations, _, firsts, _, events] = <[Value; 6]>::try_from(fields).ok()?;
    let firsts = String::from_utf8(bulk(firsts)?).ok()?;
    let mut next: Vec<u64> = firsts.split(' ').map(|first| first.parse().ok()).collect::<Option<_>>()?;
    let mut records = Vec::with_capacity(next.len());
    for (conversation, (tail, data)) in bulk(conversations)?.into_iter().zip(lines(bulk(events)?.into())) {
        let Some(conversation) = usize::from(conversation).checked_sub(1) else { continue };
        let seq = next.get_mut(conversation)?;
        records.push(numbered_record(*seq, &tail, data));
        *seq += 1;
    }
    let before = id.back(records.len() as u64).offset();
    for (at, record) in records.iter_mut().enumerate() {
        record.position = Position::new(id.generation(), before + 1 + at as u64);
    }
    Some(records)
}

fn numbered_record(seq: u64, tail: &[u8], data: Bytes) -> Record {
    let header = [HEADER_VERSION.as_bytes(), b" ", seq.to_string().as_bytes(), b" ", tail].concat();
    Record { position: Position::ZERO, header: header.into(), data }
}

/// Adds a header and its data as one line: a tab between them, which no header has, and a line feed behind, which JSON
/// has only between its tokens, where a space means the same.
pub(crate) fn push_line(lines: &mut Vec<u8>, header: &str, data: &str) {
    lines.extend_from_slice(header.as_bytes());
    lines.push(b'\t');
    let start = lines.len();
    lines.extend_from_slice(data.as_bytes());
    lines[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    lines.push(b'\n');
}

/// Header and data of each line, without copying them.
pub(crate) fn lines(text: Bytes) -> impl Iterator<Item = (Bytes, Bytes)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let tab = memchr::memchr(b'\t', &rest)?;
        let end = tab + memchr::memchr(b'\n', &rest[tab..])?;
        let line = rest.split_to(end + 1);
        Some((line.slice(..tab), line.slice(tab + 1..end)))
    })
}

/// A conversation's field in the hash of tops; the field without a name is none.
pub(crate) fn top(name: &str, top: &str) -> Option<(ConversationId, u64)> {
    Some((ConversationId::new(name).ok()?, top.split(' ').next()?.parse().ok()?))
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

/// What the log remembers of a draft beside its identity: its place in the batch among those of its conversation and
/// among all, counted from 1, message id and body digest. `append.lua` puts in front what the places count from.
pub(crate) fn particulars(place: u16, index: u16, draft: &Draft) -> Vec<u8> {
    let (id, body) = (draft.message_id.as_bytes(), &draft.body.0);
    [&place.to_be_bytes()[..], &index.to_be_bytes(), id, body].concat()
}

/// `from generation before `, the numbers as text, then [`particulars`].
fn prior(bytes: &[u8]) -> Option<Prior> {
    let (text, particulars) = bytes.split_last_chunk::<36>()?;
    let mut fields = std::str::from_utf8(text).ok()?.split(' ');
    let (from, generation): (i64, u16) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let before: i64 = fields.next()?.parse().ok()?;
    let counted = |from: i64, at: usize| {
        let place = u16::from_be_bytes([particulars[at], particulars[at + 1]]);
        u64::try_from(from + i64::from(place)).ok()
    };
    Some(Prior {
        seq: counted(from, 0)?,
        position: Position::new(generation, counted(before, 2)?),
        message_id: Uuid::from_slice(&particulars[4..20]).ok()?,
        body: Digest(particulars[20..].try_into().ok()?),
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
        let mut events = Vec::new();
        ["a", "b", "c", "d"].iter().for_each(|tail| push_line(&mut events, tail, "{\n}"));
        let fields = ["lines", "\u{2}\0\u{1}\u{2}", "firsts", "9 4", "events"].map(text).into_iter();
        let fields = fields.chain([Value::BulkString(events)]).collect();
        let reply = Value::Array(vec![Value::Array(vec![text("1-9"), Value::Array(fields)])]);
        let records: Vec<_> = entries(reply).flat_map(|entry| entry.records).collect();
        let offsets: Vec<_> = records.iter().map(|record| record.position.offset()).collect();
        assert_eq!(offsets, [7, 8, 9], "a line that was not accepted takes no offset");
        let headers: Vec<_> = records.iter().map(|record| &record.header[..]).collect();
        assert_eq!(headers, [&b"1 4 a"[..], b"1 9 c", b"1 5 d"], "each conversation counts by itself");
        assert_eq!(records[1].data[..], b"{ }"[..]);
    }

    #[test]
    fn lines_cut_short_end_the_reading() {
        let mut whole = Vec::new();
        push_line(&mut whole, "header", "{}");
        assert_eq!(lines(whole.clone().into()).count(), 1);
        assert!((0..whole.len()).all(|cut| lines(whole[..cut].to_vec().into()).count() == 0));
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
