//! Conversations and who takes part in them, over HTTP.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use everpost_core::{
    clock::{now_ms, rfc3339},
    name::{ConversationId, UserId},
    position::Position,
    relay::{Signal, Topic},
    store::{Conversation, Created, NewConversation},
};
use serde::{Deserialize, Serialize};

use super::{
    Gateway,
    auth::Principal,
    error::ApiError,
    extract::{Path, conversation_id, parse, text, user_id},
};

const MAX_PARTICIPANTS: usize = 2_000;
const MAX_TITLE_CHARS: usize = 200;

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
    let from = gateway.end_of(&new.id).await?;
    let created = gateway.store.create(&new).await?;
    let found = gateway.store.conversation(&new.id).await?.ok_or(ApiError::Internal)?;
    match created {
        Created::New => {
            for user in &found.participants {
                gateway.announce_joined(&found.id, user, from).await?;
            }
            Ok((StatusCode::CREATED, Json(ConversationView::from(found))).into_response())
        }
        Created::Exists => {
            Err(ApiError::Conflict("conversation_exists", "a conversation of that name exists".to_owned()))
        }
    }
}

pub(super) async fn add_participant(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    principal.require_backend()?;
    let (id, user) = (conversation_id(&id)?, user_id(&user)?);
    // Looked up first: whatever is published once they are in comes after it.
    let from = gateway.end_of(&id).await?;
    let new = gateway.store.add_participant(&id, &user).await?.ok_or(ApiError::NotFound("conversation"))?;
    if new {
        gateway.announce_joined(&id, &user, from).await?;
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

impl Gateway {
    /// Tells a user's open connections that they take part in a conversation from a position on.
    async fn announce_joined(&self, id: &ConversationId, user: &UserId, from: Position) -> Result<(), ApiError> {
        let (conversation, user, from) = (id.clone(), user.clone(), from.to_column());
        let topic = Topic::User(user.clone());
        self.tell(topic, Signal::Joined { conversation, user, from }).await
    }

    /// The end of a conversation's partition.
    async fn end_of(&self, id: &ConversationId) -> Result<Position, ApiError> {
        let partition = self.partitions.of(id.as_str());
        Ok(self.reads.ends().await?.get(partition.index()).copied().unwrap_or_default())
    }
}
