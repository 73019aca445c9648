//! Compares what everybody saw with what was promised, and names every difference.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

pub(crate) use super::violation::Violation;
use super::{database::DATABASE, pulse::Pulse};

/// An event as somebody saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) conversation: String,
    pub(crate) seq: u64,
    /// What its sender called it; none if it is not an event of this load.
    pub(crate) id: Option<Uuid>,
    /// Everything else about it that must be the same for everybody.
    pub(crate) content: String,
    /// Whether it only says that the event of this number could not be stored.
    pub(crate) is_tombstone: bool,
}

/// A promise the service made to a sender.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) id: Uuid,
    pub(crate) conversation: String,
    pub(crate) seq: u64,
}

/// What one observer saw, in the order it saw it, without what it was told to drop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    pub(crate) observer: String,
    pub(crate) seen: Vec<Seen>,
}

/// Everything that happened in one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript {
    /// What was sent, and where to.
    pub(crate) sent: HashMap<Uuid, String>,
    pub(crate) acks: Vec<Ack>,
    /// Listeners, and the database.
    pub(crate) streams: Vec<Stream>,
    /// Answers no sender should get, and resets no listener should.
    pub(crate) refusals: Vec<String>,
    /// Retryable errors, by code.
    pub(crate) deferrals: BTreeMap<String, usize>,
    /// How often listeners were told to drop something.
    pub(crate) resets: usize,
    /// What did not come to an end in time.
    pub(crate) unsettled: Vec<String>,
    pub(crate) pulse: Pulse,
    /// The log was lost: an event may have another number than its first acknowledgement said, if everybody agrees.
    pub(crate) renumbers: bool,
    /// Tombstones may stand for events.
    pub(crate) tombstones: bool,
}

/// Everything that is wrong; nothing if all promises were kept.
pub(crate) fn check(transcript: &Transcript) -> Vec<Violation> {
    let mut violations: Vec<Violation> = Vec::new();
    for stream in &transcript.streams {
        violations.extend(lost(transcript, stream));
        violations.extend(strangers(transcript, stream));
        violations.extend(disorder(stream));
    }
    violations.extend(double_ids(transcript));
    violations.extend(forks(&transcript.streams));
    violations.extend(transcript.refusals.iter().map(|answer| Violation::Refused { answer: answer.clone() }));
    violations.extend(transcript.unsettled.iter().map(|what| Violation::Unsettled { what: what.clone() }));
    violations.sort();
    violations.dedup();
    violations
}

fn lost(transcript: &Transcript, stream: &Stream) -> Vec<Violation> {
    // Without the log's own numbers, all that counts is that it is there.
    let number = |seq| if transcript.renumbers { 0 } else { seq };
    let has: HashSet<_> =
        stream.seen.iter().map(|seen| (seen.conversation.as_str(), number(seen.seq), seen.id)).collect();
    let buried = stream.seen.iter().filter(|seen| seen.is_tombstone && transcript.tombstones);
    let buried: HashSet<_> = buried.map(|seen| (seen.conversation.as_str(), seen.seq)).collect();
    let is_there = |ack: &&_| {
        let Ack { id, conversation, seq } = ack;
        let is_buried = !transcript.renumbers && buried.contains(&(conversation.as_str(), *seq));
        is_buried || has.contains(&(conversation.as_str(), number(*seq), Some(*id)))
    };
    let missing: Vec<&Ack> = transcript.acks.iter().filter(|ack| !is_there(ack)).collect();
    let superseded =
        |at: usize| transcript.renumbers && missing[at + 1..].iter().any(|later| later.id == missing[at].id);
    let counted = (0..missing.len()).filter(|&at| !superseded(at)).map(|at| {
        let Ack { id, conversation, seq } = missing[at].clone();
        Violation::LostAccepted { observer: stream.observer.clone(), conversation, seq, id }
    });
    counted.collect()
}

/// What nobody sent, and tombstones nobody expects.
fn strangers(transcript: &Transcript, stream: &Stream) -> impl Iterator<Item = Violation> {
    let known =
        |seen: &Seen| seen.id.and_then(|id| transcript.sent.get(&id)).is_some_and(|to| *to == seen.conversation);
    let expected = move |seen: &&Seen| if seen.is_tombstone { transcript.tombstones } else { known(seen) };
    stream.seen.iter().filter(move |seen| !expected(seen)).map(|seen| {
        let (observer, conversation) = (stream.observer.clone(), seen.conversation.clone());
        if seen.is_tombstone {
            Violation::Buried { observer, conversation, seq: seen.seq }
        } else {
            Violation::Phantom { observer, conversation, seq: seen.seq }
        }
    })
}

/// Holes, reorders and repeats: every observer must see 1, 2, 3 … in each conversation.
fn disorder(stream: &Stream) -> Vec<Violation> {
    let mut tops: HashMap<&str, (u64, HashSet<u64>)> = HashMap::new();
    let mut violations = Vec::new();
    for Seen { conversation, seq, .. } in &stream.seen {
        let (top, all) = tops.entry(conversation).or_default();
        let (observer, conversation, seq) = (stream.observer.clone(), conversation.clone(), *seq);
        if !all.insert(seq) {
            violations.push(Violation::Duplicate { observer, conversation, seq });
        } else if seq < *top {
            violations.push(Violation::Reorder { observer, conversation, seq });
        } else if seq > *top + 1 {
            violations.push(Violation::Hole { observer, conversation, after: *top, next: seq });
        }
        *top = seq.max(*top);
    }
    violations
}

fn double_ids(transcript: &Transcript) -> impl Iterator<Item = Violation> {
    let mut numbers: HashMap<Uuid, HashSet<(String, u64)>> = HashMap::new();
    // What a sender or listener was once told may be another number, where the log may forget.
    let authority = |stream: &&Stream| !transcript.renumbers || stream.observer == DATABASE;
    for seen in transcript.streams.iter().filter(authority).flat_map(|stream| &stream.seen) {
        if let Some(id) = seen.id {
            numbers.entry(id).or_default().insert((seen.conversation.clone(), seen.seq));
        }
    }
    for ack in transcript.acks.iter().filter(|_| !transcript.renumbers) {
        numbers.entry(ack.id).or_default().insert((ack.conversation.clone(), ack.seq));
    }
    numbers.into_iter().filter(|(_, numbers)| numbers.len() > 1).map(|(id, numbers)| {
        let mut seqs: Vec<_> = numbers.into_iter().collect();
        seqs.sort();
        Violation::DuplicateId { id, seqs }
    })
}

fn forks(streams: &[Stream]) -> Vec<Violation> {
    let mut contents: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    let all = streams.iter().flat_map(|stream| &stream.seen).filter(|seen| !seen.is_tombstone);
    let forked = all.filter(|seen| {
        let first = contents.entry((&seen.conversation, seen.seq)).or_insert(&seen.content);
        *first != seen.content
    });
    forked.map(|seen| Violation::Fork { conversation: seen.conversation.clone(), seq: seen.seq }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [Uuid; 3] = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];

    fn seen(seq: u64) -> Seen {
        let id = IDS.get(seq as usize - 1).copied();
        Seen { conversation: "room".into(), seq, id, content: format!("text {seq}"), is_tombstone: false }
    }

    fn stream(observer: &str, seqs: &[u64]) -> Stream {
        Stream { observer: observer.into(), seen: seqs.iter().map(|seq| seen(*seq)).collect() }
    }

    /// Three events, acknowledged, one observer and the database.
    fn run(observed: &[u64]) -> Transcript {
        let ack = |seq: u64| Ack { id: IDS[seq as usize - 1], conversation: "room".into(), seq };
        Transcript {
            sent: IDS.iter().map(|id| (*id, "room".to_owned())).collect(),
            acks: (1..=3).map(ack).collect(),
            streams: vec![stream("listener", observed), stream("database", &[1, 2, 3])],
            ..Transcript::default()
        }
    }

    fn names(transcript: &Transcript) -> Vec<String> {
        check(transcript).iter().map(|violation| violation.name().to_owned()).collect()
    }

    #[test]
    fn kept_promises_are_not_complained_about() {
        assert!(check(&run(&[1, 2, 3])).is_empty());
    }

    #[test]
    fn an_accepted_event_that_is_gone_is_lost() {
        assert_eq!(names(&run(&[1, 2])), ["lost-accepted"]);
        let mut unstored = run(&[1, 2, 3]);
        unstored.streams[1].seen.pop();
        assert_eq!(names(&unstored), ["lost-accepted"]);
    }

    #[test]
    fn each_disorder_has_its_name() {
        assert_eq!(names(&run(&[1, 3])), ["lost-accepted", "hole"]);
        assert_eq!(names(&run(&[1, 3, 2])), ["hole", "reorder"]);
        assert_eq!(names(&run(&[1, 2, 2, 3])), ["duplicate"]);
    }

    #[test]
    fn what_nobody_sent_is_a_phantom() {
        assert_eq!(names(&run(&[1, 2, 3, 4])), ["phantom"]);
        let mut elsewhere = run(&[1, 2, 3]);
        elsewhere.sent.insert(IDS[0], "another room".into());
        assert_eq!(names(&elsewhere), ["phantom", "phantom"]);
    }

    #[test]
    fn one_message_under_two_numbers_is_named() {
        let mut twice = run(&[1, 2, 3]);
        twice.acks.push(Ack { id: IDS[0], conversation: "room".into(), seq: 2 });
        assert!(names(&twice).contains(&"duplicate".to_owned()));
    }

    #[test]
    fn two_contents_under_one_number_are_a_fork() {
        let mut forked = run(&[1, 2, 3]);
        forked.streams[0].seen[1].content = "another text".into();
        assert_eq!(names(&forked), ["fork"]);
    }

    #[test]
    fn a_refusal_counts() {
        let mut refused = run(&[1, 2, 3]);
        refused.refusals.push("no".into());
        assert_eq!(names(&refused), ["refused"]);
    }

    #[test]
    fn another_number_is_a_broken_promise_unless_the_log_was_lost() {
        let mut renumbered = run(&[1, 2, 3]);
        renumbered.acks.push(Ack { id: IDS[2], conversation: "room".into(), seq: 2 });
        assert_eq!(names(&renumbered), ["lost-accepted", "lost-accepted", "duplicate"]);
        renumbered.renumbers = true;
        assert!(check(&renumbered).is_empty());
        renumbered.streams[1].seen.pop();
        assert_eq!(names(&renumbered), ["lost-accepted"], "it must be somewhere all the same");
    }

    #[test]
    fn a_tombstone_stands_for_an_event_only_where_it_may() {
        let mut buried = run(&[1, 2, 3]);
        for stream in &mut buried.streams {
            stream.seen[1] = Seen { id: None, is_tombstone: true, content: stream.observer.clone(), ..seen(2) };
        }
        assert_eq!(names(&buried), ["lost-accepted", "lost-accepted", "buried", "buried"]);
        buried.tombstones = true;
        assert!(check(&buried).is_empty());
    }

    #[test]
    fn what_never_came_to_an_end_counts() {
        let mut open = run(&[1, 2, 3]);
        open.unsettled.push("something".into());
        assert_eq!(names(&open), ["unsettled"]);
    }
}
