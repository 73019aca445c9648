//! Request bodies: read whole before anybody looks at them, within a size and a time.
//!
//! Without the time, whoever promises a body and never sends it would keep a connection and a task for nothing.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{FromRequest, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{Gateway, error::ApiError};

pub(super) async fn read(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    match whole(&gateway, request).await {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn whole(gateway: &Gateway, request: Request) -> Result<Request, ApiError> {
    let limit = gateway.limits.max_message_bytes;
    if request.body().size_hint().lower() > limit as u64 {
        return Err(ApiError::TooLarge(limit)); // by its own account
    }
    let (parts, body) = request.into_parts();
    let reading = Bytes::from_request(Request::from_parts(parts.clone(), body), &());
    let read = timeout(gateway.limits.request_timeout, reading).await.map_err(|_| ApiError::Late)?;
    let bytes = read.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(limit),
        _ => ApiError::invalid("bad_request", "the body could not be read"),
    })?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}
