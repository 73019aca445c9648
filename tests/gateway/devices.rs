//! Several devices of one user: each resumes from its own point, which the server keeps.

use everpost::gateway::auth::{Claims, mint};
use everpost_core::{
    name::{DeviceId, UserId},
    store::{Marks, postgres::PostgresStore},
};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::harness::{
    app::{App, claims, on_every_engine, token},
    client::Client,
    eventually::eventually,
    postgres::PostgresServer,
    process::{self, Cluster},
};

fn claims_of(device: &str) -> Claims {
    let mut claims = claims("bob", 3_600);
    claims.device_id = Some(device.to_owned());
    claims
}

/// Bob's device at a gateway.
async fn device(app: &App, gateway: usize, device: &str) -> Client {
    let mut client = Client::open(app.address(gateway), "/v1/ws", Some(&token(&claims_of(device)))).await;
    client.greeted().await;
    client
}

async fn acknowledge(client: &mut Client) {
    client.send(json!({"type": "ack", "cursor": client.cursor()})).await;
    client.round_trip().await;
}

/// The numbers a device gets before its replay ends.
async fn replayed(client: &mut Client) -> Vec<u64> {
    client.next_event("replay_finished").await;
    let messages = client.heard().iter().filter(|frame| frame["event"] == "new_message");
    messages.map(|frame| frame["seq"].as_u64().expect("a number")).collect()
}

async fn two_devices_stand_at_their_own_points(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    let (mut phone, mut tablet) = (device(&app, 0, "phone").await, device(&app, 1, "tablet").await);
    for _ in 0..6 {
        app.say("room", "alice", "hi").await;
    }
    phone.expect_seqs(1..=2).await;
    tablet.expect_seqs(1..=5).await;
    acknowledge(&mut phone).await;
    acknowledge(&mut tablet).await;
    phone.close().await;
    tablet.close().await;
    // Each gateway saves once a second what was acknowledged there.
    for (gateway, name, expected) in [(1, "phone", vec![3, 4, 5, 6]), (0, "tablet", vec![6])] {
        eventually(&format!("the {name} resumes"), async || {
            replayed(&mut device(&app, gateway, name).await).await == expected
        })
        .await;
    }
}

async fn a_new_device_starts_at_the_present_and_stays_there(app: App) {
    app.conversation("room", &["alice", "bob"]).await;
    for _ in 0..3 {
        app.say("room", "alice", "before").await;
    }
    let watch = device(&app, 0, "watch").await;
    assert!(watch.heard().is_empty(), "what was before is there by page");
    watch.close().await;
    for _ in 0..2 {
        app.say("room", "alice", "while it was away").await;
    }
    let mut watch = device(&app, 1, "watch").await;
    assert_eq!(replayed(&mut watch).await, [4, 5], "although it never acknowledged anything");
    let page: Vec<Value> = app.history("room", "before=4").await;
    assert_eq!(page.len(), 3);
}

on_every_engine! {
    two_devices_stand_at_their_own_points,
    a_new_device_starts_at_the_present_and_stays_there,
}

/// What a device acknowledged is remembered by the others when its gateway is killed.
#[tokio::test]
async fn a_device_resumes_after_its_gateway_was_killed() {
    let mut cluster = Cluster::start(PostgresServer::shared().await).await;
    room(&cluster).await;
    let mut alice = reach(&cluster, 1, &claims("alice", 3_600)).await;
    let mut phone = reach(&cluster, 0, &claims_of("phone")).await;
    let mut tablet = reach(&cluster, 0, &claims_of("tablet")).await;
    for _ in 0..5 {
        alice.text("room", "hi").await;
    }
    phone.expect_seqs(1..=2).await;
    tablet.expect_seqs(1..=4).await;
    for (client, name) in [(&mut phone, "phone"), (&mut tablet, "tablet")] {
        acknowledge(client).await;
        saved(&cluster, name, &client.cursor()).await;
    }
    cluster.gateways[0].kill();
    assert_eq!(replayed(&mut reach(&cluster, 1, &claims_of("phone")).await).await, [3, 4, 5]);
    assert_eq!(replayed(&mut reach(&cluster, 1, &claims_of("tablet")).await).await, [5]);
}

/// Nothing that was acknowledged or read is forgotten because nobody could write it down at that moment.
#[tokio::test]
async fn cursors_and_marks_wait_for_a_database_that_is_away() {
    let mut postgres = PostgresServer::start().await;
    let cluster = Cluster::start(&postgres).await;
    room(&cluster).await;
    let mut alice = reach(&cluster, 0, &claims("alice", 3_600)).await;
    let mut phone = reach(&cluster, 1, &claims_of("phone")).await;
    alice.text("room", "hi").await;
    phone.expect_seqs([1]).await;
    postgres.kill();
    phone.send(json!({"type": "read", "conversation_id": "room", "seq": 1})).await;
    acknowledge(&mut phone).await;
    cluster.gateways[1].says("marks were not written this time").await;
    cluster.gateways[1].says("cursors were not saved this time").await;
    postgres.restart().await;
    let of_bob = |frame: &Value| frame["event"] == "message_read" && frame["data"]["user_id"] == "bob";
    assert_eq!(alice.next_where("a read mark of bob", of_bob).await["data"]["up_to"], 1);
    saved(&cluster, "phone", &phone.cursor()).await;
}

/// A conversation of alice and bob.
async fn room(cluster: &Cluster) {
    let url = format!("http://{}/v1/conversations", cluster.gateways[1].address());
    let room = json!({"id": "room", "participants": ["alice", "bob"]});
    let made = reqwest::Client::new().post(url).bearer_auth(process::API_KEY).json(&room).send().await;
    assert_eq!(made.expect("it answers").status(), 201);
}

/// A connection at a gateway, already greeted.
async fn reach(cluster: &Cluster, gateway: usize, claims: &Claims) -> Client {
    let token = mint(&SecretString::from(process::TOKEN_SECRET), claims).expect("a token");
    let mut client = Client::open(cluster.gateways[gateway].address(), "/v1/ws", Some(&token)).await;
    client.greeted().await;
    client
}

/// Waits until a cursor of bob's device is in the database.
async fn saved(cluster: &Cluster, device: &str, cursor: &str) {
    let store = PostgresStore::connect(&cluster.database.as_str().into()).await.expect("Postgres runs");
    let (bob, device) = (UserId::new("bob").expect("a name"), DeviceId::new(device).expect("a name"));
    eventually("the cursor is saved", async || {
        store.cursor(&bob, &device).await.expect("readable").as_deref() == Some(cursor)
    })
    .await;
}
