//! The embedded engine on a disk that fails: full, or not keeping what it was given.
//!
//! A full disk costs time: publishers are told to come back, storing waits, and when there is room again everything goes
//! on. After a flush that failed nobody knows what is on the disk: the process ends, and the next one reads it.

use serde_json::{Value, json};

use crate::harness::{
    disk::Disk,
    process::{API_KEY, Everpost, serve_on, store_of},
    witness::Witness,
};

const SOME: usize = 150;

#[tokio::test]
async fn a_full_disk_under_the_log_costs_time_and_nothing_else() {
    let (disk, process, witness) = begin().await;
    let room = json!({"id": "elsewhere", "participants": []});
    assert_eq!(post(&process, "conversations", &room).await.0, 201);
    for _ in 0..2 {
        disk.fill("log.db");
        let event = json!({"conversation_id": "elsewhere", "type": "tick", "data": {}});
        assert_eq!(post(&process, "events", &event).await, (503, "overloaded".to_owned()));
        disk.heal();
        witness.more(SOME).await;
    }
    witness.verdict(&store_of(&process)).await;
}

#[tokio::test]
async fn a_full_disk_under_the_store_delays_storing_and_nothing_else() {
    let (disk, process, witness) = begin().await;
    for _ in 0..2 {
        disk.fill("store.db");
        process.says_again("a step failed and will be tried again").await;
        witness.more(SOME).await;
        disk.heal();
        witness.more(SOME).await;
    }
    witness.verdict(&store_of(&process)).await;
}

#[tokio::test]
async fn a_failed_flush_of_the_log_ends_the_process_and_the_next_one_goes_on() {
    a_failed_flush("log.db").await;
}

#[tokio::test]
async fn a_failed_flush_of_the_store_ends_the_process_and_the_next_one_goes_on() {
    a_failed_flush("store.db").await;
}

async fn a_failed_flush(file: &str) {
    let (disk, mut process, witness) = begin().await;
    disk.forget(file);
    assert_eq!(process.exit_code().await, Some(1));
    let says = format!("the disk did not keep what was written to {file}");
    assert!(process.log().contains(&says), "{}", process.log());
    disk.heal();
    process.restart().await;
    witness.more(SOME).await;
    assert!(!process.log().contains("goes on in a new generation"), "nothing was lost");
    witness.verdict(&store_of(&process)).await;
}

async fn begin() -> (Disk, Everpost, Witness) {
    let disk = Disk::new();
    let process = serve_on(&disk).await;
    let witness = Witness::start(&[process.address()]).await;
    witness.more(SOME).await;
    (disk, process, witness)
}

/// Asks for something, and returns the answer's status and code.
async fn post(process: &Everpost, what: &str, body: &Value) -> (u16, String) {
    let url = format!("http://{}/v1/{what}", process.address());
    let answer = reqwest::Client::new().post(url).bearer_auth(API_KEY).json(body).send().await.expect("it runs");
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"));
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}
