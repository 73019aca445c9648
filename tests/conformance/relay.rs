//! The contract of the relay: one suite, run against Redis and against one process.

use std::{sync::Arc, time::Duration};

use everpost_core::{
    event::Record,
    log::{Durability, LogError},
    name::{ConversationId, InstanceId, UserId},
    partition::Partition,
    relay::{Inbox, Moved, Parcel, Relay, Signal, Topic, local::LocalRelay, redis::RedisRelay},
    store::Mark,
};

use super::log::{drafts::draft, stage::connect};
use crate::harness::{eventually::eventually, redis::RedisServer};

/// How long a read may wait for what is there already; it returns as soon as it has it.
const SOON: Duration = Duration::from_millis(500);

struct Stage {
    relay: Arc<dyn Relay>,
    server: Option<RedisServer>,
}

impl Stage {
    async fn redis() -> Self {
        let server = RedisServer::start().await;
        let log = connect(&server, Durability::Fsync).await.expect("Redis runs");
        Self { relay: Arc::new(RedisRelay::beside(&log)), server: Some(server) }
    }

    async fn local() -> Self {
        Self { relay: Arc::new(LocalRelay::new()), server: None }
    }
}

fn topic(name: &str) -> Topic {
    Topic::Conversation(ConversationId::new(name).expect("a name"))
}

fn typing(name: &str) -> Parcel {
    let conversation = ConversationId::new(name).expect("a name");
    Parcel::Signal(Signal::Frame { conversation, event: "typing".into(), data: r#"{"user_id":"a\"b"}"#.into() })
}

fn marks(name: &str) -> Parcel {
    let moved = [(Mark::Read, true), (Mark::Delivered, false)].map(|(mark, to_all)| Moved {
        mark,
        conversation: ConversationId::new(name).expect("a name"),
        user: UserId::new("alice").expect("a name"),
        up_to: 7,
        to_all,
    });
    Parcel::Signal(Signal::Marks { moved: moved.to_vec() })
}

fn records(count: u64) -> Parcel {
    let place = |n| everpost_core::position::Position::new(1, n);
    let records = (1..=count).map(|n| Record::place(&draft("general"), n, place(n))).collect();
    Parcel::Records { partition: Partition(3), records }
}

async fn receive(inbox: &mut dyn Inbox, count: usize) -> Vec<Parcel> {
    let mut parcels = Vec::new();
    while parcels.len() < count {
        let found = inbox.receive(SOON).await.expect("readable");
        assert!(!found.is_empty(), "{} parcels instead of {count}", parcels.len());
        parcels.extend(found);
    }
    parcels
}

async fn who_joined_is_found_until_it_leaves(stage: Stage) {
    let (relay, a, b) = (stage.relay, InstanceId::random(), InstanceId::random());
    let user = Topic::User(UserId::new("alice").expect("a name"));
    let topics = [topic("x"), topic("y"), user];
    relay.join(&a, &topics).await.expect("reachable");
    relay.join(&a, &topics).await.expect("again is harmless");
    relay.join(&b, &topics[1..]).await.expect("reachable");
    let found = relay.listeners(&[topics.as_slice(), &[topic("z")]].concat()).await.expect("reachable");
    assert_eq!(found, [vec![a.clone()], vec![a.clone(), b.clone()], vec![a.clone(), b.clone()], vec![]]);
    relay.leave(&a, &topics).await.expect("reachable");
    relay.leave(&a, &topics).await.expect("again is harmless");
    assert_eq!(relay.listeners(&topics).await.expect("reachable"), [vec![], vec![b.clone()], vec![b]]);
    assert_eq!(relay.listeners(&[]).await.expect("harmless"), Vec::<Vec<InstanceId>>::new());
}

async fn parcels_arrive_whole_and_in_order(stage: Stage) {
    let (relay, a, b) = (stage.relay, InstanceId::random(), InstanceId::random());
    let mut inbox = relay.open(&a).await.expect("reachable");
    let mut other = relay.open(&b).await.expect("reachable");
    let sent = [records(3), typing("general"), records(1), marks("x")];
    relay.send(sent[..2].iter().map(|parcel| (a.clone(), parcel.clone())).collect()).await.expect("reachable");
    relay.send(sent[2..].iter().map(|parcel| (a.clone(), parcel.clone())).collect()).await.expect("reachable");
    let received = receive(&mut *inbox, 4).await;
    for (received, sent) in received.iter().zip(&sent) {
        match (received, sent) {
            (Parcel::Records { records: received, .. }, Parcel::Records { records: sent, .. }) => {
                assert_eq!(received, sent);
            }
            (received, sent) => assert_eq!(received, sent),
        }
    }
    assert_eq!(other.receive(Duration::from_millis(20)).await.expect("readable"), [], "it was for the other one");
}

async fn who_closed_gets_nothing_and_leaves_nothing(stage: Stage) {
    let (relay, a) = (stage.relay, InstanceId::random());
    let _inbox = relay.open(&a).await.expect("reachable");
    assert!(relay.beat(&a).await.expect("reachable"));
    assert_eq!(relay.instances().await.expect("reachable"), std::slice::from_ref(&a));
    relay.join(&a, &[topic("x")]).await.expect("reachable");
    relay.close(&a).await.expect("reachable");
    relay.close(&a).await.expect("again is harmless");
    relay.send(vec![(a.clone(), typing("x"))]).await.expect("nobody there is no error");
    assert_eq!(relay.instances().await.expect("reachable"), []);
    assert!(!relay.beat(&a).await.expect("reachable"), "it has to open again");
    assert_eq!(relay.listeners(&[topic("x")]).await.expect("reachable"), [vec![]]);
    let mut inbox = relay.open(&a).await.expect("it may come back");
    relay.send(vec![(a, typing("x"))]).await.expect("reachable");
    assert_eq!(receive(&mut *inbox, 1).await, [typing("x")], "what was sent meanwhile is gone");
}

async fn a_note_is_taken_once_and_in_time(stage: Stage) {
    let relay = stage.relay;
    let keep = async |name: &str, time| relay.deposit(name, "a note", time).await.expect("reachable");
    keep("long", Duration::from_secs(60)).await;
    keep("short", Duration::from_millis(50)).await;
    assert_eq!(relay.collect("other").await.expect("reachable"), None);
    let takers = (0..8).map(|_| relay.collect("long"));
    let taken = futures_util::future::join_all(takers).await;
    let taken: Vec<String> = taken.into_iter().filter_map(|taken| taken.expect("reachable")).collect();
    assert_eq!(taken, ["a note"], "of many exactly one gets it");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(relay.collect("short").await.expect("reachable"), None, "its time is over");
}

macro_rules! on_every_relay {
    ($($case:ident),* $(,)?) => {
        mod on_redis { $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await })* }
        mod in_process { $(#[tokio::test] async fn $case() { super::$case(super::Stage::local().await).await })* }
    };
}

on_every_relay!(
    who_joined_is_found_until_it_leaves,
    parcels_arrive_whole_and_in_order,
    who_closed_gets_nothing_and_leaves_nothing,
    a_note_is_taken_once_and_in_time,
);

/// Room is only made behind fan-out, so deliveries go on when there is none.
#[tokio::test]
async fn parcels_arrive_also_at_the_memory_limit() {
    let stage = Stage::redis().await;
    let (relay, a, b) = (stage.relay, InstanceId::random(), InstanceId::random());
    let mut inbox = relay.open(&a).await.expect("reachable");
    stage.server.as_ref().expect("on Redis").set("maxmemory", "1mb").await;
    let sent = [records(3), typing("general"), records(2)];
    let parcels = sent.iter().map(|parcel| (a.clone(), parcel.clone())).collect();
    relay.send(parcels).await.expect("a full Redis takes it");
    assert_eq!(receive(&mut *inbox, 3).await, sent);
    assert!(relay.beat(&a).await.expect("a full Redis takes it"));
    relay.open(&b).await.expect("another gateway can start");
    relay.join(&b, &[topic("x")]).await.expect("and listen");
    relay.sweep().await.expect("reachable");
    relay.close(&a).await.expect("reachable");
}

/// A gateway that was killed stops beating; whoever sweeps withdraws it after six seconds of watching.
#[tokio::test]
async fn a_gateway_that_no_longer_beats_is_forgotten() {
    let stage = Stage::redis().await;
    let (relay, dead, living) = (stage.relay, InstanceId::random(), InstanceId::random());
    let _inboxes = (relay.open(&dead).await, relay.open(&living).await);
    for instance in [&dead, &living] {
        relay.join(instance, &[topic("x")]).await.expect("reachable");
    }
    eventually("the dead one is withdrawn, the living one stays", async || {
        relay.beat(&living).await.expect("reachable");
        relay.sweep().await.expect("reachable");
        relay.listeners(&[topic("x")]).await.expect("reachable") == [vec![living.clone()]]
    })
    .await;
    let server = stage.server.expect("on Redis");
    let client = redis::Client::open(server.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis runs");
    let left: Vec<String> =
        redis::cmd("KEYS").arg(format!("*{dead}*")).query_async(&mut connection).await.expect("keys");
    assert_eq!(left, Vec::<String>::new());
}

/// A full inbox is given up, so that memory stays bounded; its gateway is told and catches up from the log.
#[tokio::test]
async fn an_inbox_nobody_empties_is_given_up() {
    let (relay, slow) = (LocalRelay::new(), InstanceId::random());
    let mut inbox = relay.open(&slow).await.expect("in process");
    for _ in 0..10_000 {
        relay.send(vec![(slow.clone(), typing("x"))]).await.expect("in process");
    }
    assert!(!relay.beat(&slow).await.expect("in process"));
    let ended = loop {
        match inbox.receive(SOON).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, LogError::Closing));
}
