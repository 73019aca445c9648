//! Conversations and messages over HTTP.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequestParts, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use everpost_core::{
    clock::{now_ms, rfc3339},
    content::MessageType,
    event::Record,
    json,
    log::Durability,
    name::{ConversationId, EventName, UserId},
    relay::{Signal, Topic},
    store::{Conversation, Created, NewConversation},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    Gateway,
    auth::Principal,
    error::ApiError,
    extract::{Path, Query},
    frame,
    publish::{self, Receipt, Sender},
    replay,
    wire::{self, RawBody},
};

const MAX_PARTICIPANTS: usize = 2_000;
const MAX_TITLE_CHARS: usize = 200;
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

impl FromRequestParts<Arc<Gateway>> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, ApiError> {
        gateway.auth.request(&parts.headers)
    }
}

/// A request body as text that may be looked into; larger, deeper or stranger ones are refused before any parsing.
fn text(body: Result<Bytes, BytesRejection>, limit: usize) -> Result<String, ApiError> {
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge(limit),
        _ => ApiError::invalid("bad_request", "the body could not be read"),
    })?;
    let text = String::from_utf8(bytes.into()).map_err(|_| ApiError::invalid("bad_json", "the body is not UTF-8"))?;
    json::scan(&text).map_err(|fault| ApiError::invalid("bad_json", fault))?;
    Ok(text)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|error| wire::unreadable(&error))
}

fn conversation_id(text: &str) -> Result<ConversationId, ApiError> {
    ConversationId::new(text).map_err(|error| ApiError::invalid("invalid_name", error))
}

fn user_id(text: &str) -> Result<UserId, ApiError> {
    UserId::new(text).map_err(|error| ApiError::invalid("invalid_name", error))
}

#[derive(Deserialize)]
struct CreateConversation {
    id: Option<String>,
    title: Option<String>,
    #[serde(default)]
    participants: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct ConversationView {
    id: ConversationId,
    title: Option<String>,
    participants: Vec<UserId>,
    created_at: String,
}

impl From<Conversation> for ConversationView {
    fn from(found: Conversation) -> Self {
        let Conversation { id, title, participants, created_ms } = found;
        Self { id, title, participants, created_at: rfc3339(created_ms) }
    }
}

pub(super) async fn create_conversation(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    principal.require_backend()?;
    let body = text(body, gateway.limits.max_message_bytes)?;
    let wanted: CreateConversation = parse(&body)?;
    let id = wanted.id.map_or_else(|| conversation_id(&uuid::Uuid::now_v7().to_string()), |id| conversation_id(&id))?;
    if wanted.title.as_ref().is_some_and(|title| title.chars().count() > MAX_TITLE_CHARS || title.contains('\0')) {
        return Err(ApiError::invalid("invalid_title", format!("a title has at most {MAX_TITLE_CHARS} characters")));
    }
    if wanted.participants.len() > MAX_PARTICIPANTS {
        let most = format!("at most {MAX_PARTICIPANTS} participants at once; add more with PUT");
        return Err(ApiError::invalid("too_many_participants", most));
    }
    let participants = wanted.participants.iter().map(|name| user_id(name)).collect::<Result<Vec<_>, _>>()?;
    let new = NewConversation { id, title: wanted.title, participants, created_ms: now_ms() };
    let created = gateway.store.create(&new).await?;
    let found = gateway.store.conversation(&new.id).await?.ok_or(ApiError::Internal)?;
    match created {
        Created::New => {
            for user in &found.participants {
                gateway.announce_joined(&found.id, user).await?;
            }
            Ok((StatusCode::CREATED, Json(ConversationView::from(found))).into_response())
        }
        Created::Exists => {
            Err(ApiError::Conflict("conversation_exists", "a conversation of that name exists".to_owned()))
        }
    }
}

pub(super) async fn list_conversations(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
) -> Result<Response, ApiError> {
    let ids = gateway.reads.conversations_of(&principal.user).await?;
    let found = gateway.store.conversations(&ids).await?;
    let views: Vec<ConversationView> = found.into_iter().map(Into::into).collect();
    Ok(Json(serde_json::json!({ "conversations": views })).into_response())
}

pub(super) async fn get_conversation(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<ConversationView>, ApiError> {
    let id = conversation_id(&id)?;
    gateway.authorise(&principal, &id).await?;
    let found = gateway.store.conversation(&id).await?;
    found.map(|found| Json(found.into())).ok_or(ApiError::NotFound("conversation"))
}

pub(super) async fn add_participant(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    principal.require_backend()?;
    let (id, user) = (conversation_id(&id)?, user_id(&user)?);
    let new = gateway.store.add_participant(&id, &user).await?.ok_or(ApiError::NotFound("conversation"))?;
    if new {
        gateway.announce_joined(&id, &user).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_participant(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let (id, user) = (conversation_id(&id)?, user_id(&user)?);
    if principal.user != user {
        principal.require_backend()?; // anybody may leave, only a backend removes others
    }
    let was = gateway.store.remove_participant(&id, &user).await?.ok_or(ApiError::NotFound("conversation"))?;
    if was {
        let signal = Signal::Left { conversation: id, user: user.clone() };
        gateway.tell(Topic::User(user), signal).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

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
    let key = wire::key(idempotency_key(&headers)?)?;
    let draft = publish::message_draft(id.clone(), &Sender { id: &user, kind: &kind }, key, &body)?;
    let own = frame::message(&Record::place(&draft, 0, everpost_core::position::Position::ZERO));
    let receipt = gateway.publish(draft).await?;
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

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
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
struct PostEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    data: &'a RawValue,
    conversation_id: Option<String>,
}

/// Names the service itself gives to frames; nobody publishes under them.
const RESERVED: [&str; 9] =
    ["connected", "ack", "stored", "error", "ping", "pong", "replay_started", "replay_finished", "new_message"];

pub(super) async fn post_event(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let text = text(body, gateway.limits.max_message_bytes)?;
    let event: PostEvent<'_> = parse(&text)?;
    let name = EventName::new(&event.kind).map_err(|error| ApiError::invalid("invalid_name", error))?;
    if RESERVED.contains(&name.as_str()) || name.as_str() == EventName::TOMBSTONE {
        return Err(ApiError::invalid("reserved_type", "this event type is the service's own"));
    }
    if !event.data.get().starts_with('{') {
        return Err(ApiError::invalid("bad_frame", "data must be a JSON object"));
    }
    let id = event.conversation_id.ok_or_else(|| ApiError::invalid("bad_frame", "conversation_id is missing"))?;
    let id = conversation_id(&id)?;
    gateway.may_publish(&principal, &id).await?;
    let sender = Sender { id: &principal.user, kind: &principal.sender_type };
    let key = wire::key(idempotency_key(&headers)?)?;
    let receipt = gateway.publish(publish::event_draft(id, name, &sender, key, event.data)).await?;
    let status = if receipt.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let answer = serde_json::json!({
        "event_id": receipt.message_id, "seq": receipt.seq,
        "duplicate": receipt.duplicate, "durability": receipt.durability,
    });
    Ok((status, Json(answer)).into_response())
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
    let typing: PostTyping = parse(&text)?;
    gateway.may_publish(&principal, &id).await?;
    let data = serde_json::json!({"user_id": principal.user, "is_typing": typing.is_typing});
    gateway.signal(id, "typing", &data).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Gateway {
    async fn may_publish(&self, principal: &Principal, conversation: &ConversationId) -> Result<(), ApiError> {
        self.authorise(principal, conversation).await?;
        let allowed = principal.is_backend || self.admission.may_publish(&principal.user);
        if allowed { Ok(()) } else { Err(ApiError::RateLimited) }
    }

    async fn publish(&self, draft: everpost_core::event::Draft) -> Result<Receipt, ApiError> {
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

    /// Tells a user's open connections that they take part in a conversation from now on.
    async fn announce_joined(&self, conversation: &ConversationId, user: &UserId) -> Result<(), ApiError> {
        let partition = self.partitions.of(conversation.as_str());
        let end = self.reads.ends().await?.get(partition.index()).copied().unwrap_or_default();
        let (conversation, user) = (conversation.clone(), user.clone());
        let topic = Topic::User(user.clone());
        self.tell(topic, Signal::Joined { conversation, user, from: end.to_column() }).await
    }
}
