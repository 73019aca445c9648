//! `everpost dead-letters`, against a running server whose database refuses some of what is published.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use super::{complaint, printed};
use crate::harness::{
    eventually::eventually,
    process::{API_KEY, Everpost, run},
};

/// What must be seen only where somebody asked for it.
const POISON: &str = "poison-canary";
const ADMIN_KEY: &str = "an-admin-key-that-only-the-tests-ever-use";

/// A server with an open admin listener, and where that is.
async fn server(admin: &str) -> (Everpost, String) {
    let environment = [("EVERPOST_ADMIN_KEY", ADMIN_KEY), ("EVERPOST_LOG", "debug")];
    let environment = &environment[usize::from(admin.starts_with("127."))..]; // on loopback it needs none
    let process = Everpost::start_with(environment, &["serve", "--admin-listen", admin]).await;
    process.ready().await;
    let log = process.log();
    let (_, rest) = log.split_once("admin=\"").expect("it says where");
    let port = rest.split('"').next().and_then(|address| address.rsplit(':').next()).expect("an address");
    let url = format!("http://127.0.0.1:{port}");
    (process, url)
}

async fn execute(process: &Everpost, statement: &'static str) {
    let url = format!("sqlite://{}/everpost-data/store.db", process.folder().display());
    let mut connection = SqliteConnection::connect(&url).await.expect("the file is there");
    sqlx::raw_sql(statement).execute(&mut connection).await.expect("the owner may");
}

async fn refuse(process: &Everpost) {
    execute(
        process,
        "CREATE TRIGGER i BEFORE INSERT ON messages WHEN NEW.data LIKE '%poison-canary%' BEGIN SELECT RAISE(ABORT, 'no'); \
         END; CREATE TRIGGER u BEFORE UPDATE ON messages WHEN NEW.data LIKE '%poison-canary%' BEGIN SELECT RAISE(ABORT, \
         'no'); END",
    )
    .await;
}

async fn publish(process: &Everpost, texts: &[&str]) {
    let (http, base) = (reqwest::Client::new(), format!("http://{}/v1/conversations", process.address()));
    let room = http.post(&base).bearer_auth(API_KEY).json(&json!({"id": "room", "participants": ["ann"]}));
    assert_eq!(room.send().await.expect("it runs").status(), 201);
    for text in texts {
        let message = json!({"type": "text", "content": {"text": text}, "sender_id": "ann"});
        let said = http.post(format!("{base}/room/messages")).bearer_auth(API_KEY).json(&message);
        assert_eq!(said.send().await.expect("it runs").status(), 201);
    }
}

async fn history(process: &Everpost) -> Vec<Value> {
    let url = format!("http://{}/v1/conversations/room/messages?after=0", process.address());
    let page = reqwest::Client::new().get(url).bearer_auth(API_KEY).send().await.expect("it runs");
    let page: Value = page.json().await.expect("JSON");
    page["messages"].as_array().expect("a page").clone()
}

struct Operator<'a> {
    folder: &'a Path,
    url: &'a str,
}

impl Operator<'_> {
    fn does(&self, words: &[&str]) -> String {
        printed(self.folder, &self.command(words))
    }

    fn fails(&self, words: &[&str]) -> String {
        let done = run(self.folder, &[], &self.command(words));
        assert_eq!(done.status.code(), Some(1));
        String::from_utf8_lossy(&done.stdout).into_owned() + &complaint(&done)
    }

    fn command<'b>(&'b self, words: &[&'b str]) -> Vec<&'b str> {
        [&["dead-letters"], words, &["--url", self.url]].concat()
    }

    fn list(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.does(&[&["list", "--json"], words].concat())).expect("JSON")
    }
}

#[tokio::test]
async fn what_was_given_up_is_found_shown_put_back_and_deleted() {
    let (process, url) = server("127.0.0.1:0").await;
    let operator = Operator { folder: process.folder(), url: &url };
    assert!(operator.does(&["list"]).contains("none"));
    refuse(&process).await;
    publish(&process, &["one", POISON, "three", POISON, "five"]).await;
    eventually("two are given up", async || operator.list(&[])["total"] == 2).await;
    let listed = operator.list(&["--conversation", "room", "--role", "persist"]);
    let ids: Vec<String> = listed["dead_letters"]
        .as_array()
        .expect("a page")
        .iter()
        .map(|l| l["id"].as_str().expect("an id").to_owned())
        .collect();
    let status = printed(process.folder(), &["status", "--url", &url]);
    assert!(status.contains("2 letters"), "{status}");
    let table = operator.does(&["list"]);
    assert!(ids.iter().all(|id| table.contains(id)) && !table.contains(POISON), "{table}");
    let shown = operator.does(&["show", &ids[0]]);
    assert!(shown.contains("refused") && shown.contains("room") && !shown.contains(POISON), "{shown}");
    assert!(operator.does(&["show", &ids[0], "--payload"]).contains(POISON));
    let page = history(&process).await;
    let tombstones: Vec<_> = page.iter().filter(|entry| entry["event"] == "tombstone").collect();
    let named: Vec<_> =
        tombstones.iter().map(|tombstone| (&tombstone["seq"], &tombstone["data"]["dead_letter"])).collect();
    assert_eq!(named, [(&2.into(), &ids[0].as_str().into()), (&4.into(), &ids[1].as_str().into())]);

    let refused = operator.fails(&["redrive", "--all"]);
    assert!(refused.contains("0 done") && refused.contains("2 refused") && !refused.contains(POISON), "{refused}");
    execute(&process, "DROP TRIGGER i; DROP TRIGGER u").await;
    let redriven = operator.does(&["redrive", "--all", "--by", "ann", "--why", "mended", "--rate", "1000"]);
    assert!(redriven.contains("2 done"), "{redriven}");
    let again = operator.does(&["redrive", &ids[0], &ids[1]]);
    assert!(again.contains("0 done, 2 were so already"), "{again}");
    let texts: Vec<Value> = history(&process).await.iter().map(|message| message["content"]["text"].clone()).collect();
    assert_eq!(texts, ["one", POISON, "three", POISON, "five"]);
    let shown: Value = serde_json::from_str(&operator.does(&["show", &ids[0], "--json"])).expect("JSON");
    assert_eq!(
        (&shown["decided_by"], &shown["decided_why"], &shown["state"]),
        (&"ann".into(), &"mended".into(), &"redriven".into())
    );

    assert!(operator.does(&["delete", &ids[0], "--why", "kept long enough"]).contains("1 done"));
    assert_eq!(operator.list(&["--state", "deleted"])["total"], 1);
    let nothing = operator.fails(&["show", "01890000-0000-7000-8000-000000000000"]);
    assert!(nothing.contains("no dead letter"), "{nothing}");
    assert!(!process.log().contains(POISON), "a payload is in no log");
    assert!(process.log().contains("given up") && process.log().contains("a dead letter was to be redriven"));
}

#[tokio::test]
async fn beyond_loopback_dead_letters_need_the_key() {
    let (_process, url) = server("0.0.0.0:0").await;
    let (http, route) = (reqwest::Client::new(), format!("{url}/v1/admin/dead-letters"));
    assert_eq!(http.get(&route).send().await.expect("it runs").status(), 401);
    let by = async |key: &str| http.get(&route).bearer_auth(key).send().await.expect("it runs").status();
    assert_eq!((by(ADMIN_KEY).await, by(API_KEY).await), (StatusCode::OK, StatusCode::UNAUTHORIZED));
    let listed = run(Path::new("/"), &[("EVERPOST_ADMIN_KEY", ADMIN_KEY)], &["dead-letters", "list", "--url", &url]);
    assert!(listed.status.success(), "{}", complaint(&listed));
}

/// A page of another origin can send a form to loopback, but not JSON.
#[tokio::test]
async fn a_form_redrives_nothing() {
    let (_process, url) = server("127.0.0.1:0").await;
    let route = format!("{url}/v1/admin/dead-letters/{}/redrive", uuid::Uuid::now_v7());
    let form = reqwest::Client::new().post(route).header("content-type", "text/plain").body(r#"{"by":"mallory"}"#);
    let answer = form.send().await.expect("it runs");
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json::<Value>().await.expect("a problem")["code"], "bad_json");
}

#[test]
fn a_redrive_of_nothing_in_particular_is_refused() {
    let done = run(Path::new("/"), &[], &["dead-letters", "redrive"]);
    assert_eq!(done.status.code(), Some(2));
}
