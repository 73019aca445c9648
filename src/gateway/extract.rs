//! What a request carries: caller, path, query and body. Each fault is answered as a problem document.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, Path as AnyPath, Query as AnyQuery, rejection::BytesRejection},
    http::{StatusCode, request::Parts},
};
use everpost_core::{
    json,
    name::{ConversationId, UserId},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Gateway, auth::Principal, error::ApiError, wire};

/// The parameters of a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = AnyPath::from_request_parts(parts, state).await;
        found.map(|AnyPath(found)| Self(found)).map_err(|fault| ApiError::invalid("invalid_name", fault.body_text()))
    }
}

/// The parameters after the question mark.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = AnyQuery::from_request_parts(parts, state).await;
        found.map(|AnyQuery(found)| Self(found)).map_err(|fault| ApiError::invalid("bad_request", fault.body_text()))
    }
}

impl FromRequestParts<Arc<Gateway>> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        gateway.auth.request(&parts.headers).await
    }
}

/// A request body as text that may be looked into; larger, deeper or stranger ones are refused before any parsing.
pub(super) fn text(body: Result<Bytes, BytesRejection>, limit: usize) -> Result<String, ApiError> {
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(limit),
        _ => ApiError::invalid("bad_request", "the body could not be read"),
    })?;
    let text = String::from_utf8(bytes.into()).map_err(|_| ApiError::invalid("bad_json", "the body is not UTF-8"))?;
    json::scan(&text).map_err(|fault| ApiError::invalid("bad_json", fault))?;
    Ok(text)
}

pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| wire::unreadable(&error))
}

pub(super) fn conversation_id(text: &str) -> Result<ConversationId, ApiError> {
    ConversationId::new(text).map_err(|error| ApiError::invalid("invalid_name", error))
}

pub(super) fn user_id(text: &str) -> Result<UserId, ApiError> {
    UserId::new(text).map_err(|error| ApiError::invalid("invalid_name", error))
}
