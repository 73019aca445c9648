//! Redis ends, stalls and forgets its scripts; Postgres with it or alone is in `storage`.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    scenario::{Outcome, Plan},
    stage::{Setup, Stage},
    takeover::Watch,
};

const RESUME: Duration = Duration::from_secs(5);

pub(crate) async fn redis_is_killed(mut plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for _ in 0..plan.rounds {
        sleep(plan.millis(500..2_000)).await;
        stage.cluster.redis.kill();
        sleep(plan.millis(0..2_000)).await;
        stage.cluster.redis.restart().await;
        stage.recovers(Instant::now(), plan.within(RESUME)).await;
    }
    stage.finish().await
}

pub(crate) async fn redis_restarts(mut plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for _ in 0..plan.rounds {
        sleep(plan.millis(500..2_000)).await;
        stage.cluster.redis.stop().await;
        stage.cluster.redis.restart().await;
        stage.recovers(Instant::now(), plan.within(RESUME)).await;
    }
    stage.finish().await
}

/// Slower than a beat, faster than a takeover: nobody may lose anything by it.
pub(crate) async fn redis_stalls(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let watch = Watch::begin(&stage).await;
    for _ in 0..plan.rounds {
        let (redis, stall) = (stage.cluster.redis.url(), Duration::from_secs(3));
        let _ = stage.cluster.redis.ask::<String>(&["DEBUG", "SLEEP", "3"]).await; // nobody waits for the answer
        sleep(stall).await;
        stage.recovers(Instant::now(), plan.within(RESUME)).await;
        stage.cluster.redis.signal("STOP");
        sleep(stall).await;
        stage.cluster.redis.signal("CONT");
        stage.recovers(Instant::now(), plan.within(RESUME)).await;
        assert_eq!(redis, stage.cluster.redis.url(), "it is still the same server");
    }
    let unchanged = watch.is_unchanged().await;
    stage.outcome.expect("no lease changes hands while Redis stalls", unchanged);
    stage.finish().await
}

/// Scripts are loaded again by whoever finds them missing.
pub(crate) async fn scripts_are_forgotten(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let watch = Watch::begin(&stage).await;
    for _ in 0..plan.rounds {
        for _ in 0..10 {
            let flushed: Option<String> = stage.cluster.redis.ask(&["SCRIPT", "FLUSH", "SYNC"]).await;
            stage.outcome.expect("Redis forgets its scripts", flushed.is_some());
            sleep(Duration::from_millis(200)).await;
        }
        let moment = Instant::now();
        let _ = stage.cluster.redis.ask::<String>(&["DEBUG", "SLEEP", "2"]).await; // nobody waits for the answer
        stage.recovers(moment, plan.within(Duration::from_secs(8))).await;
    }
    let unchanged = watch.is_unchanged().await;
    stage.outcome.expect("no lease changes hands", unchanged);
    stage.finish().await
}

/// Publishing waits for both, and nothing is lost on the way.
pub(crate) async fn redis_restarts_without_postgres(plan: Plan) -> Outcome {
    let mut stage = Stage::start(Setup { own_postgres: true, ..Setup::default() }).await;
    for _ in 0..plan.rounds {
        stage.postgres.as_mut().expect("its own").kill();
        sleep(Duration::from_secs(2)).await;
        stage.cluster.redis.kill();
        stage.cluster.redis.restart().await;
        sleep(plan.seconds(3, 10)).await;
        let processes = stage.cluster.processes().filter(|process| process.runs()).count();
        stage.outcome.expect("all four processes live on", processes == 4);
        stage.postgres.as_mut().expect("its own").restart().await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(10))).await;
    }
    stage.finish().await
}
