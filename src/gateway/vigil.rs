//! Looks whether everything the log has for the conversations listened to here has arrived.
//!
//! A delivery that got lost in the middle of a conversation shows by the next one. The last one shows by nothing, so
//! once in a heartbeat the gateway asks the log for the last number of each conversation somebody listens to here. What
//! has not arrived once fan-out is past that point and the inbox is empty will never arrive, and is read instead. This
//! costs a look-up for each conversation and heartbeat, whatever the number of connections.

use std::{collections::HashMap, sync::Arc, time::Duration};

use everpost_core::{
    log::{Log, LogError},
    name::ConversationId,
    partition::Partition,
    position::Position,
};

use super::hub::Hub;

/// Conversations asked for at once, at least and at most; a gateway with more than the most in each second of a
/// heartbeat takes longer than one to look at all of them.
const ASKED: (usize, usize) = (64, 4_096);
/// How many seconds fan-out may take to pass what was asked for; if it takes longer the same is asked again in the next
/// round. A partition in which nothing happened since the log was renewed has nothing to pass.
const PATIENCE: u32 = 3;

/// What is to arrive, once fan-out has passed the ends.
struct Expected {
    ends: Vec<Position>,
    tops: Vec<(Partition, ConversationId, u64)>,
    looks: u32,
}

pub(super) struct Vigil {
    hub: Arc<Hub>,
    log: Arc<dyn Log>,
    heartbeat: Duration,
    /// Conversations still to be looked at in this round.
    round: Vec<ConversationId>,
    /// How many of them are looked at each second.
    share: usize,
    expected: Option<Expected>,
}

impl Vigil {
    pub(super) fn new(hub: Arc<Hub>, log: Arc<dyn Log>, heartbeat: Duration) -> Self {
        Self { hub, log, heartbeat, round: Vec::new(), share: 0, expected: None }
    }

    /// Expects nothing any more: everybody reads the log anyway.
    pub(super) fn forget(&mut self) {
        self.expected = None;
    }

    /// Takes the next few conversations, and where they stand. To be called once a second.
    pub(super) async fn look(&mut self) -> Result<(), LogError> {
        if let Some(expected) = self.expected.as_mut().filter(|expected| expected.looks < PATIENCE) {
            expected.looks += 1;
            return Ok(());
        }
        if self.round.is_empty() {
            self.round = self.hub.conversations();
            let seconds = usize::try_from(self.heartbeat.as_secs()).unwrap_or(usize::MAX).max(1);
            self.share = self.round.len().div_ceil(seconds).clamp(ASKED.0, ASKED.1);
        }
        let asked = self.round.split_off(self.round.len().saturating_sub(self.share));
        if !asked.is_empty() {
            self.expected = Some(self.expect(asked).await?);
        }
        Ok(())
    }

    /// The ends are read after the numbers, so whatever has passed them has passed the numbers.
    async fn expect(&self, asked: Vec<ConversationId>) -> Result<Expected, LogError> {
        let mut by_partition: HashMap<Partition, Vec<ConversationId>> = HashMap::new();
        for conversation in asked {
            by_partition.entry(self.log.partitions().of(conversation.as_str())).or_default().push(conversation);
        }
        let mut tops = Vec::new();
        for (partition, conversations) in by_partition {
            let seqs = self.log.tops_of(partition, &conversations).await?;
            tops.extend(conversations.into_iter().zip(seqs).map(|(conversation, seq)| (partition, conversation, seq)));
        }
        Ok(Expected { ends: self.log.ends().await?, tops, looks: 0 })
    }

    /// Everything up to where fan-out stood has arrived, or never will: has what was expected? Tells for how many
    /// conversations it has not.
    pub(super) fn judge(&mut self, fanned: &[Position]) -> u64 {
        let Some(expected) = &mut self.expected else { return 0 };
        let passed = |partition: &Partition| fanned.get(partition.index()) >= expected.ends.get(partition.index());
        let mut missed = 0;
        expected.tops.retain(|(partition, conversation, seq)| {
            let due = passed(partition);
            if due && self.hub.expect(conversation, *seq) {
                tracing::warn!(%conversation, seq, "a delivery got lost; its listeners read it from the log");
                missed += 1;
            }
            !due
        });
        if expected.tops.is_empty() {
            self.expected = None;
        }
        missed
    }
}
