//! Pipelined XADD, in the raw protocol: nothing but Redis is measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use redis::{Client, ConnectionInfo};
use tokio::{task::JoinSet, time::sleep};

use super::{super::wire::Wire, PAYLOAD};

/// As many as there are publishers by default.
const CONNECTIONS: usize = 16;
/// Keeps the scratch stream from filling the memory of whoever is measured.
const KEPT: u64 = 100_000;
/// Load before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Appends a second with `depth` unanswered commands on each of 16 connections, to a stream that is deleted afterwards.
pub(crate) async fn redis(url: &str, depth: usize, seconds: u64) -> Result<f64> {
    let client = Client::open(url)?;
    let key = format!("everpost-bench-{}", uuid::Uuid::new_v4().simple());
    let rate = measure(client.get_connection_info(), &key, depth, seconds).await;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd("DEL").arg(&key).exec_async(&mut connection).await.context("deleting the scratch stream")?;
    rate
}

async fn measure(server: &ConnectionInfo, key: &str, depth: usize, seconds: u64) -> Result<f64> {
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let wire = connect(server).await?;
        tasks.spawn(append(wire, command(key), depth, Arc::clone(&done)));
    }
    sleep(WARM_UP).await;
    let (started, before) = (Instant::now(), done.load(Relaxed));
    tokio::select! {
        () = sleep(Duration::from_secs(seconds)) => {}
        Some(ended) = tasks.join_next() => ended??,
    }
    let rate = (done.load(Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
    tasks.shutdown().await;
    Ok(rate)
}

fn command(key: &str) -> Vec<u8> {
    let mut command = redis::cmd("XADD");
    command.arg(key).arg("MAXLEN").arg("~").arg(KEPT).arg("*").arg("d").arg(&PAYLOAD[..]);
    command.get_packed_command()
}

async fn connect(server: &ConnectionInfo) -> Result<Wire> {
    let mut wire = Wire::connect(&server.addr().to_string()).await?;
    let settings = server.redis_settings();
    if let Some(password) = settings.password() {
        let user = settings.username().unwrap_or("default");
        call(&mut wire, redis::cmd("AUTH").arg(user).arg(password)).await?;
    }
    call(&mut wire, redis::cmd("SELECT").arg(settings.db())).await?;
    Ok(wire)
}

async fn call(wire: &mut Wire, command: &redis::Cmd) -> Result<()> {
    wire.output().extend(command.get_packed_command());
    while !wire.input().ends_with(b"\r\n") {
        wire.turn().await?;
    }
    if !wire.input().starts_with(b"+") {
        bail!("{}", String::from_utf8_lossy(wire.input()).trim_end());
    }
    let length = wire.input().len();
    wire.consume(length);
    Ok(())
}

/// Keeps `depth` commands unanswered; every answer is a bulk string, so dollar signs count them.
async fn append(mut wire: Wire, command: Vec<u8>, depth: usize, done: Arc<AtomicU64>) -> Result<()> {
    let mut free = depth;
    loop {
        for _ in 0..free {
            wire.output().extend_from_slice(&command);
        }
        wire.turn().await?;
        free = memchr::memchr_iter(b'$', wire.input()).count();
        if wire.input().starts_with(b"-") {
            bail!("{}", String::from_utf8_lossy(wire.input()).trim_end());
        }
        let length = wire.input().len();
        wire.consume(length);
        done.fetch_add(free as u64, Relaxed);
    }
}
