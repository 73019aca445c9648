//! Tickets: a token's stand-in for the places where an address is all a client can send.
//!
//! An address ends up in logs and histories, so what stands in it must be worth nothing a moment later: a ticket is
//! good once, for half a minute, on any instance. It is a random name for a note that the relay keeps; the note is filed
//! under the ticket's digest, so that who reads what is kept there still has no ticket.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use everpost_core::{
    clock::{now_ms, rfc3339},
    name::UserId,
    relay::Relay,
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Gateway, auth::Principal, error::ApiError};

/// Tickets one user can have in a burst, and a second.
const BURST: std::num::NonZeroU32 = std::num::NonZeroU32::MIN.saturating_add(29);
const MAX_TICKET_BYTES: usize = 128;

/// Gives tickets out and takes them back.
pub(crate) struct Tickets {
    relay: Arc<dyn Relay>,
    ttl: Duration,
    issued: DefaultKeyedRateLimiter<UserId>,
}

impl Tickets {
    pub(crate) fn new(relay: Arc<dyn Relay>, ttl: Duration) -> Self {
        let quota = Quota::per_second(std::num::NonZeroU32::MIN).allow_burst(BURST);
        Self { relay, ttl, issued: RateLimiter::keyed(quota) }
    }

    /// A ticket that stands for the caller's token.
    async fn issue(&self, principal: &Principal) -> Result<String, ApiError> {
        if self.issued.len() > 10_000 {
            self.issued.retain_recent();
        }
        self.issued.check_key(&principal.user).map_err(|_| ApiError::RateLimited)?;
        let ticket = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let note = serde_json::to_string(principal).map_err(|_| ApiError::Internal)?;
        self.relay.deposit(&name(&ticket), &note, self.ttl).await?;
        Ok(ticket)
    }

    /// Whose it is. Nobody can use it after this.
    pub(crate) async fn redeem(&self, ticket: &str) -> Result<Principal, ApiError> {
        const REFUSED: ApiError = ApiError::Unauthenticated("the ticket is not one of ours, was used or has expired");
        if ticket.len() > MAX_TICKET_BYTES {
            return Err(REFUSED);
        }
        let note = self.relay.collect(&name(ticket)).await?.ok_or(REFUSED)?;
        serde_json::from_str(&note).map_err(|_| REFUSED)
    }
}

fn name(ticket: &str) -> String {
    let digest = Sha256::digest(ticket.as_bytes());
    format!("ticket:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// `POST /v1/tickets`.
pub(super) async fn create_ticket(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
) -> Result<Response, ApiError> {
    if principal.is_backend {
        return Err(ApiError::Forbidden("tickets stand for the token of a user"));
    }
    let tickets = &gateway.auth.tickets;
    let ticket = tickets.issue(&principal).await?;
    let expires_at = rfc3339(now_ms().saturating_add(tickets.ttl.as_millis() as u64));
    let body = json!({"ticket": ticket, "expires_in": tickets.ttl.as_secs_f64(), "expires_at": expires_at});
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}
