//! Gateways and their connections, over all instances.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use everpost_core::{
    clock::rfc3339,
    log::LogError,
    name::{ConversationId, InstanceId, UserId},
    roster::Entry,
};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Admin, Shared};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Which connections are asked for: those of a user, of those who take part in a conversation, of one gateway, or all.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    user_id: Option<UserId>,
    conversation_id: Option<ConversationId>,
    instance_id: Option<InstanceId>,
    /// `next` of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

/// The last connection of a page, and the gateway it is at.
type Point = (InstanceId, Uuid);

pub(super) async fn get_instances(State(admin): State<Shared>) -> Response {
    match admin.instances().await {
        Ok(instances) => Json(json!({ "instances": instances })).into_response(),
        Err(error) => unavailable(&error),
    }
}

pub(super) async fn get_connections(State(admin): State<Shared>, Query(asked): Query<Asked>) -> Response {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let after = match asked.after.as_deref().map(point) {
        Some(None) => return (StatusCode::BAD_REQUEST, "after is not what an answer gave as next\n").into_response(),
        after => after.flatten(),
    };
    let found = match (&asked.user_id, &asked.conversation_id) {
        (Some(user), _) => admin.of_users(std::slice::from_ref(user)).await.map(|entries| (entries, None)),
        (None, Some(conversation)) => admin.of_conversation(conversation).await.map(|entries| (entries, None)),
        (None, None) => admin.connections(asked.instance_id.as_ref(), after, limit).await,
    };
    match found {
        Ok((entries, next)) => {
            let connections: Vec<Value> = entries.iter().map(view).collect();
            Json(json!({"connections": connections, "next": next})).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &LogError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
}

fn point(text: &str) -> Option<Point> {
    let (instance, connection) = text.split_once('.')?;
    Some((InstanceId::new(instance).ok()?, Uuid::try_parse(connection).ok()?))
}

fn view(entry: &Entry) -> Value {
    json!({
        "connection_id": entry.connection_id,
        "user_id": entry.user_id,
        "instance_id": entry.instance_id,
        "conversation_id": entry.conversation_id,
        "device_id": entry.device_id,
        "device_type": entry.device_type,
        "connected_at": rfc3339(entry.connected_ms),
        "address": entry.address,
        "user_agent": entry.user_agent,
    })
}

impl Admin {
    async fn known(&self) -> Result<Vec<InstanceId>, LogError> {
        let mut instances = self.ports.relay.instances().await?;
        instances.sort_unstable();
        Ok(instances)
    }

    async fn instances(&self) -> Result<Vec<Value>, LogError> {
        let mut views = Vec::new();
        for instance in self.known().await? {
            let connections = self.ports.roster.count(&instance).await?;
            views.push(json!({"instance_id": instance, "connections": connections}));
        }
        Ok(views)
    }

    async fn of_users(&self, users: &[UserId]) -> Result<Vec<Entry>, LogError> {
        Ok(self.ports.roster.of_users(users).await?.into_iter().flatten().collect())
    }

    /// The connections that can hear a conversation: those for everything of its participants, and those for it alone.
    async fn of_conversation(&self, id: &ConversationId) -> Result<Vec<Entry>, LogError> {
        let found = self.ports.store.conversation(id).await.map_err(LogError::unavailable)?;
        let mut entries = self.of_users(&found.map(|found| found.participants).unwrap_or_default()).await?;
        entries.retain(|entry| entry.conversation_id.as_ref().is_none_or(|only| only == id));
        entries.truncate(MAX_LIMIT);
        Ok(entries)
    }

    /// A page over all gateways, one after the other, and where the next one begins.
    async fn connections(
        &self,
        only: Option<&InstanceId>,
        after: Option<Point>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<String>), LogError> {
        let mut entries: Vec<Entry> = Vec::new();
        for instance in self.known().await? {
            let point = after.as_ref().map(|(at, connection)| (at.cmp(&instance), *connection));
            let from = match point {
                Some((std::cmp::Ordering::Greater, _)) => continue,
                Some((std::cmp::Ordering::Equal, connection)) => Some(connection),
                _ => None,
            };
            if entries.len() < limit && only.is_none_or(|only| *only == instance) {
                entries.extend(self.ports.roster.page(&instance, from, limit - entries.len()).await?);
            }
        }
        let last = entries.last().filter(|_| entries.len() == limit);
        let next = last.map(|last| format!("{}.{}", last.instance_id, last.connection_id));
        Ok((entries, next))
    }
}
