//! Messages over HTTP: publishing, pages, read marks, typing.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use everpost_core::{
    content::MessageType,
    event::Record,
    log::Durability,
    name::{ConversationId, UserId},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    Gateway,
    auth::Principal,
    error::ApiError,
    extract::{Path, Query, conversation_id, parse, text, user_id},
    frame,
    publish::{self, Receipt, Sender},
    replay, typing,
    wire::{self, RawBody},
};

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// What a message has beside its body; backends publish for anybody.
#[derive(Deserialize)]
struct PostMessage {
    #[serde(rename = "type")]
    kind: MessageType,
    sender_id: Option<String>,
    sender_type: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct PublishParameters {
    wait: Option<String>,
}

impl PublishParameters {
    /// `?wait=stored` answers only when the database has the event.
    fn waits(&self) -> Result<bool, ApiError> {
        match self.wait.as_deref() {
            None => Ok(false),
            Some("stored") => Ok(true),
            Some(_) => Err(ApiError::invalid("bad_request", "wait can only be: stored")),
        }
    }
}

pub(super) async fn post_message(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
    Query(parameters): Query<PublishParameters>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let id = conversation_id(&id)?;
    let waits = parameters.waits()?;
    let text = text(body, gateway.limits.max_message_bytes)?;
    let message: PostMessage = parse(&text)?;
    let body = parse::<RawBody<'_>>(&text)?.check(message.kind)?;
    let (user, kind) = principal.sends_as(message)?;
    gateway.may_publish(&principal, &id).await?;
    gateway.has_room_for(&user)?;
    let key = wire::key(idempotency_key(&headers)?)?;
    let draft = publish::message_draft(id.clone(), &Sender { id: &user, kind: &kind }, key, &body)?;
    let own = frame::message(&Record::place(&draft, 0, everpost_core::position::Position::ZERO));
    let receipt = gateway.publish(draft).await?;
    if !principal.is_backend || user != principal.user {
        gateway.receipts.published(id.clone(), user, receipt.seq);
    }
    let durability = if waits { gateway.wait_until_stored(&id, &receipt).await? } else { receipt.durability };
    let stored = if receipt.duplicate { gateway.message(&id, receipt.seq).await? } else { own };
    let message = with_seq(&stored.ok_or(ApiError::Internal)?, receipt.seq)?;
    let status = if receipt.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let answer = serde_json::json!({"message": message, "duplicate": receipt.duplicate, "durability": durability});
    Ok((status, Json(answer)).into_response())
}

/// Puts the number into a message that was rendered before it had one.
fn with_seq(message: &RawValue, seq: u64) -> Result<serde_json::Value, ApiError> {
    let mut message: serde_json::Value = serde_json::from_str(message.get()).map_err(|_| ApiError::Internal)?;
    message["seq"] = seq.into();
    Ok(message)
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let key = headers.get("idempotency-key").map(|key| key.to_str());
    key.transpose().map_err(|_| ApiError::invalid("invalid_key", "an idempotency key is printable ASCII"))
}

impl Principal {
    fn sends_as(&self, wanted: PostMessage) -> Result<(UserId, String), ApiError> {
        match wanted.sender_id {
            Some(id) if self.is_backend => {
                let kind = wanted.sender_type.filter(|kind| kind.len() <= 32);
                Ok((user_id(&id)?, kind.unwrap_or_else(|| "user".to_owned())))
            }
            Some(id) if id != self.user.as_str() => {
                Err(ApiError::Forbidden("sender_id is for backends; yours comes from your token"))
            }
            _ => Ok((self.user.clone(), self.sender_type.clone())),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct PageParameters {
    after: Option<u64>,
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn get_messages(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
    Query(parameters): Query<PageParameters>,
) -> Result<Response, ApiError> {
    let id = conversation_id(&id)?;
    gateway.authorise(&principal, &id).await?;
    let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid("invalid_limit", format!("limit is 1 to {MAX_LIMIT}")));
    }
    let records = match (parameters.after, parameters.before) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("bad_request", "give after or before, not both")),
        (Some(after), None) => replay::after(&gateway.reads, gateway.partitions, &id, after, limit).await?,
        (None, before) => gateway.before(&id, before, limit).await?,
    };
    let messages: Vec<_> = records.iter().filter_map(frame::message).collect();
    Ok(Json(serde_json::json!({ "messages": messages })).into_response())
}

#[derive(Deserialize)]
struct PostRead {
    seq: u64,
}

pub(super) async fn post_read(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let id = conversation_id(&id)?;
    let text = text(body, gateway.limits.max_message_bytes)?;
    let read: PostRead = parse(&text)?;
    gateway.may_publish(&principal, &id).await?;
    gateway.mark_read(id, &principal.user, read.seq).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct PostTyping {
    is_typing: bool,
}

pub(super) async fn post_typing(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let id = conversation_id(&id)?;
    let text = text(body, gateway.limits.max_message_bytes)?;
    let wanted: PostTyping = parse(&text)?;
    gateway.may_publish(&principal, &id).await?;
    gateway.whisper(id, typing::EVENT, &typing::said(&principal.user, wanted.is_typing)).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Gateway {
    pub(super) async fn may_publish(
        &self,
        principal: &Principal,
        conversation: &ConversationId,
    ) -> Result<(), ApiError> {
        self.authorise(principal, conversation).await?;
        let allowed = principal.is_backend || self.admission.may_publish(&principal.user);
        if allowed { Ok(()) } else { Err(ApiError::RateLimited) }
    }

    pub(super) async fn publish(&self, draft: everpost_core::event::Draft) -> Result<Receipt, ApiError> {
        let (answer, answered) = oneshot::channel();
        let reply = Box::new(|outcome| drop(answer.send(outcome)));
        self.publisher.publish(draft, reply).await;
        answered.await.map_err(|_| ApiError::Unavailable("the service is stopping"))?
    }

    async fn wait_until_stored(&self, id: &ConversationId, receipt: &Receipt) -> Result<Durability, ApiError> {
        self.stored.wait(self.partitions.of(id.as_str()), receipt.position).await?;
        Ok(Durability::Stored)
    }

    /// One message by its number, stored or not yet.
    async fn message(&self, conversation: &ConversationId, seq: u64) -> Result<Option<Box<RawValue>>, ApiError> {
        let found = replay::after(&self.reads, self.partitions, conversation, seq.saturating_sub(1), 1).await?;
        Ok(found.first().and_then(frame::message))
    }

    /// The last records before a number, stored or not yet.
    async fn before(
        &self,
        conversation: &ConversationId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Record>, ApiError> {
        let top = self.reads.top(conversation).await?.seq;
        let mut unstored = Vec::new();
        if before.is_none_or(|before| before > top + 1) {
            unstored = replay::after(&self.reads, self.partitions, conversation, top, usize::MAX).await?;
        }
        let within = |record: &Record| record.event().is_ok_and(|event| before.is_none_or(|before| event.seq < before));
        unstored.retain(within);
        let missing = limit.saturating_sub(unstored.len());
        let first = unstored.first().and_then(|record| record.event().ok()).map(|event| event.seq);
        let upto = first.or(before);
        let mut records =
            if missing == 0 { Vec::new() } else { self.store.before(conversation, upto, missing).await? };
        records.extend(unstored);
        records.drain(..records.len().saturating_sub(limit));
        Ok(records)
    }
}
