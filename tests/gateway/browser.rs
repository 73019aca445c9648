//! A browser's own `EventSource`, in headless Chromium, from a page of another origin and through a cut connection.
//!
//! It is the one test that needs a browser, so it runs only where there is one: `./test` looks for it, and
//! `cargo test --test tests browser -- --ignored` runs it alone.

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    response::Html,
    routing::{get, post},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

use crate::harness::{
    app::{API_KEY, App},
    eventually::within,
    proxy::Proxy,
};

/// A browser takes its time to start, and to come back.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Tells after each event everything it has seen so far.
const PAGE: &str = r#"<!doctype html><title>test</title><script>
  const source = new EventSource("STREAM"), seen = { seqs: [], ids: 0, opened: 0, failed: 0, closed: [], state: 0 };
  const tell = () => {
    seen.state = source.readyState;
    fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
  };
  source.onopen = () => { seen.opened += 1; tell(); };
  source.onerror = () => { seen.failed += 1; tell(); };
  source.addEventListener("new_message", (event) => {
    seen.seqs.push(JSON.parse(event.data).seq);
    seen.ids += event.lastEventId !== "";
    tell();
  });
  source.addEventListener("closed", (event) => { seen.closed.push(JSON.parse(event.data).data.code); tell(); });
</script>"#;

/// Where the page is, and what it has told.
struct Page {
    address: SocketAddr,
    seen: watch::Receiver<Value>,
    serving: JoinHandle<()>,
}

impl Page {
    async fn serve(listener: TcpListener, stream: String) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let (told, seen) = watch::channel(Value::Null);
        let page = PAGE.replace("STREAM", &stream);
        let routes = Router::new()
            .route("/", get(move || async move { Html(page) }))
            .route("/seen", post(take))
            .with_state(Arc::new(told));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
        Self { address, seen, serving }
    }

    async fn shows(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        within(PATIENCE, what, async || {
            let seen = self.seen.borrow().clone();
            wanted(&seen).then_some(seen)
        })
        .await
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reports may overtake each other; the one that has seen most is the newest.
async fn take(State(told): State<Arc<watch::Sender<Value>>>, body: String) {
    let weight = |seen: &Value| {
        let count = |member: &str| seen[member].as_array().map_or(0, Vec::len) as u64;
        count("seqs") + count("closed") + seen["opened"].as_u64().unwrap_or(0) + seen["failed"].as_u64().unwrap_or(0)
    };
    let seen: Value = serde_json::from_str(&body).expect("JSON");
    told.send_if_modified(|before| {
        let is_newer = weight(&seen) >= weight(before);
        if is_newer {
            *before = seen;
        }
        is_newer
    });
}

/// A browser with a profile of its own that looks at one page.
fn browse(profile: &TempDir, address: SocketAddr) -> Child {
    let folder = format!("--user-data-dir={}", profile.path().display());
    let page = format!("http://{address}/");
    let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
    let launch = |name: &&str| {
        let mut command = Command::new(name);
        command.args(flags).args(["--remote-debugging-port=0", &folder, &page]).kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    };
    NAMES.iter().find_map(launch).expect("this test needs Chromium: apt-get install chromium")
}

#[tokio::test]
#[ignore = "needs Chromium; ./test runs it where there is one"]
async fn a_browser_gets_everything_once_through_a_cut_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("http://{}", listener.local_addr().expect("it is bound"));
    let app = App::embedded_with(&[("allowed_origins", origin.as_str())]).await;
    app.conversation("room", &["alice", "bob"]).await;
    let proxy = Proxy::start(app.address(0)).await;
    let token = app.token("bob");
    let stream = format!("http://{}/v1/conversations/room/events?token={token}", proxy.address());
    let page = Page::serve(listener, stream).await;
    let profile = tempfile::tempdir().expect("a temporary folder");
    let mut browser = browse(&profile, page.address);

    let seqs = |upto: u64| move |seen: &Value| seen["seqs"] == json!((1..=upto).collect::<Vec<_>>());
    page.shows("it is open", |seen| seen["opened"] == 1).await;
    for _ in 0..5 {
        app.say("room", "alice", "live").await;
    }
    page.shows("what happens is there", seqs(5)).await;
    proxy.refuse();
    for _ in 0..20 {
        app.say("room", "alice", "missed").await;
    }
    page.shows("it notices", |seen| seen["failed"].as_u64() > Some(0)).await;
    proxy.heal();
    let seen = page.shows("what was missed is there, once and in order", seqs(25)).await;
    assert!(seen["opened"].as_u64() > Some(1), "{seen}");
    app.say("room", "alice", "live again").await;
    let seen = page.shows("it goes on", seqs(26)).await;
    assert_eq!(seen["ids"], 26, "each event had a position");
    assert_eq!(app.delete("/v1/conversations/room/participants/bob", API_KEY).await.status, 204);
    let seen = page.shows("it gives up where there is nothing to come back for", |seen| seen["state"] == 2).await;
    assert_eq!(seen["closed"], json!([4003]));
    browser.kill().await.expect("it runs");
}
