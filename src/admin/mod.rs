//! The admin listener: health and metrics, apart from what clients reach.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::gateway::auth::is_same_secret;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves health and metrics until told to stop. With a key, every request needs it.
pub async fn serve(
    listener: tokio::net::TcpListener,
    registry: Arc<Registry>,
    key: Option<SecretString>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/", get(|| async { "Everpost admin: /metrics, /healthz\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(registry)
        .layer(middleware::from_fn_with_state(key.map(Arc::new), guard));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn guard(
    State(key): State<Option<Arc<SecretString>>>,
    headers: HeaderMap,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let open = key.is_none_or(|key| given.is_some_and(|given| is_same_secret(given, key.expose_secret())));
    if open { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
}
