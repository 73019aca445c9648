//! Taking tokens back before they run out: one by its id, or all of a user's up to now.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    routing::post,
};
use everpost_core::{
    clock::now_ms,
    name::UserId,
    store::{Revoked, Store},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::gateway::{auth::is_token_id, error::ApiError};

/// For how long all tokens of a user stay revoked, unless the request says when the last of them runs out.
const KEEP_SECONDS: u64 = 366 * 24 * 3_600;

/// The routes, below `/v1/admin`.
pub(super) fn routes(store: Arc<dyn Store>) -> Router {
    Router::new().route("/v1/admin/revocations", post(revoke)).with_state(store)
}

/// What to take back: `{jti, exp}`, or `{user_id, issued_before?, exp?}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    jti: Option<String>,
    user_id: Option<String>,
    issued_before: Option<u64>,
    exp: Option<u64>,
}

impl Wanted {
    /// What is revoked, and until when that matters, in seconds.
    fn revoked(self, now: u64) -> Result<(Revoked, u64), ApiError> {
        let bad = |why: &str| ApiError::invalid("bad_request", why);
        match self {
            Self { jti: Some(id), user_id: None, issued_before: None, exp: Some(exp) } => {
                let fine = is_token_id(&id);
                fine.then_some((Revoked::Token(id), exp)).ok_or_else(|| bad("jti has 1 to 255 bytes"))
            }
            Self { jti: None, user_id: Some(user), issued_before, exp } => {
                let user = UserId::new(user).map_err(|error| ApiError::invalid("invalid_name", error))?;
                // The second that runs is not over yet, and what is issued in it is meant as well.
                let issued_before = issued_before.unwrap_or(now + 1);
                Ok((Revoked::Tokens { user, issued_before }, exp.unwrap_or(now + KEEP_SECONDS)))
            }
            _ => Err(bad("send {jti, exp} of a token, or {user_id} and, if you like, issued_before and exp")),
        }
    }
}

/// Takes JSON only, which no page of another origin can send without being asked first.
async fn revoke(
    State(store): State<Arc<dyn Store>>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(wanted) = wanted.map_err(|_| ApiError::invalid("bad_json", "not the JSON that is taken here"))?;
    let (what, until) = wanted.revoked(now_ms() / 1_000)?;
    if !store.revoke(&what, until.saturating_mul(1_000)).await? {
        return Err(ApiError::Conflict("too_many_revocations", "too many tokens are revoked already".to_owned()));
    }
    let answer = match &what {
        Revoked::Tokens { user, issued_before } => {
            tracing::info!(%user, issued_before, "the tokens of a user were revoked");
            json!({"user_id": user, "issued_before": issued_before, "until": until})
        }
        Revoked::Token(id) => {
            tracing::info!(token = id, "a token was revoked");
            json!({"jti": id, "until": until})
        }
        Revoked::Part { .. } => return Err(ApiError::Internal), // nobody can ask for it here
    };
    Ok((StatusCode::CREATED, Json(answer)))
}
