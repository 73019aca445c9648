//! Redis has no room, or would make room where it must not.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    scenario::{Outcome, Plan},
    stage::Stage,
    takeover::Watch,
};

async fn set(stage: &mut Stage, name: &str, value: &str) {
    let done: Option<String> = stage.cluster.redis.ask(&["CONFIG", "SET", name, value]).await;
    stage.outcome.expect("Redis takes the setting", done.is_some());
}

/// Publishers are told to wait; whoever makes room goes on working.
pub(crate) async fn memory_is_full(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let watch = Watch::begin(&stage).await;
    for _ in 0..plan.rounds {
        let info: String = stage.cluster.redis.ask(&["INFO", "memory"]).await.unwrap_or_default();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        let before = stage.witness.deferred("overloaded");
        set(&mut stage, "maxmemory", &used.expect("Redis tells").to_string()).await;
        sleep(plan.seconds(8, 15)).await;
        let deferred = stage.witness.deferred("overloaded") - before;
        stage.outcome.expect("publishers are told that there is no room", deferred > 0);
        stage.outcome.notes.push(format!("{deferred} publishes put off"));
        let unchanged = watch.is_unchanged().await;
        stage.outcome.expect("no lease changes hands for want of memory", unchanged);
        set(&mut stage, "maxmemory", "0").await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(10))).await;
    }
    stage.finish().await
}

/// A log that may be evicted is no log: nothing more is accepted until the setting is right again.
pub(crate) async fn policy_changes(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    for _ in 0..plan.rounds {
        let before = stage.witness.deferred("overloaded") + stage.witness.deferred("unavailable");
        let moment = Instant::now();
        set(&mut stage, "maxmemory-policy", "allkeys-lru").await;
        let refused = |stage: &Stage| stage.witness.deferred("overloaded") + stage.witness.deferred("unavailable");
        while refused(&stage) == before && moment.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(100)).await;
        }
        let noticed = (refused(&stage) > before).then(|| moment.elapsed());
        stage.outcome.bound("noticing the policy", noticed, plan.within(Duration::from_secs(30)));
        set(&mut stage, "maxmemory-policy", "noeviction").await;
        stage.recovers(Instant::now(), plan.within(Duration::from_secs(40))).await;
    }
    stage.finish().await
}
