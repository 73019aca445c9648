//! One publisher: it stamps a prepared frame, remembers when it was sent, and matches acknowledgements to it.

use uuid::{Builder, Uuid};

use super::{
    room::Room,
    scan::{self, STAMP},
    target::Socket,
};

/// The size of every text.
const TEXT_BYTES: usize = 256;
/// Send times are kept for this many messages; no publisher has more unanswered.
const REMEMBERED: usize = 8_192;
/// The most a publisher may have unanswered: its frames must fit the socket's buffers.
pub(super) const DEEPEST: usize = 2_048;

/// A prepared frame of which only the id and the send time change.
struct Template {
    frame: Vec<u8>,
    id: usize,
    stamp: usize,
}

impl Template {
    fn new(room: &str, socket: Socket) -> Self {
        let conversation = match socket {
            Socket::User => format!(r#""conversation_id":"{room}","#),
            Socket::Conversation => String::new(),
        };
        let opening = r#"{"type":"text","id":""#;
        let blank = Uuid::nil();
        let padding = "x".repeat(TEXT_BYTES - STAMP.len() - 17);
        let head = format!(r#"{opening}{blank}",{conversation}"content":"{STAMP}"#);
        let frame = format!(r#"{head}{:016x} {padding}"}}"#, 0).into_bytes();
        Self { frame, id: opening.len(), stamp: head.len() }
    }

    fn fill(&mut self, id: Uuid, now: u64) -> &[u8] {
        id.hyphenated().encode_lower(&mut self.frame[self.id..self.id + 36]);
        scan::to_hex(now, &mut self.frame[self.stamp..self.stamp + 16]);
        &self.frame
    }
}

/// A publisher of one conversation.
pub(super) struct Voice {
    template: Template,
    random: [u8; 10],
    count: u32,
    sent: Vec<u64>,
    depth: usize,
    unanswered: usize,
    pace: Option<Pace>,
    due: Option<u64>,
}

/// When messages are due, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two messages.
    pub(super) interval: u64,
    /// Before the first, so that many publishers do not speak all at once.
    pub(super) phase: u64,
}

impl Voice {
    pub(super) fn new(room: &str, socket: Socket, depth: usize, pace: Option<Pace>) -> Self {
        let mut random = [0; 10];
        random.copy_from_slice(&Uuid::new_v4().as_bytes()[..10]);
        Self {
            template: Template::new(room, socket),
            random,
            count: 0,
            sent: vec![0; REMEMBERED],
            depth: depth.min(DEEPEST),
            unanswered: 0,
            pace,
            due: None,
        }
    }

    /// Whether another message may go out now, by its own depth, its pace and the window of the room.
    pub(super) fn may_speak(&mut self, room: &Room, now: u64) -> bool {
        if self.unanswered >= self.depth {
            return false;
        }
        let Some(pace) = self.pace else { return room.reserve() };
        let due = *self.due.get_or_insert(now + pace.phase) <= now;
        if due {
            room.publish();
        }
        due
    }

    /// When the next message is due, if this publisher is paced and has begun.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// The next frame to send.
    pub(super) fn speak(&mut self, now: u64) -> &[u8] {
        let stamp = self.intended(now);
        let id = self.id();
        self.sent[self.count as usize % REMEMBERED] = stamp;
        self.count = self.count.wrapping_add(1);
        self.unanswered += 1;
        self.template.fill(id, stamp)
    }

    /// A paced message that the server's slowness held up counts from when it was due (coordinated omission);
    /// a millisecond or two is only the granularity of the timer.
    fn intended(&mut self, now: u64) -> u64 {
        let (Some(pace), Some(due)) = (self.pace, self.due) else { return now };
        self.due = Some(due + pace.interval);
        if now - due > 2_000_000 { due } else { now }
    }

    /// A `UUIDv7` that ends in the count, so that an answer says which message it is for.
    fn id(&mut self) -> Uuid {
        self.random[6..].copy_from_slice(&self.count.to_be_bytes());
        let millis = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        Builder::from_unix_timestamp_millis(millis, &self.random).into_uuid()
    }

    /// When the message with this id was sent, now that it has an answer.
    pub(super) fn answered(&mut self, id: &[u8]) -> Option<u64> {
        self.unanswered = self.unanswered.saturating_sub(1);
        let count = scan::from_hex(id.get(28..36)?)?;
        Some(self.sent[count as usize % REMEMBERED])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_valid_json_with_a_text_of_the_right_size() {
        for socket in [Socket::User, Socket::Conversation] {
            let mut voice = Voice::new("room", socket, 2, None);
            let frame: serde_json::Value = serde_json::from_slice(voice.speak(255)).expect("JSON");
            assert_eq!(frame["content"].as_str().expect("text").len(), TEXT_BYTES);
            assert_eq!(frame.get("conversation_id").is_some(), socket == Socket::User);
            let id: Uuid = frame["id"].as_str().expect("text").parse().expect("a UUID");
            assert_eq!(id.get_version_num(), 7);
            assert!(frame["content"].as_str().expect("text").starts_with("~at:00000000000000ff "));
        }
    }

    #[test]
    fn an_answer_finds_its_send_time_in_any_order() {
        let mut voice = Voice::new("room", Socket::User, 8, None);
        let id = |frame: &[u8]| frame[21..57].to_vec();
        let (first, second) = (id(voice.speak(10)), id(voice.speak(20)));
        assert_ne!(first, second);
        assert_eq!(voice.answered(&second), Some(20));
        assert_eq!(voice.answered(&first), Some(10));
        assert_eq!(voice.answered(b"foreign"), None);
    }

    #[test]
    fn depth_and_pace_hold_a_publisher_back() {
        let room = Room::new("room".to_owned(), 0, 1);
        let mut deep = Voice::new("room", Socket::User, 1, None);
        assert!(deep.may_speak(&room, 0));
        deep.speak(0);
        assert!(!deep.may_speak(&room, 0));
        let mut paced = Voice::new("room", Socket::User, 9, Some(Pace { interval: 1_000, phase: 0 }));
        assert!(paced.may_speak(&room, 500));
        paced.speak(500);
        assert!(!paced.may_speak(&room, 1_499));
        assert!(paced.may_speak(&room, 1_500));
    }

    #[test]
    fn waiting_behind_a_slow_server_counts() {
        let room = Room::new("room".to_owned(), 0, 1);
        let mut voice = Voice::new("room", Socket::User, 9, Some(Pace { interval: 1_000_000, phase: 0 }));
        assert!(voice.may_speak(&room, 0));
        voice.speak(0);
        assert!(voice.may_speak(&room, 50_000_000));
        let frame = voice.speak(50_000_000).to_vec();
        assert_eq!(voice.answered(&frame[21..57]), Some(1_000_000));
    }
}
