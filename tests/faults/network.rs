//! What networks do between gateways, workers, Redis and clients.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{
    harness::{
        client::Client,
        proxy::{Fault, Proxy},
        witness::client::token,
    },
    scenario::{Outcome, Plan},
    stage::{Setup, Stage, suffer},
    storage::STEADY,
    takeover::Watch,
};

const HEALED: Duration = Duration::from_secs(10);

/// Both gateways lose Redis in this way for a while.
async fn gateways_suffer(plan: &Plan, fault: Fault, lasts: Duration) -> Stage {
    let mut stage = Stage::proxied().await;
    for _ in 0..plan.rounds {
        suffer(&stage.lines.gateways, fault);
        sleep(lasts).await;
        stage.lines.heal();
        stage.recovers(Instant::now(), plan.within(HEALED)).await;
    }
    stage
}

/// Requests time out, and whoever publishes is told so.
pub(crate) async fn half_open(plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for round in 0..plan.rounds {
        let (gateway, before) = (round % 2, stage.witness.deferred("unavailable"));
        let moment = Instant::now();
        stage.lines.gateways[gateway].suffer(Fault::HALF_OPEN);
        while stage.witness.deferred("unavailable") == before && moment.elapsed() < Duration::from_secs(30) {
            sleep(Duration::from_millis(50)).await;
        }
        stage.outcome.bound("detection", Some(moment.elapsed()), plan.within(Duration::from_secs(12)));
        stage.outcome.notes.push(format!("publishers told after {:.1?}", moment.elapsed()));
        stage.lines.heal();
        stage.recovers(Instant::now(), plan.within(HEALED)).await;
    }
    stage.finish().await
}

/// What was appended and not answered is appended once.
pub(crate) async fn replies_are_lost(plan: Plan) -> Outcome {
    gateways_suffer(&plan, Fault::LOSE_REPLIES, plan.seconds(5, 10)).await.finish().await
}

pub(crate) async fn requests_are_lost(plan: Plan) -> Outcome {
    gateways_suffer(&plan, Fault::LOSE_REQUESTS, plan.seconds(5, 10)).await.finish().await
}

pub(crate) async fn gateways_are_cut_off(plan: Plan) -> Outcome {
    gateways_suffer(&plan, Fault::PARTITION, plan.seconds(8, 60)).await.finish().await
}

/// The others take over, and what it still had in hand changes nothing when the network is back.
pub(crate) async fn worker_is_cut_off(plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for round in 0..plan.rounds {
        let watch = Watch::begin(&stage).await;
        let moment = Instant::now();
        stage.lines.workers[round % 2].suffer(Fault::PARTITION);
        let takeover = watch.until_one_is_left(moment).await;
        stage.outcome.expect("the other worker takes everything over", takeover.is_complete);
        stage.recovers(moment, plan.within(Duration::from_secs(15))).await;
        sleep(plan.seconds(2, 10)).await;
        stage.lines.heal();
        stage.witness.more(300).await;
    }
    stage.finish().await
}

/// Its commits wait on the way and arrive when somebody else owns the partition.
pub(crate) async fn commits_arrive_late(plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for round in 0..plan.rounds {
        let worker = round % 2;
        let watch = Watch::begin(&stage).await;
        let moment = Instant::now();
        stage.lines.store[2 + worker].suffer(Fault::PARTITION);
        sleep(Duration::from_millis(500)).await;
        stage.lines.workers[worker].suffer(Fault::PARTITION);
        let takeover = watch.until_one_is_left(moment).await;
        stage.outcome.expect("the other worker takes everything over", takeover.is_complete);
        stage.recovers(moment, plan.within(Duration::from_secs(15))).await;
        stage.lines.store[2 + worker].heal();
        sleep(Duration::from_secs(1)).await;
        stage.lines.heal();
        stage.witness.more(300).await;
    }
    stage.finish().await
}

/// Postgres does not answer one worker, which keeps its leases; it goes on when the network is back.
pub(crate) async fn store_is_cut_off(plan: Plan) -> Outcome {
    let mut stage = Stage::start(Setup { load: STEADY, proxied: true, ..Setup::default() }).await;
    for fault in [Fault::HALF_OPEN, Fault::LOSE_REPLIES, Fault::PARTITION].into_iter().cycle().take(plan.rounds) {
        let moment = Instant::now();
        suffer(&stage.lines.store[2..], fault);
        let served = stage.witness.serves(moment, Duration::from_secs(15)).await;
        stage.outcome.bound("publishing and delivery", served, plan.within(Duration::from_secs(3)));
        sleep(plan.seconds(4, 15)).await;
        stage.lines.heal();
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(20))).await;
    }
    stage.finish().await
}

pub(crate) async fn everything_is_sliced(plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for _ in 0..plan.rounds {
        let moment = Instant::now();
        stage.lines.all().for_each(|proxy| proxy.suffer(Fault::SLICED));
        stage.recovers(moment, plan.within(HEALED)).await;
        sleep(plan.seconds(3, 15)).await;
        stage.lines.heal();
    }
    stage.finish().await
}

/// Every connection of everybody is reset again and again.
pub(crate) async fn everything_is_reset(mut plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for _ in 0..plan.rounds {
        for _ in 0..5 {
            stage.lines.all().for_each(Proxy::reset);
            sleep(plan.millis(200..1_000)).await;
        }
        stage.recovers(Instant::now(), plan.within(HEALED)).await;
    }
    stage.finish().await
}

/// Everything between the parts is late by tens of milliseconds.
pub(crate) async fn everything_is_late(plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for _ in 0..plan.rounds {
        let moment = Instant::now();
        let late = Fault::slow(Duration::from_millis(20), Duration::from_millis(40));
        stage.lines.all().for_each(|proxy| proxy.suffer(late));
        stage.recovers(moment, plan.within(Duration::from_secs(20))).await;
        sleep(plan.seconds(3, 15)).await;
        stage.lines.heal();
    }
    stage.finish().await
}

/// Clients that are gone without a word are noticed by their silence: six seconds here.
pub(crate) async fn clients_are_half_open(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for round in 0..plan.rounds {
        let address = stage.cluster.gateways[round % 2].address();
        let proxy = Proxy::start(address).await;
        let mut clients = Vec::new();
        for number in 0..20 {
            let user = format!("listener-{}", number % 4);
            let mut client = Client::open(proxy.address(), "/v1/ws", Some(&token(&user))).await;
            client.greeted().await;
            clients.push(client);
        }
        proxy.suffer(Fault::HALF_OPEN);
        let moment = Instant::now();
        let gone = futures_util::future::join_all(clients.iter_mut().map(Client::gone));
        let gone = timeout(Duration::from_secs(30), gone).await.ok().map(|_| moment.elapsed());
        stage.outcome.bound("closing connections that say nothing", gone, plan.within(Duration::from_secs(12)));
        stage.outcome.rounds += 1;
        stage.outcome.recoveries.extend(gone);
    }
    stage.finish().await
}
