//! Secrets and payloads are carried through everything the service does, and must come out nowhere: not in a log at its
//! most talkative, not in metrics, not in what is told of dead letters.

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::harness::{
    app::claims,
    client::{Client, request},
    eventually::eventually,
    issuer::{Issuer, Signer},
    postgres::{PostgresServer, with_role},
    process::{API_KEY, Everpost, TOKEN_SECRET},
    redis::RedisServer,
};

const ADMIN_KEY: &str = "canary-admin-key-0123456789abcdefghi";
const REDIS_PASSWORD: &str = "canary-redis-password";
const DATABASE_PASSWORD: &str = "canary-database-password";
const PAYLOAD: &str = "canary-payload";

/// A deployment with a password on Redis, whose processes write down all they can.
struct Scene {
    redis: RedisServer,
    database: SecretString,
    gateway: Everpost,
    worker: Everpost,
    admin: String,
    http: reqwest::Client,
    /// Every secret that was in somebody's hands.
    canaries: Vec<String>,
}

impl Scene {
    async fn start(issuer: &Issuer) -> Self {
        let (redis, database) = (RedisServer::start().await, PostgresServer::shared().await.database().await);
        let with_password = redis.with_user(REDIS_PASSWORD).await;
        let as_role = with_role(&database, DATABASE_PASSWORD).await;
        let jwks = issuer.url();
        let environment = [
            ("EVERPOST_LOG", "trace"),
            ("EVERPOST_ADMIN_KEY", ADMIN_KEY),
            ("EVERPOST_REDIS_URL", &with_password),
            ("EVERPOST_DATABASE_URL", as_role.expose_secret()),
            ("EVERPOST_JWKS", &jwks),
        ];
        let admin = ["--admin-listen", "127.0.0.1:0"];
        let gateway = Everpost::start_with(&environment, &[&["gateway"], &admin[..]].concat()).await;
        let worker = Everpost::start_with(&environment, &[&["worker"], &admin[..]].concat()).await;
        gateway.ready().await;
        let log = gateway.log();
        let listener = log.split("admin=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("it says where");
        let admin = format!("http://{listener}");
        let canaries = [API_KEY, TOKEN_SECRET, ADMIN_KEY, REDIS_PASSWORD, DATABASE_PASSWORD, PAYLOAD];
        let canaries = canaries.map(str::to_owned).to_vec();
        Self { redis, database, gateway, worker, admin, http: reqwest::Client::new(), canaries }
    }

    /// A secret that is about to be used.
    fn hand_out(&mut self, secret: String) -> String {
        self.canaries.push(secret.clone());
        secret
    }

    async fn post(&self, path: &str, credential: &str, body: Value) -> (u16, Value) {
        let request = self.http.post(format!("http://{}{path}", self.gateway.address())).bearer_auth(credential);
        let answer = request.json(&body).send().await.expect("it runs");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn admin(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.admin)).bearer_auth(ADMIN_KEY).send().await;
        answer.expect("it runs").text().await.expect("text")
    }
}

/// What people do, and what goes wrong when they do it badly.
async fn play(scene: &mut Scene, signer: &Signer) {
    let (alice, bob) = (signer.token("alice"), signer.token("bob"));
    let (alice, bob) = (scene.hand_out(alice), scene.hand_out(bob));
    scene.post("/v1/conversations", API_KEY, json!({"id": "room", "participants": ["alice", "bob"]})).await;
    let address = scene.gateway.address();
    let mut reader = Client::open(address, &format!("/v1/ws?token={bob}"), None).await;
    reader.greeted().await;
    let mut writer = Client::open(address, "/ws/room", Some(&alice)).await;
    writer.greeted().await;
    let said = json!({"type": "text", "id": "one", "content": {"text": PAYLOAD, "secret": PAYLOAD}});
    let answer = writer.ask(said).await;
    assert_eq!(answer["event"], "ack", "{answer}: {}", scene.gateway.log());
    assert_eq!(reader.next_event("new_message").await["data"]["content"]["text"], PAYLOAD);
    writer.send(json!({"type": PAYLOAD, "content": PAYLOAD})).await;
    writer.send_raw(tokio_tungstenite::tungstenite::Message::text(format!("{{{PAYLOAD}"))).await;
    let renewed = scene.hand_out(signer.token("alice"));
    assert_eq!(writer.ask(json!({"type": "refresh", "token": renewed})).await["event"], "ack");
    let refused = scene.hand_out(signer.token("mallory"));
    assert_eq!(writer.ask(json!({"type": "refresh", "token": refused})).await["event"], "error");
    let (_, given) = scene.post("/v1/tickets", &alice, json!({})).await;
    let ticket = scene.hand_out(given["ticket"].as_str().expect("a ticket").to_owned());
    Client::open(address, &format!("/v1/ws?ticket={ticket}"), None).await.greeted().await;
    Client::open(address, &format!("/v1/ws?ticket={ticket}"), None).await.expect_close(4001).await;
    // Wrong in all the ways that might be worth a line in a log.
    let expired = signer.sign(&signer.header(), &json!(claims("alice", -60)));
    let strangers = scene.hand_out(Signer::new("stranger", signer.algorithm).token("alice"));
    for wrong in [scene.hand_out(expired), strangers, format!("{API_KEY}x"), format!("{PAYLOAD}.{PAYLOAD}.{PAYLOAD}")] {
        assert_eq!(scene.post("/v1/conversations/room/messages", &wrong, json!({"type": PAYLOAD})).await.0, 401);
        Client::open(address, &format!("/v1/ws?token={wrong}"), None).await.expect_close(4001).await;
    }
    let mut pair = request(address, "/v1/ws");
    let offered = format!("everpost.v1, token.{alice}").parse().expect("a header");
    pair.headers_mut().insert("sec-websocket-protocol", offered);
    Client::upgrade(pair).await.expect("it is welcome").0.greeted().await;
    for body in
        [json!({"type": "text", "content": PAYLOAD}), json!({"type": "text", "content": {"text": 5, "x": PAYLOAD}})]
    {
        assert_eq!(scene.post("/v1/conversations/room/messages", &alice, body).await.0, 400);
    }
    assert_eq!(scene.post("/v1/admin/revocations", ADMIN_KEY, json!({})).await.0, 404, "that is elsewhere");
}

/// A message the database refuses becomes a dead letter; Redis goes away and comes back with a question for a password.
async fn go_wrong(scene: &mut Scene, alice: &str) {
    let mut connection =
        <sqlx::PgConnection as sqlx::Connection>::connect(scene.database.expose_secret()).await.expect("Postgres runs");
    let refusal = "ALTER TABLE messages ADD CONSTRAINT refused CHECK (data NOT LIKE '%poison%') NOT VALID";
    sqlx::raw_sql(refusal).execute(&mut connection).await.expect("the owner may");
    let poison = json!({"type": "text", "content": {"text": format!("poison {PAYLOAD}")}});
    assert_eq!(scene.post("/v1/conversations/room/messages", alice, poison).await.0, 201);
    eventually("it is given up", async || scene.admin("/v1/admin/dead-letters").await.contains("refused")).await;
}

#[tokio::test]
async fn no_secret_and_no_payload_is_told_to_anybody() {
    let signer = Signer::new("key", jsonwebtoken::Algorithm::ES256);
    let issuer = Issuer::start(&[&signer]).await;
    let mut scene = Scene::start(&issuer).await;
    play(&mut scene, &signer).await;
    let alice = signer.token("alice");
    let alice = scene.hand_out(alice);
    go_wrong(&mut scene, &alice).await;
    issuer.fail();
    scene.redis.kill();
    scene.gateway.says("interrupted").await;
    let mut told = String::new();
    for path in ["/metrics", "/v1/admin/status", "/v1/admin/dead-letters", "/", "/healthz"] {
        let _ = write!(told, "{path}: {}", scene.admin(path).await);
    }
    assert!(told.contains("everpost_build_info"), "{told}");
    for log in [scene.gateway.log(), scene.worker.log(), told] {
        assert!(!log.is_empty());
        for canary in &scene.canaries {
            let line = log.lines().find(|line| line.contains(canary));
            assert!(line.is_none(), "{canary} is shown: {line:?}");
            // A part of a token gives as much away as the whole, where it is the signature.
            let signature = canary.rsplit('.').next().filter(|part| part.len() > 20);
            assert!(signature.is_none_or(|part| !log.contains(part)), "a part of {canary} is shown");
        }
    }
    assert!(scene.gateway.log().contains("DEBUG"), "it is as talkative as it gets");
}
