//! The admin listener: health, metrics, status and dead letters, apart from what clients reach.

pub mod dead_letters;
mod guard;
pub mod status;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use everpost_workers::{Ports, Pressure};
use prometheus_client::{encoding::text::encode, registry::Registry};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin listener tells about.
pub struct Admin {
    /// What the process counts.
    pub registry: Registry,
    /// What it works with.
    pub ports: Ports,
    /// What it knows of the log.
    pub pressure: Pressure,
    /// Where events live, for people.
    pub engine: String,
}

type Shared = Arc<Admin>;

/// Serves health, metrics and status until told to stop. With a key, every request needs it.
pub async fn serve(
    listener: tokio::net::TcpListener,
    admin: Admin,
    key: Option<SecretString>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let key: guard::Key = key.map(Arc::new);
    let (dead_letters, admin) = (dead_letters::routes(admin.ports.store.clone()), Arc::new(admin));
    let routes = Router::new()
        .route("/", get(|| async { "Everpost admin: /metrics, /healthz, /v1/admin/status, /v1/admin/dead-letters\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/v1/admin/status", get(status::get_status))
        .with_state(admin)
        .merge(dead_letters)
        .layer(middleware::from_fn_with_state(key, guard::guard));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(State(admin): State<Shared>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
