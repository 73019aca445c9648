//! Gateways and workers end, stop and start over.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    harness::eventually::within,
    scenario::{Outcome, Plan, share},
    stage::Stage,
    takeover::Watch,
};

const MORE: usize = 100;
/// A gateway is given up after six seconds without a beat.
const TIDY: Duration = Duration::from_secs(20);

/// Clients go on at the other one, and nothing of it is left in the routing.
pub(crate) async fn gateway_is_killed(mut plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for round in 0..plan.rounds {
        let victim = (round + plan.seed as usize) % 2;
        sleep(plan.millis(0..500)).await;
        let (gateways, moment) = (routed(&stage).await, Instant::now());
        stage.cluster.gateways[victim].kill();
        stage.recovers(moment, plan.within(Duration::from_secs(10))).await;
        let gone = within_or_never(TIDY * 2, async || is_tidy(&stage, &gateways).await).await;
        stage.outcome.bound("nothing is left of the gateway", gone, plan.within(TIDY));
        stage.cluster.gateways[victim].restart().await;
        stage.cluster.gateways[victim].ready().await;
        stage.witness.more(MORE).await;
    }
    stage.finish().await
}

async fn within_or_never(limit: Duration, ask: impl AsyncFn() -> bool) -> Option<Duration> {
    let began = Instant::now();
    while !ask().await {
        if began.elapsed() > limit {
            return None;
        }
        sleep(Duration::from_millis(100)).await;
    }
    Some(began.elapsed())
}

/// The gateways that Redis knows.
async fn routed(stage: &Stage) -> Vec<String> {
    // At the start of a run every stage asks a lot of the machine.
    for _ in 0..40 {
        if let Some(gateways) = stage.cluster.redis.ask(&["HKEYS", "everpost:gateways"]).await {
            return gateways;
        }
        sleep(Duration::from_millis(500)).await;
    }
    panic!("Redis does not answer")
}

/// Whether one of the two gateways is gone from the list, from the interests, and with its inbox.
async fn is_tidy(stage: &Stage, before: &[String]) -> bool {
    let now = routed(stage).await;
    let Some(dead) = before.iter().find(|name| !now.contains(name)) else { return false };
    let inbox = format!("everpost:{{{dead}}}:inbox");
    let mut left: u64 = stage.cluster.redis.ask(&["EXISTS", &inbox]).await.unwrap_or(1);
    for partition in 0..super::sentry::PARTITIONS {
        let key = format!("everpost:{{{partition}}}:interest");
        let listeners: Vec<String> = stage.cluster.redis.ask(&["HVALS", &key]).await.unwrap_or_default();
        left += listeners.iter().filter(|names| names.contains(dead)).count() as u64;
    }
    left == 0
}

/// What it had in hand is done by the other one.
pub(crate) async fn worker_is_killed(mut plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let mut takeovers = Vec::new();
    for round in 0..plan.rounds {
        let victim = (round + plan.seed as usize) % 2;
        let watch = Watch::begin(&stage).await;
        sleep(plan.millis(0..1_000)).await;
        let moment = Instant::now();
        stage.cluster.workers[victim].kill();
        let takeover = watch.until_one_is_left(moment).await;
        stage.outcome.expect("the other worker takes everything over", takeover.is_complete);
        takeovers.extend(takeover.after);
        stage.recovers(moment, plan.within(Duration::from_secs(12))).await;
        stage.cluster.workers[victim].restart().await;
    }
    let (middle, worst) = (share(&takeovers, 0.5), share(&takeovers, 0.99));
    stage.outcome.bound("p99 of takeovers", worst, plan.within(Duration::from_secs(8)));
    let count = takeovers.len();
    stage.outcome.notes.push(format!(
        "{count} leases taken over, p50 {:.1?}, p99 {:.1?}",
        or_zero(middle),
        or_zero(worst)
    ));
    stage.finish().await
}

fn or_zero(time: Option<Duration>) -> Duration {
    time.unwrap_or_default()
}

/// Everything waits, nothing is missed.
pub(crate) async fn all_workers_are_killed(mut plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for _ in 0..plan.rounds {
        sleep(plan.millis(500..1_500)).await;
        stage.cluster.workers.iter_mut().for_each(super::harness::process::Everpost::kill);
        stage.witness.more(MORE).await; // publishing needs no worker
        let moment = Instant::now();
        for worker in &mut stage.cluster.workers {
            worker.restart().await;
        }
        stage.recovers(moment, plan.within(Duration::from_secs(12))).await;
    }
    stage.finish().await
}

/// Hands over without anybody waiting for a lease to run out.
pub(crate) async fn rolling_restart(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let mut orphaned = Vec::new();
    for _ in 0..plan.rounds {
        for worker in 0..2 {
            let watch = Watch::begin(&stage).await;
            let moment = Instant::now();
            stage.cluster.workers[worker].signal("TERM");
            let takeover = watch.until_one_is_left(moment).await;
            stage.outcome.expect("the other worker takes everything over", takeover.is_complete);
            orphaned.extend(takeover.orphaned);
            let code = stage.cluster.workers[worker].exit_code().await;
            stage.outcome.expect("a worker that drains exits with 0", code == Some(0));
            stage.recovers(moment, plan.within(Duration::from_secs(6))).await;
            stage.cluster.workers[worker].restart().await;
        }
        for gateway in 0..2 {
            let moment = Instant::now();
            stage.cluster.gateways[gateway].signal("TERM");
            let code = stage.cluster.gateways[gateway].exit_code().await;
            stage.outcome.expect("a gateway that drains exits with 0", code == Some(0));
            stage.recovers(moment, plan.within(Duration::from_secs(10))).await;
            stage.cluster.gateways[gateway].restart().await;
            stage.cluster.gateways[gateway].ready().await;
        }
    }
    let worst = or_zero(share(&orphaned, 1.0));
    // Looking takes a moment, too.
    stage.outcome.bound("a lease without an owner", Some(worst), plan.within(Duration::from_millis(1_200)));
    stage.outcome.notes.push(format!("leases without an owner for at most {worst:.1?}"));
    stage.finish().await
}

/// It stands still for longer than its leases, and what it does afterwards counts for nothing.
pub(crate) async fn worker_stands_still(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for round in 0..plan.rounds {
        let victim = round % 2;
        let watch = Watch::begin(&stage).await;
        let moment = Instant::now();
        stage.cluster.workers[victim].signal("STOP");
        let takeover = watch.until_one_is_left(moment).await;
        stage.outcome.bound("takeover", share(&takeover.after, 1.0), plan.within(Duration::from_secs(9)));
        stage.recovers(moment, plan.within(Duration::from_secs(12))).await;
        sleep(plan.seconds(8, 20).saturating_sub(moment.elapsed())).await;
        let fenced = count(&stage, victim, "partitions were taken over");
        stage.cluster.workers[victim].signal("CONT");
        within(Duration::from_secs(20), "the one that stood still notices", async || {
            count(&stage, victim, "partitions were taken over") > fenced
        })
        .await;
        stage.witness.more(MORE).await;
    }
    stage.finish().await
}

fn count(stage: &Stage, worker: usize, words: &str) -> usize {
    stage.cluster.workers[worker].log().matches(words).count()
}

/// The gateway stands still; clients leave it and come back.
pub(crate) async fn gateway_stands_still(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for round in 0..plan.rounds {
        let victim = round % 2;
        let moment = Instant::now();
        stage.cluster.gateways[victim].signal("STOP");
        stage.recovers(moment, plan.within(Duration::from_secs(20))).await;
        sleep(plan.seconds(8, 20).saturating_sub(moment.elapsed())).await;
        stage.cluster.gateways[victim].signal("CONT");
        stage.witness.more(MORE).await;
    }
    stage.finish().await
}
