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

#[cfg(test)]
mod tests {
    use everpost_core::{
        event::Draft,
        identity::Digest,
        log::{Durability, Top, sqlite::SqliteLog},
        name::{EventName, InstanceId, UserId},
        relay::{Topic, local::LocalRelay},
    };
    use uuid::Uuid;

    use super::*;
    use crate::gateway::{
        claims::Grant,
        frame::{Frame, Run},
        session::{Item, Session},
    };

    fn room() -> ConversationId {
        ConversationId::new("room").expect("a name")
    }

    fn draft() -> Draft {
        Draft {
            conversation: room(),
            name: EventName::new("new_message").expect("a name"),
            message_id: Uuid::now_v7(),
            sender: UserId::new("alice").expect("a name"),
            key: None,
            body: Digest::of_body(&[]),
            created_ms: 1,
            data: "{}".into(),
            verified: None,
        }
    }

    async fn log(folder: &tempfile::TempDir, events: usize) -> Arc<dyn Log> {
        let log = SqliteLog::open(&folder.path().join("log.db"), Durability::Memory).await.expect("it opens");
        let known = [Top { conversation: room(), seq: 0 }];
        log.hydrate(Partition(0), log.generation(Partition(0)), &known).await.expect("it takes them");
        let drafts: Vec<Draft> = (0..events).map(|_| draft()).collect();
        log.append(Partition(0), &drafts).await.expect("it accepts them");
        Arc::new(log)
    }

    /// The run with one number of the room.
    async fn run(log: &Arc<dyn Log>, seq: u64) -> Arc<Run> {
        let everpost_core::log::Tail::Records(records) =
            log.read_after(Partition(0), Position::ZERO, 100).await.expect("readable")
        else {
            panic!("nothing was trimmed")
        };
        let base = Arc::new(everpost_core::cursor::Cursor::start(log.epoch(), log.partitions()));
        let frames = vec![Frame::of(&records[seq as usize - 1], &base).expect("readable")];
        Arc::new(Run { conversation: room(), partition: Partition(0), base, frames, bytes: 1 })
    }

    /// A hub with one session in the room.
    async fn hub() -> (Arc<Hub>, Arc<Session>) {
        let relay: Arc<dyn everpost_core::relay::Relay> = Arc::new(LocalRelay::new());
        let (hub, registrar) = Hub::new(InstanceId::random(), relay);
        tokio::spawn(registrar);
        let session = Arc::new(Session::new(UserId::new("bob").expect("a name"), Grant::FOREVER, 1_000, 0));
        hub.join(&session, vec![Topic::Conversation(room())]).await.expect("it is registered");
        (hub, session)
    }

    /// What a session was given: numbers of runs, and after which number something was missed.
    fn given(session: &Session) -> Vec<(&'static str, u64)> {
        let items = session.take().items.into_iter();
        let told = items.map(|item| match item {
            Item::Run(run) => ("run", run.frames[0].seq),
            Item::Missed(_, after) => ("missed", after.offset()),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[tokio::test]
    async fn a_run_that_does_not_follow_shows_what_is_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, (hub, session)) = (log(&folder, 5).await, hub().await);
        for (seq, gap) in [(2, false), (3, false), (3, false), (2, false), (5, true)] {
            assert_eq!(hub.deliver(&run(&log, seq).await), gap, "{seq}");
        }
        assert_eq!(given(&session), [("run", 2), ("run", 3), ("run", 3), ("run", 2), ("missed", 3), ("run", 5)]);
    }

    #[tokio::test]
    async fn the_last_one_is_missed_once_fan_out_has_passed_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, (hub, session)) = (log(&folder, 3).await, hub().await);
        let mut vigil = Vigil::new(hub.clone(), log.clone(), Duration::from_secs(30));
        hub.deliver(&run(&log, 2).await);
        given(&session);
        vigil.look().await.expect("the log answers");
        assert_eq!(vigil.judge(&[Position::ZERO]), 0, "fan-out is not there yet");
        let ends = log.ends().await.expect("the log answers");
        assert_eq!(vigil.judge(&ends), 1);
        assert_eq!(given(&session), [("missed", 2)]);
        vigil.look().await.expect("the log answers");
        assert_eq!(vigil.judge(&ends), 0, "it was read, which is enough");
        assert!(given(&session).is_empty());
    }

    #[tokio::test]
    async fn nobody_misses_what_came_before_there_was_anybody() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, (hub, session)) = (log(&folder, 3).await, hub().await);
        let mut vigil = Vigil::new(hub.clone(), log.clone(), Duration::from_secs(30));
        vigil.look().await.expect("the log answers");
        assert_eq!(vigil.judge(&log.ends().await.expect("the log answers")), 0);
        assert!(given(&session).is_empty());
    }
}
