//! Nothing that was acknowledged is lost, whatever process dies and whenever.
//!
//! SIGKILL proves what the code can get wrong: a process ends between any two instructions, with requests under way,
//! and what it had only in memory is gone. It cannot prove what the machine can get wrong: the kernel lives on and
//! still writes what was handed to it, so a missing fsync goes unnoticed here. That Redis and the databases wait for
//! the disk before they answer is checked as a setting, by `everpost doctor` and at start-up.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::harness::{
    postgres::PostgresServer,
    process::{API_KEY, Cluster, Everpost, TOKEN_SECRET, serve, store_of},
    witness::{Witness, checker::Transcript, publisher::PAYLOAD},
};

/// Enough to know that publishing goes on.
const A_FEW: usize = 30;
/// In microseconds: longer than any step of the engine takes.
const ANY_INSTANT: u32 = 50_000;
/// Enough messages for all lanes, windows and listeners to be busy.
const SOME: usize = 150;

#[tokio::test]
async fn a_worker_is_killed() {
    let mut cluster = Cluster::start(PostgresServer::shared().await).await;
    let witness = begin(&cluster).await;
    cluster.workers[0].kill();
    witness.more(SOME).await;
    cluster.workers[0].restart().await;
    witness.more(SOME).await;
    end(witness, &cluster).await;
}

#[tokio::test]
async fn a_gateway_is_killed() {
    let mut cluster = Cluster::start(PostgresServer::shared().await).await;
    let witness = begin(&cluster).await;
    for gateway in [0, 1] {
        cluster.gateways[gateway].kill();
        witness.more(SOME).await;
        cluster.gateways[gateway].restart().await;
        cluster.gateways[gateway].ready().await;
        witness.more(SOME).await;
    }
    end(witness, &cluster).await;
}

#[tokio::test]
async fn redis_is_killed() {
    let mut cluster = Cluster::start(PostgresServer::shared().await).await;
    let witness = begin(&cluster).await;
    for _ in 0..2 {
        cluster.redis.kill();
        cluster.redis.restart().await;
        witness.more(SOME).await;
    }
    end(witness, &cluster).await;
}

#[tokio::test]
async fn postgres_is_killed() {
    let mut postgres = PostgresServer::start().await;
    let cluster = Cluster::start(&postgres).await;
    let witness = begin(&cluster).await;
    for _ in 0..2 {
        postgres.kill();
        postgres.restart().await;
        witness.more(SOME).await;
    }
    end(witness, &cluster).await;
}

/// I9: what it still had in hand when it was stopped must not be written over what the new owner has done.
#[tokio::test]
async fn a_worker_stands_still_and_goes_on() {
    let cluster = Cluster::start(PostgresServer::shared().await).await;
    let witness = begin(&cluster).await;
    cluster.workers[0].says("the share of partitions has changed").await; // it has something to lose
    cluster.workers[0].signal("STOP");
    cluster.workers[1].says("took over from a worker that is gone").await;
    witness.more(SOME).await;
    cluster.workers[0].signal("CONT");
    cluster.workers[0].says("partitions were taken over").await;
    witness.more(SOME).await;
    end(witness, &cluster).await;
}

#[tokio::test]
async fn a_worker_that_is_asked_to_stop_hands_over() {
    let mut cluster = Cluster::start(PostgresServer::shared().await).await;
    let witness = begin(&cluster).await;
    cluster.workers[0].signal("TERM");
    assert_eq!(cluster.workers[0].exit_code().await, Some(0));
    witness.more(SOME).await;
    end(witness, &cluster).await;
    let waited = cluster.workers[1].log().contains("took over from a worker that is gone");
    assert!(!waited, "partitions that were handed over need no takeover");
}

#[tokio::test]
async fn the_one_process_is_killed_again_and_again() {
    kill_again_and_again(8).await;
}

/// Kills the embedded engine so many times under one load, at instants that have nothing to do with what it does.
pub(crate) async fn kill_again_and_again(rounds: u32) {
    let mut process = serve().await;
    let witness = Witness::start(&[process.address()]).await;
    for _ in 0..rounds {
        witness.more(A_FEW).await;
        let instant = uuid::Uuid::new_v4().as_u128() % u128::from(ANY_INSTANT);
        tokio::time::sleep(Duration::from_micros(instant as u64)).await;
        process.kill();
        process.restart().await;
    }
    witness.more(SOME).await;
    let transcript = witness.verdict(&store_of(&process)).await;
    assert!(!process.log().contains("goes on in a new generation"), "nothing was lost");
    tells_nothing(&transcript, &[&process]);
}

#[tokio::test]
async fn the_one_process_drains_when_asked_to_stop() {
    let mut process = serve().await;
    let witness = Witness::start(&[process.address()]).await;
    witness.more(SOME).await;
    process.signal("TERM");
    assert_eq!(process.exit_code().await, Some(0));
    process.restart().await;
    witness.more(SOME).await;
    witness.verdict(&store_of(&process)).await;
}

/// A request whose body never ends holds the drain, so that there is something to cut short.
#[tokio::test]
async fn the_second_request_to_stop_is_obeyed_at_once() {
    let mut process = serve().await;
    let mut open = TcpStream::connect(process.address()).await.expect("it listens");
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: everpost\r\nAuthorization: Bearer {API_KEY}\r\n");
    let request = format!("{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{");
    open.write_all(request.as_bytes()).await.expect("it reads");
    process.signal("TERM");
    process.says("draining").await;
    process.signal("TERM");
    assert_eq!(process.exit_code().await, Some(1));
}

async fn begin(cluster: &Cluster) -> Witness {
    let witness = Witness::start(&[cluster.gateways[0].address(), cluster.gateways[1].address()]).await;
    witness.more(SOME).await;
    witness
}

async fn end(witness: Witness, cluster: &Cluster) {
    let transcript = witness.verdict(&cluster.database).await;
    let processes: Vec<_> = cluster.processes().collect();
    tells_nothing(&transcript, &processes);
}

/// Logs are read by people who must not read the messages, and kept where no secret belongs.
fn tells_nothing(transcript: &Transcript, processes: &[&Everpost]) {
    assert!(!transcript.acks.is_empty());
    let a_token = "eyJ0eXAi"; // how the head of every token of ours begins
    for process in processes {
        let log = process.log();
        assert!(log.contains("DEBUG"), "the log is as talkative as it gets");
        for canary in [TOKEN_SECRET, API_KEY, PAYLOAD, a_token] {
            let line = log.lines().find(|line| line.contains(canary));
            assert!(line.is_none(), "a log shows {canary}: {line:?}");
        }
    }
}
