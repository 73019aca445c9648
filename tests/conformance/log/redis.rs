//! What only the log on Redis has to keep: settings it refuses, scripts it reloads, slots its keys share.

use std::{collections::HashMap, time::Duration};

use everpost_core::{
    lease::Leases,
    log::{
        Durability, Log, LogError,
        redis::{RedisLog, RedisLogConfig},
    },
    partition::Partition,
    role::Role,
    store::Installation,
};

use super::{
    drafts::{append, begin, draft, drafts, finish, hydrate, keyed, placed, prior, read, seq, take},
    stage::{Stage, connect},
};
use crate::harness::{eventually::eventually, redis::RedisServer};

async fn refusal(server: &RedisServer) -> String {
    match connect(server, Durability::Fsync).await.err().expect("refused") {
        LogError::Unsuitable(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn settings_that_would_make_a_promise_false_are_refused_with_a_remedy() {
    let server = RedisServer::start().await;
    for (setting, value, remedy) in [
        ("appendfsync", "everysec", "set appendfsync always"),
        ("appendonly", "no", "set appendonly yes"),
        ("maxmemory-policy", "allkeys-lru", "set it to noeviction"),
        ("no-appendfsync-on-rewrite", "yes", "set it to no"),
    ] {
        let before: Vec<String> = server.run(&["CONFIG", "GET", setting]).await;
        server.run::<()>(&["CONFIG", "SET", setting, value]).await;
        assert!(refusal(&server).await.contains(remedy), "{setting}");
        server.run::<()>(&["CONFIG", "SET", setting, &before[1]]).await;
    }
    assert!(connect(&server, Durability::Fsync).await.is_ok(), "all is as it was");
}

#[tokio::test]
async fn who_asks_for_less_is_given_less() {
    let server = RedisServer::start().await;
    server.run::<()>(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    assert!(connect(&server, Durability::Memory).await.is_ok());
}

/// A full log can be emptied: whatever drains it works, and only what fills it is refused.
#[tokio::test]
async fn at_the_memory_limit_only_appends_are_refused() {
    let stage = Stage::redis().await;
    begin(&*stage, &["general"]).await;
    for _ in 0..3 {
        append(&*stage, &drafts("general", 100)).await;
    }
    let (partition, server) = (stage.partitions().of("general"), stage.server());
    let stale = take(&*stage, Role::Persist, partition, "dead").await;
    server.set("maxmemory", "1mb").await;
    assert!(stage.vitals().await.expect("readable").memory.and_then(|memory| memory.share()) > Some(1.0));
    let refused = stage.append(partition, &[draft("general")]).await;
    assert!(matches!(&refused, Err(error @ LogError::Full) if error.is_retryable()), "{refused:?}");
    hydrate(&*stage, "general", 300).await;
    assert!(stage.announce(Role::Persist, "alive").await.expect("it works").iter().any(|(name, _)| name == "alive"));
    let taken = take(&*stage, Role::Persist, partition, "alive").await;
    assert!(taken.token > stale.token);
    assert_eq!(stage.beat(&[taken]).await.expect("it works"), [true]);
    for role in Role::ALL {
        finish(&*stage, role, partition).await;
    }
    let lease = take(&*stage, Role::Persist, partition, "alive").await;
    assert!(stage.trim(&lease, 0).await.expect("it works") > 0);
    stage.release(&lease).await.expect("it works");
    stage.retire(Role::Persist, "alive").await.expect("it works");
    server.set("maxmemory", "0").await;
    assert_eq!(seq(&append(&*stage, &[draft("general")]).await[0]), 301, "nothing was lost and no number skipped");
}

/// Whoever starts while Redis is full may be the one that makes room.
#[tokio::test]
async fn a_process_starts_also_at_the_memory_limit() {
    let stage = Stage::redis().await;
    begin(&*stage, &["general"]).await;
    append(&*stage, &drafts("general", 10)).await;
    let (server, partition) = (stage.server(), stage.partitions().of("general"));
    server.set("maxmemory", "1mb").await;
    let partitions = stage.partitions();
    let known = Installation { epoch: stage.epoch(), partitions: partitions.count() as u16 };
    let config = RedisLogConfig {
        url: server.url().into(),
        prefix: "everpost".into(),
        partitions,
        durability: Durability::Fsync,
    };
    let started = RedisLog::open(&config, Some(known)).await.expect("it starts");
    let role = Role::Persist;
    let seen = started.view(role).await.expect("readable")[partition.index()].clone();
    let lease = started.acquire(role, partition, "new", &seen).await.expect("it works").expect("nobody was faster");
    let mut follower = started.follow(role).await.expect("it works");
    assert_eq!(read(&mut *follower, lease, 10).await.len(), 10);
}

#[tokio::test]
async fn settings_changed_at_run_time_are_found() {
    let stage = Stage::redis().await;
    assert_eq!(stage.faults().await.expect("readable"), Vec::<String>::new());
    for (setting, value, before) in [
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendonly", "no", "yes"),
    ] {
        stage.server().set(setting, value).await;
        let faults = stage.faults().await.expect("readable");
        assert!(faults.len() == 1 && faults[0].contains(setting), "{faults:?}");
        stage.server().set(setting, before).await;
        assert!(stage.faults().await.expect("readable").is_empty());
    }
}

#[tokio::test]
async fn memory_is_measured_against_its_limit() {
    let stage = Stage::redis().await;
    let memory = stage.vitals().await.expect("readable").memory.expect("it is measured");
    assert_eq!((memory.limit, memory.share()), (None, None));
    stage.server().set("maxmemory", "100mb").await;
    let memory = stage.vitals().await.expect("readable").memory.expect("it is measured");
    assert_eq!(memory.limit, Some(100 << 20));
    assert!(memory.used > 100_000 && memory.share().is_some_and(|share| share < 0.5), "{memory:?}");
}

#[tokio::test]
async fn a_lost_script_is_loaded_again() {
    let server = RedisServer::start().await;
    let log = connect(&server, Durability::Fsync).await.expect("Redis runs");
    begin(&log, &["general"]).await;
    for expected in [1, 2] {
        assert_eq!(seq(&append(&log, &[draft("general")]).await[0]), expected);
        server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    }
}

/// Identities are forgotten a window at a time, and the window before the present one still counts.
#[tokio::test]
async fn a_repeat_is_known_although_its_window_is_over() {
    let log = Stage::redis().await;
    begin(&*log, &["general"]).await;
    let first = keyed("general", "alice", "k");
    let answers = append(&*log, std::slice::from_ref(&first)).await;
    let partition = log.partitions().of("general");
    finish(&*log, Role::Fanout, partition).await;
    let lease = finish(&*log, Role::Persist, partition).await;
    let key = |name: &str| format!("everpost:{{{}}}:{name}", partition.0);
    log.server().run::<()>(&["HSET", &key("meta"), "new_since", "1"]).await;
    log.trim(&lease, 0).await.expect("ours");
    assert_eq!(log.server().run::<u64>(&["HLEN", &key("identities:old")]).await, 1, "a new window has begun");
    assert_eq!(append(&*log, &[keyed("general", "alice", "k")]).await, [prior(&first, &answers[0])]);
}

#[tokio::test]
async fn all_keys_of_a_partition_share_a_slot() {
    let stage = Stage::redis().await;
    begin(&*stage, &["general"]).await;
    append(&*stage, &[draft("general")]).await;
    for role in Role::ALL {
        finish(&*stage, role, stage.partitions().of("general")).await;
    }
    let server = stage.server();
    let keys: Vec<String> = server.run(&["KEYS", "everpost:{*"]).await;
    let mut slots: HashMap<&str, Vec<u16>> = HashMap::new();
    for key in &keys {
        let tag = key.split(['{', '}']).nth(1).expect("a tag");
        slots.entry(tag).or_default().push(slot(tag));
    }
    assert!(keys.iter().filter(|key| key.contains("lease")).count() >= 2, "{keys:?}");
    assert!(slots.values().all(|slots| slots.windows(2).all(|pair| pair[0] == pair[1])));
    let distinct: std::collections::HashSet<u16> = slots.values().map(|slots| slots[0]).collect();
    assert_eq!(distinct.len(), stage.partitions().count(), "partitions spread over slots");
}

/// A key's slot is the CRC16 (XMODEM) of its tag, as the cluster specification has it.
fn slot(tag: &str) -> u16 {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    });
    crc % 16_384
}

/// Whatever else removes entries would remove what some role has not seen.
#[test]
fn only_the_safe_trim_removes() {
    let scripts = [
        include_str!("../../../core/src/log/redis/append.lua"),
        include_str!("../../../core/src/log/redis/hydrate.lua"),
        include_str!("../../../core/src/log/redis/ack.lua"),
        include_str!("../../../core/src/log/redis/acquire.lua"),
        include_str!("../../../core/src/log/redis/beat.lua"),
        include_str!("../../../core/src/log/redis/insist.lua"),
        include_str!("../../../core/src/log/redis/mod.rs"),
        include_str!("../../../core/src/log/redis/follower.rs"),
    ];
    for word in ["XTRIM", "XDEL", "MAXLEN", "DELCONSUMER", "XAUTOCLAIM", "XSETID"] {
        assert!(scripts.iter().all(|script| !script.contains(word)), "{word}");
    }
}

/// A request that was under way when its sender lost the lease arrives when the new owner reads already.
async fn take_away(server: &RedisServer, partition: Partition) {
    let log = format!("everpost:{{{}}}:log", partition.0);
    let request = ["XREADGROUP", "GROUP", "persist", "owner", "COUNT", "1", "STREAMS", &log, ">"];
    let taken: redis::Value = server.run(&request).await;
    assert_ne!(taken, redis::Value::Nil, "there was something to take");
}

#[tokio::test]
async fn what_a_late_request_took_away_is_read_in_order() {
    let log = Stage::redis().await;
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let lease = take(&*log, Role::Persist, partition, "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let mut records = placed(&*log, &drafts("general", 2)).await;
    assert_eq!(read(&mut *follower, lease, 2).await, records);
    follower.ack(&[(lease, records[1].position)]).await.expect("ours");
    records.extend(placed(&*log, &drafts("general", 3)).await);
    take_away(log.server(), partition).await;
    records.extend(placed(&*log, &drafts("general", 4)).await);
    assert_eq!(read(&mut *follower, lease, 7).await, records[2..]);
}

#[tokio::test]
async fn what_a_late_request_took_away_is_read_although_nothing_follows() {
    let log = Stage::redis().await;
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let lease = take(&*log, Role::Persist, partition, "a").await;
    let mut follower = log.follow(Role::Persist).await.expect("the log answers");
    let mut records = placed(&*log, &drafts("general", 2)).await;
    assert_eq!(read(&mut *follower, lease, 2).await, records);
    records.extend(placed(&*log, &drafts("general", 3)).await);
    take_away(log.server(), partition).await;
    let mut found = Vec::new();
    eventually("the rest is read", async || {
        let batches = follower.read(&[lease], 100, Duration::from_millis(20)).await.expect("readable");
        found.extend(batches.into_iter().flat_map(|batch| batch.records));
        found.len() == 3
    })
    .await;
    assert_eq!(found, records[2..]);
}
