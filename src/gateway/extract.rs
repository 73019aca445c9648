//! Paths and queries whose faults are answered as problem documents, like every other fault.

use axum::{
    extract::{FromRequestParts, Path as AnyPath, Query as AnyQuery},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// The parameters of a path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = AnyPath::from_request_parts(parts, state).await;
        found.map(|AnyPath(found)| Self(found)).map_err(|fault| ApiError::invalid("invalid_name", fault.body_text()))
    }
}

/// The parameters after the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = AnyQuery::from_request_parts(parts, state).await;
        found.map(|AnyQuery(found)| Self(found)).map_err(|fault| ApiError::invalid("bad_request", fault.body_text()))
    }
}
