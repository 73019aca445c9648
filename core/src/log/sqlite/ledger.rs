//! Who gets which number, and who is a repeat: the rules of the embedded log, in memory.
//!
//! A decision is staged first and becomes true only after its rows are committed; a failed commit leaves no trace.

use std::{collections::HashMap, mem};

use super::generations::Generations;
use crate::{
    clock::now_ms,
    event::{Draft, Record},
    identity::{CLOCK_LEEWAY_MS, Digest, Key},
    log::{Appended, Prior, Top},
    name::{ConversationId, UserId},
    position::Position,
};

/// Identities are remembered at least this long, and at most twice as long once they are stored.
const IDENTITY_WINDOW_MS: u64 = 300_000;
/// The memory turns over early when this many are new.
const MAX_NEW_IDENTITIES: usize = 300_000;

#[derive(Clone, Copy)]
struct Course {
    seq: u64,
    /// Since when every key used in the conversation is in memory; 0 when it has older history.
    born_ms: u64,
}

pub(super) struct Ledger {
    generations: Generations,
    last: u64,
    courses: HashMap<ConversationId, Course>,
    new: HashMap<Digest, Prior>,
    old: HashMap<Digest, Prior>,
    new_since: u64,
    known_since: u64,
    old_until: u64,
}

/// Decisions that wait for their commit.
pub(super) struct Staged {
    last: u64,
    courses: HashMap<ConversationId, Course>,
    identities: HashMap<Digest, Prior>,
    pub(super) records: Vec<Record>,
}

impl Ledger {
    pub(super) fn new(generations: Generations, last: u64) -> Self {
        let now = now_ms();
        let maps = (HashMap::new(), HashMap::new(), HashMap::new());
        let (courses, new, old) = maps;
        Self { generations, last, courses, new, old, new_since: now, known_since: now, old_until: 0 }
    }

    pub(super) fn end(&self) -> Position {
        self.place(self.last)
    }

    fn place(&self, offset: u64) -> Position {
        self.generations.place(offset)
    }

    /// Goes on in a new generation; unless it is intact, with nothing of what it knew.
    pub(super) fn renew(&mut self, generations: Generations, intact: bool) {
        self.last = self.last.max(generations.base());
        if !intact {
            *self = Self::new(generations, self.last);
        } else {
            self.generations = generations;
        }
    }

    pub(super) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Forgets how far conversations have come, because the store has events that the file does not.
    pub(super) fn forget_courses(&mut self) {
        self.courses.clear();
    }

    /// Takes in a record that was committed by an earlier process.
    pub(super) fn remember(&mut self, record: &Record) {
        let Ok(event) = record.event() else { return };
        let names = (ConversationId::new(event.conversation), UserId::new(event.sender));
        let (Ok(conversation), Ok(sender)) = names else { return };
        let identity = match event.key.and_then(|key| Key::new(key).ok()) {
            Some(key) => Digest::of_key(&conversation, &sender, &key),
            None => Digest::of_message(event.message_id),
        };
        let prior = Prior { seq: event.seq, position: event.position, message_id: event.message_id, body: event.body };
        self.new.insert(identity, prior);
        self.courses.insert(conversation, Course { seq: event.seq, born_ms: 0 });
    }

    pub(super) fn stage(&self) -> Staged {
        Staged { last: self.last, courses: HashMap::new(), identities: HashMap::new(), records: Vec::new() }
    }

    /// Decides about drafts in their order, as [`crate::log::Log::append`] says.
    pub(super) fn decide(&self, staged: &mut Staged, drafts: &[Draft]) -> Vec<Appended> {
        let mut held: HashMap<&ConversationId, Appended> = HashMap::new();
        let mut decide = |draft: &'_ Draft| -> Result<Appended, Appended> {
            let identity = draft.identity();
            if let Some(prior) = self.prior(staged, &identity) {
                return Ok(Appended::Duplicate(prior.clone()));
            }
            let course = staged.courses.get(&draft.conversation).or_else(|| self.courses.get(&draft.conversation));
            let course = *course.ok_or(Appended::Unhydrated)?;
            let young = course.born_ms >= self.known_since;
            if !young && draft.minted_ms(self.generations.current()) < self.known_since + CLOCK_LEEWAY_MS {
                return Err(Appended::Unverified);
            }
            Ok(self.accept(staged, draft, identity, course))
        };
        let mut answers = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let answer = match held.get(&draft.conversation) {
                Some(holding) => holding.clone(),
                None => decide(draft).unwrap_or_else(|holding| {
                    held.insert(&draft.conversation, holding.clone());
                    holding
                }),
            };
            answers.push(answer);
        }
        answers
    }

    fn prior<'a>(&'a self, staged: &'a Staged, identity: &Digest) -> Option<&'a Prior> {
        staged.identities.get(identity).or_else(|| self.new.get(identity)).or_else(|| self.old.get(identity))
    }

    fn accept(&self, staged: &mut Staged, draft: &Draft, identity: Digest, course: Course) -> Appended {
        let seq = course.seq + 1;
        staged.last += 1;
        let position = self.place(staged.last);
        let prior = Prior { seq, position, message_id: draft.message_id, body: draft.body };
        staged.courses.insert(draft.conversation.clone(), Course { seq, ..course });
        staged.identities.insert(identity, prior);
        staged.records.push(Record::place(draft, seq, position));
        Appended::Accepted { seq, position }
    }

    /// Makes staged decisions true; their rows are on disk.
    pub(super) fn commit(&mut self, staged: Staged) -> Vec<Record> {
        self.last = staged.last;
        self.courses.extend(staged.courses);
        self.new.extend(staged.identities);
        staged.records
    }

    /// The last number given in each conversation.
    pub(super) fn tops(&self) -> Vec<Top> {
        let top = |(conversation, course): (&ConversationId, &Course)| Top {
            conversation: conversation.clone(),
            seq: course.seq,
        };
        self.courses.iter().map(top).collect()
    }

    pub(super) fn tops_of(&self, conversations: &[ConversationId]) -> Vec<u64> {
        conversations.iter().map(|name| self.courses.get(name).map_or(0, |course| course.seq)).collect()
    }

    pub(super) fn hydrate(&mut self, tops: &[Top]) {
        for top in tops {
            let born_ms = if top.seq == 0 { now_ms() } else { 0 };
            let course = Course { seq: top.seq, born_ms };
            let known = self.courses.entry(top.conversation.clone()).or_insert(course);
            if known.seq < top.seq {
                *known = course;
            }
        }
    }

    /// Forgets old identities once the store has them all, and starts a new window.
    pub(super) fn turn_over(&mut self, stored: Position) {
        let aged = now_ms() > self.new_since + IDENTITY_WINDOW_MS || self.new.len() > MAX_NEW_IDENTITIES;
        if aged && stored.offset() >= self.old_until {
            self.old = mem::take(&mut self.new);
            self.old_until = self.last;
            self.known_since = self.new_since;
            self.new_since = now_ms();
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        identity::Key,
        name::{EventName, UserId},
    };

    fn draft() -> Draft {
        Draft {
            conversation: ConversationId::new("general").expect("a name"),
            name: EventName::new(EventName::NEW_MESSAGE).expect("a name"),
            message_id: Uuid::now_v7(),
            sender: UserId::new("alice").expect("a name"),
            key: Some(Key::new("k").expect("a key")),
            body: Digest([0; 16]),
            created_ms: now_ms(),
            data: "{}".into(),
            verified: None,
        }
    }

    #[test]
    fn a_repeat_is_known_although_its_window_is_over() {
        let mut ledger = Ledger::new(Generations::default(), 0);
        ledger.hydrate(&[Top { conversation: draft().conversation, seq: 0 }]);
        let mut staged = ledger.stage();
        assert!(matches!(ledger.decide(&mut staged, &[draft()])[..], [Appended::Accepted { seq: 1, .. }]));
        ledger.commit(staged);
        ledger.new_since = 0;
        ledger.turn_over(ledger.end());
        assert!(ledger.new.is_empty(), "a new window has begun");
        let again = ledger.decide(&mut ledger.stage(), &[draft()]);
        assert!(matches!(&again[..], [Appended::Duplicate(prior)] if prior.seq == 1), "{again:?}");
    }
}
