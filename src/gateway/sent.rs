//! What a connection has sent and its client has not acknowledged yet: the way from a cursor back to numbers.
//!
//! An acknowledged cursor says how far a client is in every partition. Which numbers of which conversations that are, a
//! database could tell; the connection knows it from what it has sent, in a few points for each conversation. Points
//! that were left out to keep them few make a mark late, never early.

use std::collections::HashMap;

use everpost_core::{cursor::Cursor, name::ConversationId, partition::Partitions, position::Position};

/// Points of one conversation; beyond it every second one is left out.
const MAX_POINTS: usize = 8;

/// One conversation: the last number that was sent, and points on the way there.
#[derive(Debug, Default)]
struct Points {
    top: u64,
    unacknowledged: Vec<(Position, u64)>,
}

/// What was sent on one connection. Nothing is allocated before something was.
#[derive(Debug, Default)]
pub(super) struct Sent(HashMap<ConversationId, Points>);

impl Sent {
    /// Notes that an event was sent.
    pub(super) fn note(&mut self, conversation: &str, position: Position, seq: u64) {
        if let Some(points) = self.0.get_mut(conversation) {
            points.add(position, seq);
        } else if let Ok(name) = ConversationId::new(conversation) {
            self.0.entry(name).or_default().add(position, seq);
        }
    }

    /// The highest number that was sent of a conversation.
    pub(super) fn top(&self, conversation: &ConversationId) -> u64 {
        self.0.get(conversation).map_or(0, |points| points.top)
    }

    /// How far the client has come in each conversation in which it has come further.
    pub(super) fn acknowledge(&mut self, cursor: &Cursor, partitions: Partitions) -> Vec<(ConversationId, u64)> {
        if cursor.positions().len() != partitions.count() {
            return Vec::new(); // of another installation
        }
        let further = |(conversation, points): (&ConversationId, &mut Points)| {
            let at = cursor.at(partitions.of(conversation.as_str()));
            Some((conversation.clone(), points.acknowledge(at)?))
        };
        self.0.iter_mut().filter_map(further).collect()
    }

    /// Forgets everything: the numbers may mean something else from now on.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Points {
    fn add(&mut self, position: Position, seq: u64) {
        if seq <= self.top {
            return; // once more what was sent before
        }
        self.top = seq;
        self.unacknowledged.push((position, seq));
        if self.unacknowledged.len() > MAX_POINTS {
            thin(&mut self.unacknowledged);
        }
    }

    fn acknowledge(&mut self, at: Position) -> Option<u64> {
        let passed = self.unacknowledged.iter().take_while(|(position, _)| *position <= at).count();
        let (_, seq) = *self.unacknowledged.get(passed.checked_sub(1)?)?;
        if passed == self.unacknowledged.len() {
            self.unacknowledged = Vec::new(); // most connections are idle most of the time
        } else {
            self.unacknowledged.drain(..passed);
        }
        Some(seq)
    }
}

/// Leaves out every second point, but not the last one.
fn thin(points: &mut Vec<(Position, u64)>) {
    let last = points.len() - 1;
    let mut at = 0;
    points.retain(|_| {
        at += 1;
        (last + 1 - at).is_multiple_of(2)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> ConversationId {
        ConversationId::new("room").expect("a name")
    }

    fn sent(seqs: impl IntoIterator<Item = u64>) -> Sent {
        let mut sent = Sent::default();
        seqs.into_iter().for_each(|seq| sent.note("room", Position::new(1, seq * 10), seq));
        sent
    }

    fn acknowledge(sent: &mut Sent, offset: u64) -> Option<u64> {
        let cursor = Cursor::new(1, vec![Position::new(1, offset)]);
        sent.acknowledge(&cursor, Partitions::ONE).pop().map(|(_, seq)| seq)
    }

    #[test]
    fn a_cursor_is_as_far_as_it_reaches_and_once() {
        let mut sent = sent(1..=4);
        assert_eq!(acknowledge(&mut sent, 9), None);
        assert_eq!(acknowledge(&mut sent, 25), Some(2));
        assert_eq!(acknowledge(&mut sent, 25), None, "nothing is new");
        assert_eq!(acknowledge(&mut sent, 1_000), Some(4), "no further than what was sent");
        assert_eq!(sent.top(&room()), 4);
    }

    #[test]
    fn however_much_is_sent_little_is_kept_and_nothing_is_claimed_too_early() {
        let mut sent = sent(1..=10_000);
        assert!(sent.0[&room()].unacknowledged.len() <= MAX_POINTS);
        assert!(acknowledge(&mut sent, 50_000).is_none_or(|seq| seq <= 5_000));
        assert_eq!(acknowledge(&mut sent, 100_000), Some(10_000), "the last is always known");
    }

    #[test]
    fn what_comes_again_is_not_new() {
        let mut sent = sent([5]);
        sent.note("room", Position::new(1, 30), 3);
        assert_eq!(acknowledge(&mut sent, 40), None);
        assert_eq!(acknowledge(&mut sent, 50), Some(5));
    }
}
