//! How many clients there are, how fast they write and what they may have to put up with.

use std::time::Duration;

/// Until when a sender keeps a message to send it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It trusts the acknowledgement: whatever is lost after it is lost.
    UntilAcknowledged,
    /// It waits until the database has it.
    UntilStored,
    /// Every other sender does the one or the other.
    Either,
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) conversations: usize,
    pub(crate) publishers: usize,
    pub(crate) listeners: usize,
    /// Between two messages of one sender: a stream rather than a burst, so that a fault always meets some under way.
    pub(crate) pace: Duration,
    pub(crate) keep: Keep,
    /// After so many frames times its own number, a listener hangs up without a word.
    pub(crate) restless: usize,
    /// A connection that says nothing for so long is given up.
    pub(crate) silence: Duration,
    /// Whether the log may lose what was not stored: numbers are then given again, and listeners told so by a reset.
    pub(crate) renumbers: bool,
    /// Whether numbers may be filled by tombstones.
    pub(crate) tombstones: bool,
}

impl Load {
    /// Enough to keep all parts busy: some 320 messages a second.
    pub(crate) const SMALL: Self = Self {
        conversations: 8,
        publishers: 8,
        listeners: 3,
        pace: Duration::from_millis(25),
        keep: Keep::UntilAcknowledged,
        restless: 97,
        silence: Duration::from_secs(60),
        renumbers: false,
        tombstones: false,
    };
    /// Many conversations over all partitions: some 250 messages a second.
    pub(crate) const WIDE: Self = Self {
        conversations: 200,
        publishers: 20,
        listeners: 4,
        pace: Duration::from_millis(80),
        keep: Keep::Either,
        restless: 1_500,
        silence: Duration::from_secs(6),
        ..Self::SMALL
    };

    /// The conversation a sender's message goes to; each conversation has two senders.
    pub(super) fn written_by(&self, publisher: usize, turn: usize) -> usize {
        let each = self.conversations.div_ceil(self.publishers);
        (publisher * each + turn % (2 * each)) % self.conversations
    }

    /// The senders of a conversation.
    pub(super) fn senders_of(&self, conversation: usize) -> impl Iterator<Item = usize> {
        let each = self.conversations.div_ceil(self.publishers);
        let writes = move |&number: &usize| (0..2 * each).any(|turn| self.written_by(number, turn) == conversation);
        (0..self.publishers).filter(writes).collect::<Vec<_>>().into_iter()
    }
}

#[test]
fn every_conversation_has_senders() {
    for load in [Load::SMALL, Load::WIDE] {
        assert!((0..load.conversations).all(|conversation| load.senders_of(conversation).count() == 2));
    }
}
