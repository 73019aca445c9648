//! Every route of the client listener, on one screen.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware::{from_fn_with_state, map_response},
    response::IntoResponse,
    routing::{any, get, post, put},
};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    Gateway, body, conversations, error::ApiError, events, messages, origin, overviews, page, presence, sse, tickets,
    ws,
};

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    let v1 = Router::new()
        .route("/conversations", post(conversations::create_conversation).get(overviews::list_conversations))
        .route("/conversations/{id}", get(overviews::get_conversation))
        .route(
            "/conversations/{id}/participants/{user}",
            put(conversations::add_participant).delete(conversations::remove_participant),
        )
        .route("/conversations/{id}/messages", post(messages::post_message).get(messages::get_messages))
        .route("/conversations/{id}/read", post(messages::post_read))
        .route("/conversations/{id}/typing", post(messages::post_typing))
        .route("/conversations/{id}/events", get(sse::conversation))
        .route("/events", post(events::post_event).get(sse::everything))
        .route("/tickets", post(tickets::create_ticket))
        .route("/users/{id}/presence", get(presence::get_presence))
        .route("/openapi.json", get(page::openapi))
        .route("/ws", any(ws::everything))
        .route("/ws/{conversation}", any(ws::conversation));
    Router::new()
        .route("/", get(page::index))
        .route("/chat.css", get(page::style))
        .route("/chat.js", get(page::chat))
        .route("/client.js", get(page::client))
        .route("/docs", get(page::docs))
        .route("/docs.css", get(page::docs_style))
        .route("/docs.js", get(page::docs_script))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/ws/{conversation}", any(ws::conversation))
        .nest("/v1", v1)
        .fallback(|| async { ApiError::NotFound("resource") })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(from_fn_with_state(gateway.clone(), body::read))
        .layer(DefaultBodyLimit::max(gateway.limits.max_message_bytes))
        .layer(CatchPanicLayer::custom(|_| ApiError::Internal.into_response()))
        .layer(origin::cors(&gateway.allowed_origins))
        .layer(map_response(page::harden))
        .with_state(gateway)
}

/// Ready while the log and the database answer and the process is not stopping.
async fn ready(State(gateway): State<Arc<Gateway>>) -> Result<&'static str, ApiError> {
    if gateway.stopping.is_cancelled() {
        return Err(ApiError::Unavailable("the service is stopping"));
    }
    let both = async { tokio::try_join!(gateway.reads.ends(), gateway.reads.stored()) };
    let answered = tokio::time::timeout(std::time::Duration::from_secs(1), both).await;
    answered.map_err(|_| ApiError::Unavailable("the log or the database does not answer"))??;
    Ok("ready\n")
}
