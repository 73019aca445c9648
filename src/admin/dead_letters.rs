//! Dead letters over HTTP: looking through them, putting their events back, giving them up.
//!
//! A payload is shown only to who asks for it, and whoever decides about a letter or looks into one leaves a line in the
//! log.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use everpost_core::{
    clock::{now_ms, rfc3339},
    name::ConversationId,
    role::Role,
    store::{DeadLetter, Decision, Fate, Redriven, Sieve, Store},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::gateway::{
    error::ApiError,
    extract::{Path, Query},
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// Who decides and why, in characters each.
const MAX_WORDS: usize = 300;

type Shared = State<Arc<dyn Store>>;

/// The routes, below `/v1/admin`.
pub(super) fn routes(store: Arc<dyn Store>) -> Router {
    Router::new()
        .route("/v1/admin/dead-letters", get(list))
        .route("/v1/admin/dead-letters/{id}", get(show).delete(delete))
        .route("/v1/admin/dead-letters/{id}/redrive", post(redrive))
        .with_state(store)
}

/// A dead letter as it is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Letter {
    /// What to name it by.
    pub id: Uuid,
    /// `dead`, `redriven` or `deleted`.
    pub state: String,
    /// Which role gave it up.
    pub role: String,
    /// Why: `refused`, `unreadable` or `crash`.
    pub reason: String,
    /// The cause in words.
    pub detail: String,
    /// Where it belongs, as far as that is legible; so for the following.
    pub conversation_id: Option<String>,
    /// Its number there.
    pub seq: Option<u64>,
    /// Its type.
    pub event: Option<String>,
    /// Its identity.
    pub message_id: Option<Uuid>,
    /// Who sent it.
    pub sender_id: Option<String>,
    /// The sender's idempotency key.
    pub key: Option<String>,
    /// Where it was read.
    pub partition: u16,
    /// Its place there, `generation-offset`.
    pub position: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed first.
    pub first_failed_at: String,
    /// When it failed last.
    pub last_failed_at: String,
    /// Who decided about it.
    pub decided_by: Option<String>,
    /// Why.
    pub decided_why: Option<String>,
    /// When.
    pub decided_at: Option<String>,
    /// What was in it, if that was asked for and is still there: JSON, or text in base64 for anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let decision = letter.decision;
        Self {
            id: letter.id,
            state: letter.fate.to_string(),
            role: letter.role,
            reason: letter.reason,
            detail: letter.detail,
            conversation_id: letter.conversation,
            seq: letter.seq,
            event: letter.event,
            message_id: letter.message_id,
            sender_id: letter.sender,
            key: letter.key,
            partition: letter.partition,
            position: format!("{:?}", letter.position),
            attempts: letter.attempts,
            first_failed_at: rfc3339(letter.first_failed_ms).to_string(),
            last_failed_at: rfc3339(letter.last_failed_ms).to_string(),
            decided_by: decision.as_ref().map(|decision| decision.by.clone()),
            decided_why: decision.as_ref().map(|decision| decision.why.clone()),
            decided_at: decision.map(|decision| rfc3339(decision.at_ms).to_string()),
            payload: None,
        }
    }
}

/// A page of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Letters {
    /// In the order they came.
    pub dead_letters: Vec<Letter>,
    /// How many there are in all.
    pub total: u64,
    /// What to ask for as `after` to get the next page; none after the last.
    pub next: Option<Uuid>,
}

#[derive(Deserialize)]
struct Which {
    role: Option<String>,
    conversation_id: Option<String>,
    state: Option<String>,
    after: Option<Uuid>,
    limit: Option<usize>,
}

impl Which {
    fn sieve(&self) -> Result<Sieve, ApiError> {
        let bad = |error: &dyn std::error::Error| ApiError::invalid("bad_request", error);
        Ok(Sieve {
            role: self.role.as_deref().map(str::parse::<Role>).transpose().map_err(|error| bad(&error))?,
            conversation: self.conversation_id.as_deref().map(ConversationId::new).transpose().map_err(|e| bad(&e))?,
            fate: self.state.as_deref().map(str::parse::<Fate>).transpose().map_err(|error| bad(&error))?,
        })
    }
}

async fn list(State(store): Shared, Query(which): Query<Which>) -> Result<Json<Letters>, ApiError> {
    let (sieve, limit) = (which.sieve()?, which.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT));
    let mut found = store.dead_letters(&sieve, which.after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().map(|letter| letter.id).filter(|_| more);
    let total = store.count_dead_letters(&sieve).await?;
    Ok(Json(Letters { dead_letters: found.into_iter().map(Letter::from).collect(), total, next }))
}

#[derive(Deserialize)]
struct Look {
    #[serde(default)]
    payload: bool,
}

async fn show(State(store): Shared, Path(id): Path<Uuid>, Query(look): Query<Look>) -> Result<Json<Letter>, ApiError> {
    let mut letter = Letter::from(store.dead_letter(id).await?.ok_or(NO_SUCH)?);
    if look.payload {
        tracing::info!(%id, "somebody looks into a dead letter");
        letter.payload = store.dead_letter_payload(id).await?.map(payload);
    }
    Ok(Json(letter))
}

const NO_SUCH: ApiError = ApiError::NotFound("dead letter");

fn payload(bytes: Vec<u8>) -> Value {
    serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(STANDARD.encode(&bytes)))
}

/// Who decides, and why.
#[derive(Debug, Serialize, Deserialize)]
pub struct Wish {
    /// Who.
    pub by: String,
    /// Why.
    #[serde(default)]
    pub why: String,
}

impl Wish {
    fn decision(self) -> Result<Decision, ApiError> {
        let fine = |text: &str| text.chars().count() <= MAX_WORDS && !text.chars().any(char::is_control);
        if self.by.is_empty() || !fine(&self.by) || !fine(&self.why) {
            let words = format!("by and why are one line of at most {MAX_WORDS} characters, by must be given");
            return Err(ApiError::invalid("bad_request", words));
        }
        Ok(Decision { by: self.by, why: self.why, at_ms: now_ms() })
    }
}

/// What became of a wish.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Of which letter.
    pub id: Uuid,
    /// The state it has now.
    pub state: String,
    /// Whether that is news.
    pub changed: bool,
}

/// Takes JSON only, which no page of another origin can send without being asked first.
async fn redrive(
    State(store): Shared,
    Path(id): Path<Uuid>,
    wish: Result<Json<Wish>, JsonRejection>,
) -> Result<Json<Outcome>, ApiError> {
    let Json(wish) = wish.map_err(|fault| ApiError::invalid("bad_json", fault.body_text()))?;
    let decision = wish.decision()?;
    let redriven = store.redrive(id, &decision).await?;
    tracing::info!(%id, by = decision.by, outcome = ?redriven, "a dead letter was to be redriven");
    let state = Fate::Redriven.to_string();
    match redriven {
        Redriven::Done => Ok(Json(Outcome { id, state, changed: true })),
        Redriven::Already => Ok(Json(Outcome { id, state, changed: false })),
        Redriven::Unknown => Err(NO_SUCH),
        Redriven::Refused(why) => Err(ApiError::Conflict("refused", why)),
    }
}

async fn delete(
    State(store): Shared,
    Path(id): Path<Uuid>,
    Query(wish): Query<Wish>,
) -> Result<Json<Outcome>, ApiError> {
    let decision = wish.decision()?;
    let changed = store.delete_dead_letter(id, &decision).await?.ok_or(NO_SUCH)?;
    tracing::info!(%id, by = decision.by, changed, "a dead letter was deleted");
    Ok(Json(Outcome { id, state: Fate::Deleted.to_string(), changed }))
}
