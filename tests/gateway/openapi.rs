//! `/v1/openapi.json` describes every route there is, and none that is not.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::app::App;

const ROUTER: &str = include_str!("../../src/gateway/router.rs");
/// Pages and what they are made of; everything else is described.
const PAGES: [&str; 8] =
    ["/", "/chat.css", "/chat.js", "/client.js", "/docs", "/docs.css", "/docs.js", "/v1/openapi.json"];
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// The operations of the router's source, as `get /path`.
fn routed() -> BTreeSet<String> {
    let (versioned, rest) = ROUTER.split_once("    Router::new()\n        .route(\"/\"").expect("the router as it is");
    let of = |text: &str, prefix: &str| {
        let routes = text.split(".route(").skip(1).map(str::to_owned).collect::<Vec<_>>();
        let prefix = prefix.to_owned();
        routes.into_iter().flat_map(move |route| operations(&route, &prefix)).collect::<Vec<_>>()
    };
    let rest = rest.split(".fallback(").next().expect("a beginning");
    of(versioned, "/v1").into_iter().chain(of(rest, "")).collect()
}

fn operations(route: &str, prefix: &str) -> Vec<String> {
    let mut quoted = route.split('"');
    let (path, handlers) = (quoted.nth(1).expect("a path"), quoted.next().expect("handlers"));
    let path = format!("{prefix}{path}");
    if PAGES.contains(&path.as_str()) {
        return Vec::new();
    }
    if handlers.contains("any(") {
        return vec![format!("get {path}")]; // an upgrade
    }
    let has = |method: &&&str| handlers.contains(&format!("{method}("));
    METHODS.iter().filter(has).map(|method| format!("{method} {path}")).collect()
}

async fn described(app: &App) -> Value {
    app.get("/v1/openapi.json", "").await.ok()
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let app = App::embedded().await;
    let api = described(&app).await;
    let paths = api["paths"].as_object().expect("paths").iter();
    let described: BTreeSet<String> = paths
        .flat_map(|(path, methods)| {
            methods.as_object().expect("methods").keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    let routed = routed();
    assert!(routed.contains("get /v1/events") && routed.contains("get /ws/{conversation}"), "{routed:#?}");
    assert_eq!(described, routed);
}

#[tokio::test]
async fn every_code_that_is_described_is_ours() {
    let app = App::embedded().await;
    app.conversation("room", &["alice"]).await;
    let api = described(&app).await.to_string();
    for (path, credential) in [
        ("/v1/conversations", ""),
        ("/v1/conversations/room", &*app.token("mallory")),
        ("/v1/conversations/nowhere", &*app.token("alice")),
        ("/v1/conversations/room/messages?limit=0", &*app.token("alice")),
    ] {
        let answer = app.get(path, credential).await;
        assert!(api.contains(answer.code()), "{}", answer.code());
    }
}

#[tokio::test]
async fn people_find_it_as_a_page() {
    let app = App::embedded().await;
    let page = app.get("/docs", "").await;
    assert_eq!((page.status, page.content_type.as_str()), (200, "text/html; charset=utf-8"));
    for asset in ["/docs.css", "/docs.js"] {
        assert!(page.body.as_str().expect("text").contains(asset));
        assert_eq!(app.get(asset, "").await.status, 200);
    }
}
