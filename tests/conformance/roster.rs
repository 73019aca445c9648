//! The contract of the roster: one suite, run against Redis and against one process.

use std::{sync::Arc, time::Duration};

use everpost_core::{
    clock::now_ms,
    log::Durability,
    name::{DeviceId, DeviceType, InstanceId, UserId},
    roster::{
        Arrival, Departure, Entry, Leave, Quotas, Refusal, Removed, Roster, local::LocalRoster, redis::RedisRoster,
    },
};
use uuid::Uuid;

use super::log::stage::connect;
use crate::harness::{eventually::eventually, redis::RedisServer};

const QUOTAS: Quotas = Quotas { per_user: 2, per_address: 3 };
const AN_HOUR: Leave = Leave { ago: Duration::ZERO, grace: Duration::from_secs(3_600) };

struct Stage {
    roster: Arc<dyn Roster>,
    server: Option<RedisServer>,
}

impl Stage {
    async fn redis() -> Self {
        let server = RedisServer::start().await;
        let log = connect(&server, Durability::Fsync).await.expect("Redis runs");
        Self { roster: Arc::new(RedisRoster::beside(&log)), server: Some(server) }
    }

    async fn local() -> Self {
        Self { roster: Arc::new(LocalRoster::new()), server: None }
    }

    async fn enter(&self, entry: &Entry) -> Result<Arrival, Refusal> {
        self.roster.enter(entry, QUOTAS).await.expect("reachable")
    }

    async fn leave(&self, entry: &Entry, leave: Leave) -> Vec<Removed> {
        self.roster.leave(std::slice::from_ref(entry), leave).await.expect("reachable")
    }

    async fn of(&self, name: &str) -> Vec<Entry> {
        self.roster.of_users(&[user(name)]).await.expect("reachable").pop().expect("one answer")
    }

    async fn due(&self) -> Vec<Departure> {
        self.roster.due().await.expect("reachable")
    }

    async fn settle(&self, departures: &[Departure]) -> Vec<UserId> {
        self.roster.settle(departures).await.expect("reachable")
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn entry(name: &str, instance: &InstanceId, address: &str) -> Entry {
    Entry {
        connection_id: Uuid::now_v7(),
        user_id: user(name),
        instance_id: instance.clone(),
        conversation_id: None,
        device_id: Some(DeviceId::new("phone").expect("a name")),
        device_type: Some(DeviceType::new("ios").expect("a name")),
        connected_ms: now_ms(),
        address: address.parse().expect("an address"),
        user_agent: Some("a \"browser\"".into()),
    }
}

const ONLINE: Arrival = Arrival { others: 0, returned: false };

async fn a_user_has_so_many_connections_wherever_they_are(stage: Stage) {
    let (a, b) = (InstanceId::random(), InstanceId::random());
    let first = entry("alice", &a, "192.0.2.1");
    assert_eq!(stage.enter(&first).await, Ok(ONLINE));
    assert_eq!(stage.enter(&entry("alice", &b, "192.0.2.2")).await, Ok(Arrival { others: 1, returned: false }));
    let third = entry("alice", &b, "192.0.2.3");
    assert_eq!(stage.enter(&third).await, Err(Refusal::User));
    assert_eq!(stage.enter(&first).await, Ok(Arrival { others: 1, returned: false }), "again is harmless");
    assert_eq!(stage.enter(&entry("bob", &b, "192.0.2.3")).await, Ok(ONLINE));
    assert_eq!(stage.leave(&first, AN_HOUR).await.len(), 1);
    assert_eq!(stage.leave(&first, AN_HOUR).await.len(), 0, "again is harmless");
    assert_eq!(stage.enter(&third).await, Ok(Arrival { others: 1, returned: false }));
    assert_eq!(stage.of("alice").await.len(), 2);
}

async fn an_address_has_so_many_connections_whosever_they_are(stage: Stage) {
    let (a, b) = (InstanceId::random(), InstanceId::random());
    for (name, instance) in [("alice", &a), ("bob", &b), ("carol", &a)] {
        assert_eq!(stage.enter(&entry(name, instance, "2001:db8::1")).await, Ok(ONLINE));
    }
    assert_eq!(stage.enter(&entry("dave", &b, "2001:db8::2")).await, Err(Refusal::Address), "it is the same /64");
    assert_eq!(stage.of("dave").await, [], "who was refused is not in it");
    assert_eq!(stage.enter(&entry("dave", &b, "2001:db8:0:1::1")).await, Ok(ONLINE));
    let bobs = stage.of("bob").await;
    assert_eq!(stage.leave(&bobs[0], AN_HOUR).await.len(), 1);
    assert_eq!(stage.enter(&entry("erin", &b, "2001:db8::3")).await, Ok(ONLINE));
}

/// A refusal for one reason must not count against the other.
async fn who_is_refused_takes_no_place(stage: Stage) {
    let a = InstanceId::random();
    for _ in 0..2 {
        stage.enter(&entry("alice", &a, "192.0.2.1")).await.expect("there is room");
    }
    for _ in 0..5 {
        assert_eq!(stage.enter(&entry("alice", &a, "192.0.2.1")).await, Err(Refusal::User));
    }
    assert_eq!(stage.enter(&entry("bob", &a, "192.0.2.1")).await, Ok(ONLINE));
    assert_eq!(stage.enter(&entry("bob", &a, "192.0.2.1")).await, Err(Refusal::Address));
    assert_eq!(stage.roster.count(&a).await.expect("reachable"), 0, "a gateway says first that it is there");
    stage.roster.restore(&a, &[]).await.expect("reachable");
    assert_eq!(stage.roster.count(&a).await.expect("reachable"), 3);
}

async fn what_is_known_of_a_connection_is_told(stage: Stage) {
    let (a, b) = (InstanceId::random(), InstanceId::random());
    let mut entries = vec![entry("alice", &a, "192.0.2.1"), entry("alice", &b, "2001:db8::1")];
    entries[1].device_id = None;
    for entry in entries.iter().rev() {
        stage.enter(entry).await.expect("there is room");
    }
    assert_eq!(stage.of("alice").await, entries, "in the order they were opened");
    assert_eq!(stage.of("nobody").await, []);
    let both = stage.roster.of_users(&[user("nobody"), user("alice")]).await.expect("reachable");
    assert_eq!(both, [vec![], entries]);
}

async fn who_comes_back_in_time_was_never_gone(stage: Stage) {
    let a = InstanceId::random();
    let (first, second) = (entry("alice", &a, "192.0.2.1"), entry("alice", &a, "192.0.2.1"));
    stage.enter(&first).await.expect("there is room");
    let removed = stage.leave(&first, AN_HOUR).await;
    assert_eq!((removed[0].entry.clone(), removed[0].others), (first, 0));
    assert_eq!(stage.due().await, []);
    assert_eq!(stage.enter(&second).await, Ok(Arrival { others: 0, returned: true }));
    assert_eq!(stage.leave(&second, Leave::NOW).await.len(), 1);
    assert_eq!(stage.due().await.len(), 1);
}

async fn a_departure_is_handed_out_once_its_grace_is_over(stage: Stage) {
    let a = InstanceId::random();
    for (name, grace) in [("alice", 50), ("bob", 3_600_000)] {
        let entry = entry(name, &a, "192.0.2.1");
        stage.enter(&entry).await.expect("there is room");
        stage.leave(&entry, Leave { ago: Duration::ZERO, grace: Duration::from_millis(grace) }).await;
    }
    let due = eventually("alice's grace is over", async || Some(stage.due().await).filter(|due| !due.is_empty())).await;
    assert_eq!((due.len(), &due[0].user_id), (1, &user("alice")));
    assert!(now_ms().abs_diff(due[0].left_ms) < 60_000, "{due:?}");
    assert_eq!(stage.due().await, [], "whoever has it has some time to tell");
    assert_eq!(stage.settle(&due).await, []);
    assert_eq!(stage.enter(&entry("alice", &a, "192.0.2.1")).await, Ok(ONLINE), "everybody was told");
}

async fn who_comes_back_while_being_given_up_is_told_of(stage: Stage) {
    let a = InstanceId::random();
    let (first, second) = (entry("alice", &a, "192.0.2.1"), entry("alice", &a, "192.0.2.1"));
    stage.enter(&first).await.expect("there is room");
    stage.leave(&first, Leave::NOW).await;
    let due = stage.due().await;
    stage.enter(&second).await.expect("there is room");
    assert_eq!(stage.settle(&due).await, [user("alice")]);
    tokio::time::sleep(Duration::from_millis(5)).await; // so that the departures differ
    stage.leave(&second, Leave::NOW).await;
    assert_eq!(stage.settle(&due).await, []);
    assert_eq!(stage.due().await.len(), 1, "the later departure is still to be told");
}

async fn a_gateway_that_is_gone_leaves_nothing_behind(stage: Stage) {
    let (dead, living) = (InstanceId::random(), InstanceId::random());
    for instance in [&dead, &living] {
        stage.roster.restore(instance, &[]).await.expect("reachable");
    }
    for (name, instance) in [("alice", &dead), ("bob", &dead), ("alice", &living)] {
        stage.enter(&entry(name, instance, "192.0.2.1")).await.expect("there is room");
    }
    assert_eq!(stage.roster.count(&dead).await.expect("reachable"), 2);
    let mut removed = stage.roster.forget(&dead, Leave::NOW).await.expect("reachable");
    removed.sort_by(|a, b| a.entry.user_id.cmp(&b.entry.user_id));
    let told: Vec<_> = removed.iter().map(|removed| (removed.entry.user_id.as_str(), removed.others)).collect();
    assert_eq!(told, [("alice", 1), ("bob", 0)]);
    assert_eq!(stage.roster.instances().await.expect("reachable"), std::slice::from_ref(&living));
    assert_eq!(stage.roster.count(&dead).await.expect("reachable"), 0);
    assert_eq!((stage.of("alice").await.len(), stage.of("bob").await.len()), (1, 0));
    assert_eq!(stage.due().await.len(), 1);
    for name in ["carol", "dave"] {
        assert_eq!(stage.enter(&entry(name, &living, "192.0.2.1")).await, Ok(ONLINE), "its addresses are free");
    }
    assert!(stage.roster.forget(&dead, Leave::NOW).await.expect("again is harmless").is_empty());
}

/// A gateway that was taken for dead learns whom others were told to be offline; one that starts learns nothing.
async fn who_was_taken_for_dead_is_told_so(stage: Stage) {
    let (a, b) = (InstanceId::random(), InstanceId::random());
    let here = [entry("alice", &a, "192.0.2.1"), entry("bob", &a, "192.0.2.1")];
    assert_eq!(stage.roster.restore(&a, &here).await.expect("reachable"), [], "nobody was told anything");
    assert_eq!(stage.roster.restore(&a, &here).await.expect("reachable"), [], "again is harmless");
    stage.enter(&entry("bob", &b, "192.0.2.1")).await.expect("there is room");
    stage.roster.forget(&a, Leave::NOW).await.expect("reachable");
    let due = stage.due().await;
    assert_eq!(due.len(), 1, "bob is still somewhere else");
    stage.settle(&due).await;
    assert_eq!(stage.roster.restore(&a, &here).await.expect("reachable"), [user("alice")]);
    assert_eq!(stage.roster.count(&a).await.expect("reachable"), 2);
    assert_eq!(stage.roster.instances().await.expect("reachable"), [a]);
}

async fn users_without_connections_can_be_made_departing_again(stage: Stage) {
    let a = InstanceId::random();
    stage.enter(&entry("alice", &a, "192.0.2.1")).await.expect("there is room");
    let (ago, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let left = ["alice", "bob", "carol"].map(|name| (user(name), ago));
    stage.roster.depart(&left[..2], Duration::ZERO).await.expect("reachable");
    stage.roster.depart(&left, hour).await.expect("again is harmless");
    let due = stage.due().await;
    let told = now_ms().abs_diff(due[0].left_ms);
    assert!((55_000..115_000).contains(&told), "{due:?}");
    let due: Vec<UserId> = due.into_iter().map(|departure| departure.user_id).collect();
    assert_eq!(due, [user("bob")]);
}

async fn connections_are_told_by_pages(stage: Stage) {
    let (a, b) = (InstanceId::random(), InstanceId::random());
    let mut entries: Vec<Entry> = (0..7).map(|n| entry(&format!("user-{n}"), &a, &format!("192.0.2.{n}"))).collect();
    entries.sort_by_key(|entry| entry.connection_id);
    for entry in &entries {
        stage.enter(entry).await.expect("there is room");
    }
    stage.enter(&entry("other", &b, "192.0.2.9")).await.expect("there is room");
    let (mut told, mut after) = (Vec::new(), None);
    loop {
        let page = stage.roster.page(&a, after, 3).await.expect("reachable");
        let Some(last) = page.last() else { break };
        after = Some(last.connection_id);
        told.extend(page);
    }
    assert_eq!(told, entries);
}

macro_rules! on_every_roster {
    ($($case:ident),* $(,)?) => {
        mod on_redis { $(#[tokio::test] async fn $case() { super::$case(super::Stage::redis().await).await })* }
        mod in_process { $(#[tokio::test] async fn $case() { super::$case(super::Stage::local().await).await })* }
    };
}

on_every_roster!(
    a_user_has_so_many_connections_wherever_they_are,
    an_address_has_so_many_connections_whosever_they_are,
    who_is_refused_takes_no_place,
    what_is_known_of_a_connection_is_told,
    who_comes_back_in_time_was_never_gone,
    a_departure_is_handed_out_once_its_grace_is_over,
    who_comes_back_while_being_given_up_is_told_of,
    a_gateway_that_is_gone_leaves_nothing_behind,
    who_was_taken_for_dead_is_told_so,
    users_without_connections_can_be_made_departing_again,
    connections_are_told_by_pages,
);

/// Two gateways that ask for the last place at the same time do not both get it.
#[tokio::test]
async fn a_place_is_given_away_once() {
    let stage = Stage::redis().await;
    let (a, b) = (InstanceId::random(), InstanceId::random());
    let entries = (0..20).map(|n| entry("alice", if n % 2 == 0 { &a } else { &b }, &format!("192.0.2.{n}")));
    let entries: Vec<Entry> = entries.collect();
    let outcomes = futures_util::future::join_all(entries.iter().map(|entry| stage.enter(entry))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), QUOTAS.per_user);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Ok(ONLINE)).count(), 1, "one of them was the first");
}

/// Nothing grows with people who were here once.
#[tokio::test]
async fn in_redis_nothing_is_left_of_those_who_left() {
    let stage = Stage::redis().await;
    let a = InstanceId::random();
    for n in 0..50 {
        let entry = entry(&format!("user-{n}"), &a, &format!("192.0.2.{n}"));
        stage.enter(&entry).await.expect("there is room");
        stage.leave(&entry, Leave::NOW).await;
    }
    let due = stage.due().await;
    assert_eq!(due.len(), 50);
    stage.settle(&due).await;
    let server = stage.server.as_ref().expect("on Redis");
    let left: Vec<String> = server.run(&["KEYS", "*roster*"]).await;
    assert_eq!(left, Vec::<String>::new());
}

/// Connections come and go also when there is no room for events.
#[tokio::test]
async fn the_roster_is_kept_at_the_memory_limit() {
    let stage = Stage::redis().await;
    let a = InstanceId::random();
    stage.server.as_ref().expect("on Redis").set("maxmemory", "1mb").await;
    let entry = entry("alice", &a, "192.0.2.1");
    stage.roster.restore(&a, &[]).await.expect("a full Redis takes it");
    assert_eq!(stage.enter(&entry).await, Ok(ONLINE));
    assert_eq!(stage.leave(&entry, Leave::NOW).await.len(), 1);
    let due = stage.due().await;
    assert_eq!(stage.settle(&due).await, []);
    stage.roster.depart(&[(user("bob"), Duration::ZERO)], AN_HOUR.grace).await.expect("a full Redis takes it");
    stage.roster.forget(&a, Leave::NOW).await.expect("a full Redis takes it");
}

/// All the keys of a script are in one slot of a cluster.
#[tokio::test]
async fn a_script_touches_one_partition() {
    let stage = Stage::redis().await;
    let a = InstanceId::random();
    stage.enter(&entry("alice", &a, "192.0.2.1")).await.expect("there is room");
    let server = stage.server.as_ref().expect("on Redis");
    let keys: Vec<String> = server.run(&["KEYS", "*roster*"]).await;
    let tagged = |what: &str| {
        let key = keys.iter().find(|key| key.contains(what)).unwrap_or_else(|| panic!("{what} is among {keys:?}"));
        key[..=key.find('}').expect("a hash tag")].to_owned()
    };
    assert_eq!(tagged(":user:alice"), tagged(&format!(":users:{a}")));
    assert_eq!(tagged(":address:192.0.2.1"), tagged(&format!(":addresses:{a}")));
}
