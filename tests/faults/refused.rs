//! The database refuses what some conversations send, for its own sake.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use super::{
    clients::disturbed,
    harness::{client::Client, process::API_KEY, witness::client::token},
    scenario::{Outcome, Plan},
    stage::Stage,
};

/// Beside the two hundred that are in order.
const REFUSED: [&str; 2] = ["refused-0", "refused-1"];
const REFUSE: &str = "
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW
WHEN (NEW.conversation_id LIKE 'refused-%' AND NEW.event <> 'tombstone') EXECUTE FUNCTION refuse()";
const LETTERS: &str = "SELECT count(*) FROM dead_letters WHERE conversation_id LIKE 'refused-%'";

/// Each of their events becomes a tombstone and a dead letter; nobody else waits for it.
pub(crate) async fn conversations_are_refused(plan: Plan) -> Outcome {
    let mut stage = Stage::plain().await;
    let mut database = PgConnection::connect(&stage.cluster.database).await.expect("Postgres runs");
    let address = stage.cluster.gateways[0].address();
    let http = reqwest::Client::new();
    for id in REFUSED {
        let url = format!("http://{address}/v1/conversations");
        let body = json!({"id": id, "participants": ["refused"]});
        let created = http.post(url).bearer_auth(API_KEY).json(&body).send().await;
        assert_eq!(created.expect("the gateway runs").status(), 201);
    }
    let (quiet, mut sent) = (Instant::now(), 0);
    sleep(Duration::from_secs(8)).await;
    sqlx::raw_sql(REFUSE).execute(&mut database).await.expect("it takes the trigger");
    let mut sender = Client::open(address, "/v1/ws", Some(&token("refused"))).await;
    let refusing = Instant::now();
    while refusing.elapsed() < plan.seconds(10, 30) {
        for id in REFUSED {
            sender.text(id, "refused").await;
            sent += 1;
        }
        sender.forget();
        sleep(Duration::from_millis(400)).await;
    }
    let (pulse, now) = (stage.witness.pulse(), Instant::now());
    let (before, during) = (pulse.latency(quiet, refusing, 0.99), pulse.latency(refusing, now, 0.99));
    stage.outcome.bound("p99 of others", Some(during), plan.within(disturbed(before)));
    stage.recovers(Instant::now(), plan.within(Duration::from_secs(20))).await;
    let (mut letters, given) = (0, Instant::now());
    while letters < sent && given.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(100)).await; // the sender of these is none of those who have recovered
        letters = sqlx::query_scalar::<_, i64>(LETTERS).fetch_one(&mut database).await.expect("readable");
    }
    stage.outcome.expect("each refused event is a dead letter, and nothing else is", letters == sent);
    stage.outcome.notes.push(format!("ack p99 {before:.0?} before, {during:.0?} while {letters} events were refused"));
    stage.finish().await
}
