//! Postgres ends, comes back and is slow.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    harness::{
        proxy::Fault,
        witness::{Load, database},
    },
    scenario::{Outcome, Plan},
    stage::{Setup, Stage, suffer},
};

/// Listeners stay connected: where somebody takes part is known to the database only.
pub(crate) const STEADY: Load = Load { restless: 0, ..Load::WIDE };
/// How much faster than it comes in a backlog must be stored.
const CATCH_UP: f64 = 5.0;
/// A backlog no longer than that is none.
const CAUGHT_UP: usize = 150;

async fn with_own_postgres() -> Stage {
    Stage::start(Setup { load: STEADY, own_postgres: true, ..Setup::default() }).await
}

/// Publishing and delivery go on, `stored` waits, and the backlog is soon made up for.
pub(crate) async fn postgres_is_down(plan: Plan) -> Outcome {
    let mut stage = with_own_postgres().await;
    for _ in 0..plan.rounds {
        stage.postgres.as_mut().expect("its own").kill();
        let down = Instant::now();
        sleep(Duration::from_secs(1)).await;
        let (lasts, sent) = (plan.seconds(20, 60), stage.witness.sent());
        while down.elapsed() < lasts {
            let served = stage.witness.serves(Instant::now(), Duration::from_secs(10)).await;
            stage.outcome.bound(
                "publishing and delivery without Postgres",
                served,
                plan.within(Duration::from_secs(3)),
            );
            sleep(Duration::from_secs(1)).await;
        }
        let inflow = (stage.witness.sent() - sent) as f64 / down.elapsed().as_secs_f64();
        stage.postgres.as_mut().expect("its own").restart().await;
        let back = Instant::now();
        // Beside other tests any rate that makes up for the backlog will do.
        catch_up(&mut stage, inflow, if plan.is_long { CATCH_UP } else { 1.0 }).await;
        stage.recovers(back, plan.within(Duration::from_secs(15))).await;
    }
    stage.finish().await
}

/// Measures from the first row that is stored again until there is no backlog.
async fn catch_up(stage: &mut Stage, inflow: f64, at_least: f64) {
    let (database, name, began) = (stage.cluster.database.clone(), stage.witness.name(), Instant::now());
    let stored = async || database::count(&database, &name).await.unwrap_or_default();
    let (start, mut first) = (stored().await, None);
    let backlog = stage.witness.sent().saturating_sub(start);
    loop {
        let now = stored().await;
        if now > start && first.is_none() {
            first = Some((Instant::now(), now));
        }
        if stage.witness.sent().saturating_sub(now) < CAUGHT_UP {
            let (since, before) = first.unwrap_or((began, start));
            let (rows, time) = (now.saturating_sub(before).max(1) as f64, since.elapsed().as_secs_f64().max(0.05));
            // What was stored with the first commit was as fast as anything can be.
            let times = if before - start > backlog / 2 { f64::INFINITY } else { rows / time / inflow };
            stage.outcome.expect("a backlog is stored several times as fast as it comes in", times >= at_least);
            let (all, rate) = (began.elapsed(), (now - start) as f64 / began.elapsed().as_secs_f64());
            let note = format!("backlog of {backlog} stored in {all:.1?}: {rate:.0}/s at {inflow:.0}/s inflow");
            return stage.outcome.notes.push(note);
        }
        if began.elapsed() > Duration::from_secs(90) {
            return stage.outcome.expect("the backlog is stored within 90 s", false);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn postgres_restarts(mut plan: Plan) -> Outcome {
    let mut stage = with_own_postgres().await;
    for _ in 0..plan.rounds {
        sleep(plan.millis(200..1_500)).await;
        stage.postgres.as_mut().expect("its own").kill();
        stage.postgres.as_mut().expect("its own").restart().await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(5))).await;
    }
    stage.finish().await
}

/// Batches grow instead of waiting in line.
pub(crate) async fn commits_are_slow(plan: Plan) -> Outcome {
    let mut stage = Stage::proxied().await;
    for _ in 0..plan.rounds {
        let moment = Instant::now();
        // A transaction takes a handful of requests.
        suffer(&stage.lines.store[2..], Fault::slow(Duration::from_millis(400), Duration::from_millis(200)));
        let served = stage.witness.serves(moment, Duration::from_secs(10)).await;
        stage.outcome.bound("publishing and delivery", served, plan.within(Duration::from_secs(3)));
        stage.recovers(moment, plan.within(Duration::from_secs(20))).await;
        sleep(plan.seconds(6, 20)).await;
        let slow = Instant::now();
        let stored = stage.witness.recovers(slow, Duration::from_secs(60)).await;
        stage.outcome.bound("storing keeps up with slow commits", stored, plan.within(Duration::from_secs(20)));
        stage.lines.heal();
    }
    stage.finish().await
}
