//! Cursors: one opaque string for a point in all of a user's conversations.
//!
//! A cursor is the vector of partition positions up to which everything was handed over. Because every partition is
//! fanned out in order, that vector says exactly what a client has seen, in any number of conversations, in about
//! sixty characters. It needs no signature: it grants nothing, access is checked for every page that is read with it.
//!
//! ```text
//! version (1 byte) | epoch (4 bytes) | partitions - 1 (1 byte) | generation (varint)
//! then for each partition: varint(offset * 2 + d), and where d is 1 a varint with the differing generation
//! ```

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    generation::History,
    partition::{Partition, Partitions},
    position::Position,
};

const VERSION: u8 = 1;

/// A point in all partitions of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which installation of the log it belongs to; another one never honours it.
    pub epoch: u32,
    positions: Box<[Position]>,
}

/// The text is not a cursor. The client should start again without one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this service")]
pub struct InvalidCursor;

impl Cursor {
    /// The cursor at the given positions, one for each partition in order.
    pub fn new(epoch: u32, positions: impl Into<Box<[Position]>>) -> Self {
        Self { epoch, positions: positions.into() }
    }

    /// The cursor before everything.
    pub fn start(epoch: u32, partitions: Partitions) -> Self {
        Self::new(epoch, vec![Position::ZERO; partitions.count()])
    }

    /// The position in one partition.
    pub fn at(&self, partition: Partition) -> Position {
        self.positions[partition.index()]
    }

    /// The positions of all partitions, in order.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Moves one partition forward; never back.
    pub fn advance(&mut self, partition: Partition, to: Position) {
        let at = &mut self.positions[partition.index()];
        *at = (*at).max(to);
    }

    /// Moves every partition forward to where the other cursor stands.
    pub fn join(&mut self, other: &Self) {
        for (at, &to) in self.positions.iter_mut().zip(other.positions.iter()) {
            *at = (*at).max(to);
        }
    }

    /// Whether everything the other cursor covers is covered by this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.positions.iter().zip(other.positions.iter()).all(|(mine, theirs)| mine >= theirs)
    }

    /// Whether this cursor, moved on in one partition, covers the other one in all the others.
    pub fn covers_beside(&self, partition: Partition, other: &Self) -> bool {
        let mut pairs = self.positions.iter().zip(other.positions.iter()).enumerate();
        pairs.all(|(at, (mine, theirs))| at == partition.index() || mine >= theirs)
    }

    /// The last point before this one that the present stands on.
    pub fn floor(&self, history: &History) -> Self {
        let floor = |(index, &at): (usize, &Position)| history.floor(Partition(index as u16), at);
        Self { epoch: self.epoch, positions: self.positions.iter().enumerate().map(floor).collect() }
    }

    /// Appends the text form to `out`.
    pub fn write(&self, out: &mut String) {
        let generation = self.positions.iter().map(|p| p.generation()).max().unwrap_or(0);
        let mut bytes = Vec::with_capacity(8 + 4 * self.positions.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.push((self.positions.len() - 1) as u8);
        put_varint(&mut bytes, u64::from(generation));
        for position in &self.positions {
            let differs = position.generation() != generation && *position != Position::ZERO;
            put_varint(&mut bytes, (position.offset() << 1) | u64::from(differs));
            if differs {
                put_varint(&mut bytes, u64::from(position.generation()));
            }
        }
        URL_SAFE_NO_PAD.encode_string(&bytes, out);
    }

    /// The text form.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// Reads the text form; anything but exactly what [`Cursor::write`] makes is refused.
    pub fn decode(text: &str) -> Result<Self, InvalidCursor> {
        if text.len() > 4096 {
            return Err(InvalidCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let mut rest = bytes.as_slice();
        let [VERSION, e0, e1, e2, e3, last] = *take::<6>(&mut rest)? else { return Err(InvalidCursor) };
        let generation = take_varint(&mut rest)?;
        let positions = (0..=last).map(|_| take_position(&mut rest, generation)).collect::<Result<Vec<_>, _>>()?;
        let cursor = Self::new(u32::from_le_bytes([e0, e1, e2, e3]), positions);
        if cursor.encode() == text { Ok(cursor) } else { Err(InvalidCursor) }
    }
}

fn take_position(rest: &mut &[u8], generation: u64) -> Result<Position, InvalidCursor> {
    let tagged = take_varint(rest)?;
    let (offset, differs) = (tagged >> 1, tagged & 1 == 1);
    let generation = if differs { take_varint(rest)? } else { generation };
    let generation = u16::try_from(generation).map_err(|_| InvalidCursor)?;
    Ok(if offset == 0 { Position::ZERO } else { Position::new(generation, offset) })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], InvalidCursor> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(InvalidCursor)?;
    *rest = tail;
    Ok(head)
}

/// LEB128, as Protocol Buffers has it.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, InvalidCursor> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let [byte] = *take::<1>(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(InvalidCursor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = Position> {
        prop_oneof![
            Just(Position::ZERO),
            (1_u16..4, 1_u64..1 << 40).prop_map(|(generation, offset)| Position::new(generation, offset)),
        ]
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(epoch: u32, positions in prop::collection::vec(position(), 1..=256)) {
            let cursor = Cursor::new(epoch, positions);
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}") {
            let _ = Cursor::decode(&text);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Cursor::decode(&URL_SAFE_NO_PAD.encode(bytes));
        }
    }

    #[test]
    fn sixteen_busy_partitions_fit_into_ninety_characters() {
        let cursor = Cursor::new(7, vec![Position::new(1, 10_000_000); 16]);
        assert!(cursor.encode().len() <= 96, "{}", cursor.encode().len());
    }

    #[test]
    fn it_only_moves_forward() {
        let mut cursor = Cursor::start(1, Partitions::ONE);
        cursor.advance(Partition(0), Position::new(1, 5));
        cursor.advance(Partition(0), Position::new(1, 3));
        assert_eq!(cursor.at(Partition(0)), Position::new(1, 5));
    }
}
