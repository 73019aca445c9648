//! Drafts, names and the usual steps of a case.

use std::time::Duration;

use everpost_core::{
    clock::now_ms,
    event::{Draft, Record},
    identity::{Digest, Key},
    lease::{Lease, LeaseView},
    log::{Appended, Follower, Log, Prior, Tail, Top},
    name::{ConversationId, EventName, UserId},
    partition::Partition,
    position::Position,
    role::Role,
};
use uuid::Uuid;

use super::stage::Port;

/// How long a read may wait for what is there already; it returns as soon as it has it.
pub(crate) const SOON: Duration = Duration::from_millis(200);

pub(crate) fn conversation(text: &str) -> ConversationId {
    ConversationId::new(text).expect("a name")
}

/// A new event of alice; two calls make two different events.
pub(crate) fn draft(id: &str) -> Draft {
    let message_id = Uuid::now_v7();
    Draft {
        conversation: conversation(id),
        name: EventName::new(EventName::NEW_MESSAGE).expect("a name"),
        message_id,
        sender: UserId::new("alice").expect("a name"),
        key: None,
        body: Digest::of_message(message_id),
        created_ms: now_ms(),
        data: format!(r#"{{"content":{{"text":"{}"}}}}"#, message_id.as_simple()).into(),
        verified: None,
    }
}

/// The same with a sender and a key.
pub(crate) fn keyed(id: &str, sender: &str, key: &str) -> Draft {
    let sender = UserId::new(sender).expect("a name");
    Draft { sender, key: Some(Key::new(key).expect("a key")), ..draft(id) }
}

/// New events of one conversation.
pub(crate) fn drafts(id: &str, count: usize) -> Vec<Draft> {
    (0..count).map(|_| draft(id)).collect()
}

/// Names of conversations that share a partition, whatever the number of partitions.
pub(crate) fn siblings(log: &(impl Log + ?Sized), count: usize) -> Vec<String> {
    let names = (0..).map(|n| format!("room-{n}"));
    names.filter(|name| log.partitions().of(name) == log.partitions().of("room-0")).take(count).collect()
}

/// Tells the log that the conversations are new.
pub(crate) async fn begin(log: &(impl Log + ?Sized), ids: &[impl AsRef<str>]) {
    for id in ids {
        hydrate(log, id.as_ref(), 0).await;
    }
}

pub(crate) async fn hydrate(log: &(impl Log + ?Sized), id: &str, seq: u64) {
    let top = Top { conversation: conversation(id), seq };
    let partition = log.partitions().of(id);
    log.hydrate(partition, log.generation(partition), &[top]).await.expect("the log answers");
}

/// Appends drafts of one partition.
pub(crate) async fn append(log: &(impl Log + ?Sized), drafts: &[Draft]) -> Vec<Appended> {
    let partition = log.partitions().of(drafts[0].conversation.as_str());
    log.append(partition, drafts).await.expect("the log answers")
}

/// Appends drafts one by one and returns the records the log must have of them.
pub(crate) async fn placed(log: &(impl Log + ?Sized), drafts: &[Draft]) -> Vec<Record> {
    let mut records = Vec::with_capacity(drafts.len());
    for draft in drafts {
        records.push(record(draft, &append(log, std::slice::from_ref(draft)).await[0]));
    }
    records
}

/// The record an accepted draft must have become.
pub(crate) fn record(draft: &Draft, answer: &Appended) -> Record {
    match answer {
        Appended::Accepted { seq, position } => Record::place(draft, *seq, *position),
        other => panic!("not accepted but {other:?}"),
    }
}

/// What a repeat of an accepted draft must be told.
pub(crate) fn prior(draft: &Draft, answer: &Appended) -> Appended {
    let Appended::Accepted { seq, position } = *answer else { panic!("not accepted but {answer:?}") };
    Appended::Duplicate(Prior { seq, position, message_id: draft.message_id, body: draft.body })
}

pub(crate) fn seq(answer: &Appended) -> u64 {
    match answer {
        Appended::Accepted { seq, .. } => *seq,
        other => panic!("not accepted but {other:?}"),
    }
}

/// Everything after a position, page by page.
pub(crate) async fn rest(log: &(impl Log + ?Sized), partition: Partition, mut after: Position) -> Vec<Record> {
    let mut found = Vec::new();
    loop {
        match log.read_after(partition, after, 50).await.expect("readable") {
            Tail::Records(records) if records.is_empty() => return found,
            Tail::Records(records) => found.extend(records),
            Tail::Trimmed => panic!("what follows {after:?} is gone"),
        }
        after = found.last().map_or(after, |last: &Record| last.position);
    }
}

/// What a lease looks like now.
pub(crate) async fn view(log: &dyn Port, role: Role, partition: Partition) -> LeaseView {
    log.view(role).await.expect("readable")[partition.index()].clone()
}

/// Takes a lease, whoever has it.
pub(crate) async fn take(log: &dyn Port, role: Role, partition: Partition, owner: &str) -> Lease {
    let seen = view(log, role, partition).await;
    let taken = log.acquire(role, partition, owner, &seen).await.expect("the log answers");
    taken.expect("nobody was faster")
}

/// Reads until there are so many records, and insists that there are no more of them.
pub(crate) async fn read(follower: &mut dyn Follower, lease: Lease, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        let batches = follower.read(&[lease], 1_000, SOON).await.expect("readable");
        assert!(!batches.is_empty(), "{} records instead of {count}", records.len());
        assert!(batches.iter().all(|batch| batch.lease == lease));
        records.extend(batches.into_iter().flat_map(|batch| batch.records));
    }
    assert_eq!(records.len(), count);
    records
}

/// Insists that there is nothing to read.
pub(crate) async fn read_nothing(follower: &mut dyn Follower, lease: Lease) {
    let batches = follower.read(&[lease], 1_000, Duration::from_millis(20)).await.expect("readable");
    assert_eq!(batches, []);
}

/// Lets a role acknowledge everything there is in a partition.
pub(crate) async fn finish(log: &dyn Port, role: Role, partition: Partition) -> Lease {
    let lease = take(log, role, partition, "finisher").await;
    let mut follower = log.follow(role).await.expect("the log answers");
    let end = log.ends().await.expect("readable")[partition.index()];
    let mut at = log.progress(role).await.expect("readable")[partition.index()];
    while at < end {
        let batches = follower.read(&[lease], 1_000, SOON).await.expect("readable");
        at = batches.last().and_then(|batch| batch.records.last()).expect("there is more").position;
        follower.ack(&[(lease, at)]).await.expect("still ours");
    }
    lease
}
