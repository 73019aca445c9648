//! What only the log on Redis has to keep: settings it refuses, scripts it reloads, slots its keys share.

use std::collections::HashMap;

use everpost_core::{
    log::{Durability, LogError},
    role::Role,
};

use super::{
    drafts::{append, begin, draft, finish, seq},
    stage::{Stage, connect},
};
use crate::harness::redis::RedisServer;

async fn command<T: redis::FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let client = redis::Client::open(server.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis runs");
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(*word);
    });
    command.query_async(&mut connection).await.expect("Redis obeys")
}

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
        let before: Vec<String> = command(&server, &["CONFIG", "GET", setting]).await;
        command::<()>(&server, &["CONFIG", "SET", setting, value]).await;
        assert!(refusal(&server).await.contains(remedy), "{setting}");
        command::<()>(&server, &["CONFIG", "SET", setting, &before[1]]).await;
    }
    assert!(connect(&server, Durability::Fsync).await.is_ok(), "all is as it was");
}

#[tokio::test]
async fn who_asks_for_less_is_given_less() {
    let server = RedisServer::start().await;
    command::<()>(&server, &["CONFIG", "SET", "appendfsync", "everysec"]).await;
    assert!(connect(&server, Durability::Memory).await.is_ok());
}

#[tokio::test]
async fn a_lost_script_is_loaded_again() {
    let server = RedisServer::start().await;
    let log = connect(&server, Durability::Fsync).await.expect("Redis runs");
    begin(&log, &["general"]).await;
    for expected in [1, 2] {
        assert_eq!(seq(&append(&log, &[draft("general")]).await[0]), expected);
        command::<()>(&server, &["SCRIPT", "FLUSH"]).await;
    }
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
    let keys: Vec<String> = command(server, &["KEYS", "everpost:{*"]).await;
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
        include_str!("../../../core/src/log/redis/mod.rs"),
        include_str!("../../../core/src/log/redis/follower.rs"),
    ];
    for word in ["XTRIM", "XDEL", "MAXLEN", "DELCONSUMER", "XAUTOCLAIM", "XSETID"] {
        assert!(scripts.iter().all(|script| !script.contains(word)), "{word}");
    }
}
