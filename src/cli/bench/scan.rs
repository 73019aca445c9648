//! Finds the few fields the generator needs in a JSON frame, by looking for bytes instead of parsing.
//!
//! That is safe because a quotation mark inside a JSON string is always escaped: `"seq":` cannot occur within a text.

use memchr::memmem::Finder;

/// What a frame is, as far as a load generator cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The first frame of a connection.
    Connected,
    /// A message of a conversation.
    NewMessage,
    /// The answer to a frame of ours.
    Ack,
    /// The refusal of a frame of ours.
    Error,
    /// The database has everything up to a sequence number.
    Stored,
    /// Asks for a pong.
    Ping,
    /// A hole that is explained.
    Tombstone,
    /// Everything missed has been sent.
    ReplayFinished,
    /// Presence, typing, receipts.
    Other,
}

/// Ready-made searches; one of them serves every connection.
pub(super) struct Scanner {
    event: Finder<'static>,
    seq: Finder<'static>,
    up_to: Finder<'static>,
    id: Finder<'static>,
    cursor: Finder<'static>,
    durability: Finder<'static>,
    stamp: Finder<'static>,
}

/// How nearly every frame begins; then its name needs no search.
const OPENING: &[u8] = br#"{"event":""#;

/// Precedes the send time inside a payload.
pub(super) const STAMP: &str = "~at:";

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            event: Finder::new(r#""event":""#),
            seq: Finder::new(r#""seq":"#),
            up_to: Finder::new(r#""up_to":"#),
            id: Finder::new(r#""id":""#),
            cursor: Finder::new(r#""cursor":""#),
            durability: Finder::new(r#""durability":""#),
            stamp: Finder::new(STAMP),
        }
    }

    /// What kind of frame this is.
    pub(super) fn event(&self, frame: &[u8]) -> Event {
        let name = match frame.strip_prefix(OPENING) {
            Some(rest) => until_quote(rest),
            None => text_after(&self.event, frame).unwrap_or_default(),
        };
        match name {
            b"new_message" => Event::NewMessage,
            b"ack" => Event::Ack,
            b"stored" => Event::Stored,
            b"error" => Event::Error,
            b"ping" => Event::Ping,
            b"connected" => Event::Connected,
            b"tombstone" => Event::Tombstone,
            b"replay_finished" => Event::ReplayFinished,
            _ => Event::Other,
        }
    }

    /// The sequence number of a frame or of an acknowledgement.
    pub(super) fn seq(&self, frame: &[u8]) -> Option<u64> {
        number_after(&self.seq, frame)
    }

    /// How far a `stored` frame says the database is.
    pub(super) fn up_to(&self, frame: &[u8]) -> Option<u64> {
        number_after(&self.up_to, frame)
    }

    /// The client's own id in an answer.
    pub(super) fn id<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        text_after(&self.id, frame)
    }

    /// Where a client stands after this frame.
    pub(super) fn cursor<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        text_after(&self.cursor, frame)
    }

    /// What an acknowledgement promises.
    pub(super) fn durability<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        text_after(&self.durability, frame)
    }

    /// The send time in nanoseconds a payload carries.
    pub(super) fn stamp(&self, frame: &[u8]) -> Option<u64> {
        let start = self.stamp.find(frame)? + STAMP.len();
        from_hex(frame.get(start..start + 16)?)
    }
}

fn text_after<'a>(what: &Finder<'_>, frame: &'a [u8]) -> Option<&'a [u8]> {
    let start = what.find(frame)? + what.needle().len();
    frame.get(start..).map(until_quote)
}

fn until_quote(text: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'"', text).unwrap_or(text.len());
    &text[..end]
}

fn number_after(what: &Finder<'_>, frame: &[u8]) -> Option<u64> {
    let start = what.find(frame)? + what.needle().len();
    let digits = frame.get(start..)?.iter().take_while(|byte| byte.is_ascii_digit());
    let (number, count) = digits.fold((0_u64, 0), |(number, count), digit| {
        (number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')), count + 1)
    });
    (count > 0).then_some(number)
}

/// The number that lower-case hexadecimal digits stand for.
pub(super) fn from_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u64::from(value))
    })
}

/// Writes `number` as lower-case hexadecimal digits over all of `place`.
pub(super) fn to_hex(mut number: u64, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = br#"{"event":"new_message","conversation_id":"c","seq":42,"cursor":"x1","id":"m","data":{"message_id":"0","seq":42,"content":{"text":"\"seq\":7 ~at:00000000000000ff hello"}},"timestamp":"t"}"#;
    const ACK: &[u8] =
        br#"{"event":"ack","id":"0191e7c4","data":{"message_id":"m","seq":9,"duplicate":false,"durability":"fsynced"}}"#;

    #[test]
    fn a_message_gives_its_number_cursor_and_send_time() {
        let scanner = Scanner::new();
        assert_eq!(scanner.event(MESSAGE), Event::NewMessage);
        assert_eq!(scanner.seq(MESSAGE), Some(42));
        assert_eq!(scanner.cursor(MESSAGE), Some(&b"x1"[..]));
        assert_eq!(scanner.stamp(MESSAGE), Some(255));
    }

    #[test]
    fn an_ack_gives_its_id_number_and_durability() {
        let scanner = Scanner::new();
        assert_eq!(scanner.event(ACK), Event::Ack);
        assert_eq!(scanner.id(ACK), Some(&b"0191e7c4"[..]));
        assert_eq!(scanner.seq(ACK), Some(9));
        assert_eq!(scanner.durability(ACK), Some(&b"fsynced"[..]));
    }

    #[test]
    fn the_order_of_the_fields_does_not_matter() {
        let scanner = Scanner::new();
        let frame = br#"{"conversation_id":"c","data":{"up_to":17},"event":"stored"}"#;
        assert_eq!((scanner.event(frame), scanner.up_to(frame)), (Event::Stored, Some(17)));
        assert_eq!(scanner.event(br#"{"event":"typing","data":{}}"#), Event::Other);
    }

    #[test]
    fn what_is_missing_is_not_invented() {
        let scanner = Scanner::new();
        for frame in [&b""[..], b"{}", br#"{"event":"#, br#"{"event":"ping","seq":}"#, b"~at:12"] {
            assert_eq!((scanner.seq(frame), scanner.stamp(frame)), (None, None));
        }
    }

    #[test]
    fn hexadecimal_goes_there_and_back() {
        let mut place = [0; 16];
        to_hex(0x0123_4567_89ab_cdef, &mut place);
        assert_eq!(&place, b"0123456789abcdef");
        assert_eq!(from_hex(&place), Some(0x0123_4567_89ab_cdef));
        assert_eq!(from_hex(b"xyz"), None);
    }
}
