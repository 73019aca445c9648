//! Clients that do not read, and clients that all come at once.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    net::TcpSocket,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};

use super::{
    harness::{
        client::Client,
        process::{API_KEY, Everpost},
        proxy::Proxy,
        witness::client::{connect, token},
    },
    scenario::{Outcome, Plan},
    stage::{Stage, peak_memory},
};

/// As little as a socket takes.
const NARROW: u32 = 4_096;
/// What one stalled connection may cost a gateway: its outbox and what the kernel holds.
const STALLED_KIB: u64 = 2 * 1_024;

/// Connects as that user and never reads again.
async fn stall(gateway: SocketAddr, user: &str) -> impl Sized + use<> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(NARROW).expect("it can be narrow");
    let stream = socket.connect(gateway).await.expect("the gateway runs");
    let mut request = format!("ws://{gateway}/v1/ws").into_client_request().expect("an address");
    let bearer = format!("Bearer {}", token(user)).parse().expect("a token is plain");
    request.headers_mut().insert("authorization", bearer);
    client_async(request, stream).await.expect("the gateway greets").0
}

/// Others are served as before, and the gateways keep their size.
pub(crate) async fn clients_are_slow(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let gateways = [0, 1].map(|at| stage.cluster.gateways[at].address());
    let crowd = if plan.is_long { 500 } else { 100 };
    for _ in 0..plan.rounds {
        let quiet = Instant::now();
        sleep(Duration::from_secs(5)).await;
        let memory = memory(&stage);
        let mut stalled = Vec::new();
        for number in 0..crowd {
            stalled.push(stall(gateways[number % 2], &format!("listener-{}", number % 4)).await);
        }
        let busy = Instant::now();
        sleep(plan.seconds(10, 40)).await;
        let (pulse, now) = (stage.witness.pulse(), Instant::now());
        let (before, during) = (pulse.latency(quiet, busy, 0.99), pulse.latency(busy, now, 0.99));
        stage.outcome.bound("p99 of others", Some(during), plan.within(disturbed(before)));
        let grown = self::memory(&stage).saturating_sub(memory);
        stage.outcome.at_most("memory of stalled clients in KiB", grown, crowd as u64 * STALLED_KIB);
        stage
            .outcome
            .notes
            .push(format!("ack p99 {before:.0?} before, {during:.0?} with {crowd} stalled clients; +{grown} KiB"));
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(20))).await;
        drop(stalled);
    }
    stage.finish().await
}

fn memory(stage: &Stage) -> u64 {
    stage.cluster.gateways.iter().map(|gateway| peak_memory(gateway.pid())).sum()
}

/// One conversation gets four times as much as all others together; the others do not wait for it.
pub(crate) async fn conversation_is_busy(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let address = stage.cluster.gateways[0].address();
    let body = json!({"id": "noise", "participants": ["noisy"]});
    let url = format!("http://{address}/v1/conversations");
    let created = reqwest::Client::new().post(url).bearer_auth(API_KEY).json(&body).send().await;
    assert_eq!(created.expect("the gateway runs").status(), 201);
    let mut noisy = Client::open(address, "/v1/ws/noise", Some(&token("noisy"))).await;
    for _ in 0..plan.rounds {
        let quiet = Instant::now();
        sleep(Duration::from_secs(5)).await;
        let busy = Instant::now();
        while busy.elapsed() < plan.seconds(8, 30) {
            let beat = Instant::now();
            noisy.send_all((0..100).map(|_| json!({"type": "text", "content": "noise"}))).await;
            for _ in 0..100 {
                noisy.next_event("ack").await;
            }
            noisy.forget();
            sleep(Duration::from_millis(100).saturating_sub(beat.elapsed())).await;
        }
        let (pulse, now) = (stage.witness.pulse(), Instant::now());
        let (before, during) = (pulse.latency(quiet, busy, 0.99), pulse.latency(busy, now, 0.99));
        stage.outcome.bound("p99 of others", Some(during), plan.within(disturbed(before)));
        stage
            .outcome
            .notes
            .push(format!("ack p99 {before:.0?} before, {during:.0?} beside 1,000/s in one conversation"));
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(20))).await;
    }
    stage.finish().await
}

/// What others may notice: a fifth, but not less than what the scheduler of a small machine makes of the load itself.
pub(crate) fn disturbed(before: Duration) -> Duration {
    before.mul_f64(1.2).max(before + Duration::from_millis(150))
}

/// Everybody is cut off at once and comes back at once.
pub(crate) async fn everybody_reconnects(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let addresses: Vec<SocketAddr> = stage.cluster.gateways.iter().map(Everpost::address).collect();
    let proxies = [Proxy::start(addresses[0]).await, Proxy::start(addresses[1]).await];
    let (crowd, present) = (600, Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..crowd {
        let gateway = proxies[number % 2].address();
        clients.spawn(come_back(gateway, format!("listener-{}", number % 8 / 2), present.clone()));
    }
    until_present(&present, crowd, Duration::from_secs(60)).await.expect("all of them arrive");
    for _ in 0..plan.rounds {
        let moment = Instant::now();
        proxies.iter().for_each(Proxy::reset);
        sleep(Duration::from_millis(300)).await;
        let back = until_present(&present, crowd, Duration::from_secs(90)).await;
        stage.outcome.bound(
            "600 clients come back",
            back.map(|_| moment.elapsed()),
            plan.within(Duration::from_secs(30)),
        );
        stage.outcome.rounds += 1;
        stage.outcome.recoveries.push(moment.elapsed());
        let served = stage.witness.serves(Instant::now(), Duration::from_secs(20)).await;
        stage.outcome.bound("service for the others", served, plan.within(Duration::from_secs(5)));
    }
    clients.shutdown().await;
    stage.finish().await
}

async fn come_back(gateway: SocketAddr, user: String, present: Arc<AtomicUsize>) {
    loop {
        if let Ok(mut socket) = connect(gateway, "/v1/ws", &user).await
            && matches!(timeout(Duration::from_secs(10), socket.next()).await, Ok(Some(Ok(_))))
        {
            present.fetch_add(1, Ordering::Relaxed);
            while let Some(Ok(_)) = socket.next().await {}
            present.fetch_sub(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn until_present(present: &AtomicUsize, crowd: usize, patience: Duration) -> Option<()> {
    let all = async {
        // Some may be turned away for a moment, but not one in a hundred.
        while present.load(Ordering::Relaxed) < crowd * 99 / 100 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(patience, all).await.ok()
}
