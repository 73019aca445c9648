//! The edge: every failure a client can see, with its code, status and whether trying again helps.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use everpost_core::{coalesce::Stopped, content::InvalidContent, log::LogError, retry::Policy, store::StoreError};
use serde_json::json;

/// How long a publisher waits at least before it tries an overloaded service again.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// And the random time on top of it.
const SPREAD: Policy = Policy { base: Duration::from_secs(4), cap: Duration::from_secs(4) };

/// A failure in the words of the interface. Codes are stable, texts are for people.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{1}")]
    BadRequest(&'static str, String),
    #[error("no valid token: {0}")]
    Unauthenticated(&'static str),
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("there is no {0} of that name")]
    NotFound(&'static str),
    #[error("this resource does not answer that method")]
    MethodNotAllowed,
    #[error("{1}")]
    Conflict(&'static str, String),
    #[error("the request is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the request did not arrive in time")]
    Late,
    #[error("too many requests; slow down")]
    RateLimited,
    #[error("{0}")]
    TooManyConnections(&'static str),
    #[error("the service takes no more events at the moment; the same request will succeed later")]
    Overloaded { retry_after: Duration },
    #[error("too many are connecting at once; come back in a while")]
    Crowded { retry_after: Duration },
    #[error("the service cannot do this right now: {0}")]
    Unavailable(&'static str),
    #[error("something failed on our side")]
    Internal,
}

impl ApiError {
    pub(crate) fn invalid(code: &'static str, why: impl ToString) -> Self {
        Self::BadRequest(code, why.to_string())
    }

    /// Asks to come back in a while.
    pub(crate) fn overloaded() -> Self {
        Self::Overloaded { retry_after: some_wait() }
    }

    /// The same for whoever wants to connect.
    pub(crate) fn crowded() -> Self {
        Self::Crowded { retry_after: SHORTEST_WAIT + SPREAD.delay(0) }
    }

    /// How long whoever asks again should wait, where the usual second would be too short.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } | Self::Crowded { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// The stable word for it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(code, _) | Self::Conflict(code, _) => code,
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound("conversation") => "unknown_conversation",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::TooLarge(_) => "too_large",
            Self::Late => "request_timeout",
            Self::RateLimited => "rate_limited",
            Self::TooManyConnections(_) => "too_many_connections",
            Self::Overloaded { .. } | Self::Crowded { .. } => "overloaded",
            Self::Unavailable(_) => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Whether the same request can succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Late
                | Self::RateLimited
                | Self::TooManyConnections(_)
                | Self::Overloaded { .. }
                | Self::Crowded { .. }
                | Self::Unavailable(_)
                | Self::Internal
        )
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(..) => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(..) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::RateLimited | Self::TooManyConnections(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded { .. } | Self::Crowded { .. } | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// How long to wait before another try, each time another time, so that those who wait do not come all at once.
pub(crate) fn some_wait() -> Duration {
    SHORTEST_WAIT + SPREAD.delay(0)
}

/// As clients are told it.
pub(crate) fn wait_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// A problem document, RFC 9457.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "code": self.code(),
            "retryable": self.is_retryable(),
            "detail": self.to_string(),
        });
        let wait = self.retry_after();
        if let Some(wait) = wait {
            problem["retry_after_ms"] = wait_ms(wait).into();
        }
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.is_retryable() {
            let seconds = wait.map_or(1, |wait| wait.as_millis().div_ceil(1_000) as u64);
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Full => Self::overloaded(),
            error if error.is_retryable() => Self::Unavailable("the event log does not answer"),
            error => {
                tracing::error!(%error, "the log failed");
                Self::Internal
            }
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            return Self::Unavailable("the database does not answer");
        }
        tracing::error!(%error, cause = ?std::error::Error::source(&error), "the store failed");
        Self::Internal
    }
}

impl From<Stopped> for ApiError {
    fn from(_: Stopped) -> Self {
        Self::Unavailable("the service is stopping")
    }
}

impl From<InvalidContent> for ApiError {
    fn from(error: InvalidContent) -> Self {
        Self::invalid("invalid_content", error)
    }
}
