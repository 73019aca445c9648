//! Compares what everybody saw with what was promised, and names every difference.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

/// An event as somebody saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) conversation: String,
    pub(crate) seq: u64,
    /// What its sender called it; none if it is not an event of this load.
    pub(crate) id: Option<Uuid>,
    /// Everything else about it that must be the same for everybody.
    pub(crate) content: String,
}

/// A promise the service made to a sender.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) id: Uuid,
    pub(crate) conversation: String,
    pub(crate) seq: u64,
}

/// What one observer saw, in the order it saw it.
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
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// Acknowledged, and this observer does not have it at that number.
    LostAccepted { observer: String, conversation: String, seq: u64, id: Uuid },
    /// Nobody sent this.
    Phantom { observer: String, conversation: String, seq: u64 },
    /// A number was left out.
    Hole { observer: String, conversation: String, after: u64, next: u64 },
    /// A number came after a higher one.
    Reorder { observer: String, conversation: String, seq: u64 },
    /// A number came twice.
    Duplicate { observer: String, conversation: String, seq: u64 },
    /// One message has two numbers.
    DuplicateId { id: Uuid, seqs: Vec<(String, u64)> },
    /// One number has two contents.
    Fork { conversation: String, seq: u64 },
    /// A sender or listener was told what it should not have been.
    Refused { answer: String },
}

/// Everything that is wrong; nothing if all promises were kept.
pub(crate) fn check(transcript: &Transcript) -> Vec<Violation> {
    let mut violations: Vec<Violation> = Vec::new();
    for stream in &transcript.streams {
        violations.extend(lost(&transcript.acks, stream));
        violations.extend(phantoms(&transcript.sent, stream));
        violations.extend(disorder(stream));
    }
    violations.extend(double_ids(transcript));
    violations.extend(forks(&transcript.streams));
    violations.extend(transcript.refusals.iter().map(|answer| Violation::Refused { answer: answer.clone() }));
    violations.sort();
    violations.dedup();
    violations
}

fn lost(acks: &[Ack], stream: &Stream) -> impl Iterator<Item = Violation> {
    let has: HashSet<_> = stream.seen.iter().map(|seen| (seen.conversation.as_str(), seen.seq, seen.id)).collect();
    acks.iter().filter(move |ack| !has.contains(&(ack.conversation.as_str(), ack.seq, Some(ack.id)))).map(|ack| {
        let (observer, conversation) = (stream.observer.clone(), ack.conversation.clone());
        Violation::LostAccepted { observer, conversation, seq: ack.seq, id: ack.id }
    })
}

fn phantoms(sent: &HashMap<Uuid, String>, stream: &Stream) -> impl Iterator<Item = Violation> {
    let known = |seen: &Seen| seen.id.and_then(|id| sent.get(&id)).is_some_and(|to| *to == seen.conversation);
    stream.seen.iter().filter(move |seen| !known(seen)).map(|seen| {
        let (observer, conversation) = (stream.observer.clone(), seen.conversation.clone());
        Violation::Phantom { observer, conversation, seq: seen.seq }
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
    for seen in transcript.streams.iter().flat_map(|stream| &stream.seen) {
        if let Some(id) = seen.id {
            numbers.entry(id).or_default().insert((seen.conversation.clone(), seen.seq));
        }
    }
    for ack in &transcript.acks {
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
    let all = streams.iter().flat_map(|stream| &stream.seen);
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
        Seen { conversation: "room".into(), seq, id, content: format!("text {seq}") }
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
            refusals: Vec::new(),
        }
    }

    fn names(transcript: &Transcript) -> Vec<String> {
        let name = |violation| format!("{violation:?}").split(' ').next().unwrap_or_default().to_owned();
        check(transcript).into_iter().map(name).collect()
    }

    #[test]
    fn kept_promises_are_not_complained_about() {
        assert!(check(&run(&[1, 2, 3])).is_empty());
    }

    #[test]
    fn an_accepted_event_that_is_gone_is_lost() {
        assert_eq!(names(&run(&[1, 2])), ["LostAccepted"]);
        let mut unstored = run(&[1, 2, 3]);
        unstored.streams[1].seen.pop();
        assert_eq!(names(&unstored), ["LostAccepted"]);
    }

    #[test]
    fn each_disorder_has_its_name() {
        assert_eq!(names(&run(&[1, 3])), ["LostAccepted", "Hole"]);
        assert_eq!(names(&run(&[1, 3, 2])), ["Hole", "Reorder"]);
        assert_eq!(names(&run(&[1, 2, 2, 3])), ["Duplicate"]);
    }

    #[test]
    fn what_nobody_sent_is_a_phantom() {
        assert_eq!(names(&run(&[1, 2, 3, 4])), ["Phantom"]);
        let mut elsewhere = run(&[1, 2, 3]);
        elsewhere.sent.insert(IDS[0], "another room".into());
        assert_eq!(names(&elsewhere), ["Phantom", "Phantom"]);
    }

    #[test]
    fn one_message_under_two_numbers_is_named() {
        let mut twice = run(&[1, 2, 3]);
        twice.acks.push(Ack { id: IDS[0], conversation: "room".into(), seq: 2 });
        assert!(names(&twice).contains(&"DuplicateId".to_owned()));
    }

    #[test]
    fn two_contents_under_one_number_are_a_fork() {
        let mut forked = run(&[1, 2, 3]);
        forked.streams[0].seen[1].content = "another text".into();
        assert_eq!(names(&forked), ["Fork"]);
    }

    #[test]
    fn a_refusal_counts() {
        let mut refused = run(&[1, 2, 3]);
        refused.refusals.push("no".into());
        assert_eq!(names(&refused), ["Refused"]);
    }
}
