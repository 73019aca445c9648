//! Events of any type, to a conversation, to a user or to one kind of a user's devices.
//!
//! An event to a conversation is published: it is stored and has a number. What not everybody in the conversation gets
//! cannot have a number, because numbers have no holes; so an event that leaves its sender out, and one to a user, is
//! handed to whoever is connected and then forgotten.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use everpost_core::{
    name::{ConversationId, DeviceType, EventName, InstanceId, UserId},
    relay::{Parcel, Signal, Topic},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    Gateway,
    auth::Principal,
    error::ApiError,
    extract::{conversation_id, parse, text, user_id},
    messages::idempotency_key,
    publish::{self, Sender},
    wire,
};

/// Names the service itself gives to frames; nobody publishes under them.
const RESERVED: [&str; 17] = [
    "connected",
    "ack",
    "stored",
    "error",
    "ping",
    "pong",
    "replay_started",
    "replay_finished",
    "typing",
    "message_delivered",
    "message_read",
    "user_online",
    "user_offline",
    "device_connected",
    "device_disconnected",
    EventName::NEW_MESSAGE,
    EventName::TOMBSTONE,
];

#[derive(Deserialize)]
struct PostEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    data: &'a RawValue,
    conversation_id: Option<String>,
    #[serde(default)]
    exclude_sender: bool,
    user_id: Option<String>,
    device_type: Option<String>,
}

enum Target {
    Conversation(ConversationId),
    Others(ConversationId),
    User(UserId, Option<DeviceType>),
}

impl PostEvent<'_> {
    fn name(&self) -> Result<EventName, ApiError> {
        let name = EventName::new(&self.kind).map_err(|error| ApiError::invalid("invalid_name", error))?;
        if RESERVED.contains(&name.as_str()) {
            return Err(ApiError::invalid("reserved_type", "this event type is the service's own"));
        }
        Ok(name)
    }

    fn target(&self) -> Result<Target, ApiError> {
        match (&self.conversation_id, &self.user_id, &self.device_type) {
            (Some(id), None, None) if self.exclude_sender => Ok(Target::Others(conversation_id(id)?)),
            (Some(id), None, None) => Ok(Target::Conversation(conversation_id(id)?)),
            (None, Some(user), kind) if !self.exclude_sender => {
                let kind = kind.as_ref().map(DeviceType::new).transpose();
                Ok(Target::User(user_id(user)?, kind.map_err(|error| ApiError::invalid("invalid_name", error))?))
            }
            _ => {
                let rule = "give conversation_id, perhaps with exclude_sender, or user_id, perhaps with device_type";
                Err(ApiError::invalid("bad_frame", rule))
            }
        }
    }
}

/// `POST /v1/events`
pub(super) async fn post_event(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let text = text(body, gateway.limits.max_message_bytes)?;
    let event: PostEvent<'_> = parse(&text)?;
    let name = event.name()?;
    if !event.data.get().starts_with('{') {
        return Err(ApiError::invalid("bad_frame", "data must be a JSON object"));
    }
    match event.target()? {
        Target::Conversation(id) => gateway.publish_event(&principal, id, name, &headers, event.data).await,
        Target::Others(id) => gateway.send_to_others(&principal, id, name, event.data).await,
        Target::User(user, kind) => gateway.send_to_user(&principal, user, kind, name, event.data).await,
    }
}

impl Gateway {
    async fn publish_event(
        &self,
        principal: &Principal,
        id: ConversationId,
        name: EventName,
        headers: &HeaderMap,
        data: &RawValue,
    ) -> Result<Response, ApiError> {
        self.may_publish(principal, &id).await?;
        self.has_room_for(&principal.user)?;
        let sender = Sender { id: &principal.user, kind: &principal.sender_type };
        let key = wire::key(idempotency_key(headers)?)?;
        let receipt = self.publish(publish::event_draft(id.clone(), name, &sender, key, data)).await?;
        if !principal.is_backend {
            self.receipts.published(id, principal.user.clone(), receipt.seq);
        }
        let status = if receipt.duplicate { StatusCode::OK } else { StatusCode::CREATED };
        let answer = json!({
            "event_id": receipt.message_id, "seq": receipt.seq,
            "duplicate": receipt.duplicate, "durability": receipt.durability,
        });
        Ok((status, Json(answer)).into_response())
    }

    /// Hands an event to everybody in a conversation who is connected, except to its sender.
    async fn send_to_others(
        &self,
        principal: &Principal,
        conversation: ConversationId,
        name: EventName,
        data: &RawValue,
    ) -> Result<Response, ApiError> {
        self.may_publish(principal, &conversation).await?;
        self.has_room_for(&principal.user)?;
        let instances = self.relay.listeners(&[Topic::Conversation(conversation.clone())]).await?;
        let (event, data) = (name.to_string(), data.get().to_owned());
        let signal = Signal::Others { conversation, except: principal.user.clone(), event, data };
        let instances = self.hand_over(instances.into_iter().flatten().collect(), signal).await?;
        Ok((StatusCode::ACCEPTED, Json(json!({ "instances": instances }))).into_response())
    }

    /// Hands an event to the connections of a user, or to those of one kind of device.
    async fn send_to_user(
        &self,
        principal: &Principal,
        user: UserId,
        device_type: Option<DeviceType>,
        name: EventName,
        data: &RawValue,
    ) -> Result<Response, ApiError> {
        if principal.user != user {
            principal.require_backend()?; // one's own devices, or anybody's for a backend
        }
        if !principal.is_backend && !self.admission.may_publish(&principal.user) {
            return Err(ApiError::RateLimited);
        }
        self.has_room_for(&principal.user)?;
        let mut entries = self.roster.of_users(std::slice::from_ref(&user)).await?.pop().unwrap_or_default();
        entries.retain(|entry| device_type.is_none() || entry.device_type == device_type);
        let instances = entries.iter().map(|entry| entry.instance_id.clone()).collect();
        let (event, data) = (name.to_string(), data.get().to_owned());
        let signal = Signal::Direct { user, device_type, except: None, event, data };
        let instances = self.hand_over(instances, signal).await?;
        let answer = json!({"instances": instances, "connections": entries.len()});
        Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
    }

    async fn hand_over(&self, instances: HashSet<InstanceId>, signal: Signal) -> Result<usize, ApiError> {
        let count = instances.len();
        let parcels = instances.into_iter().map(|instance| (instance, Parcel::Signal(signal.clone())));
        self.relay.send(parcels.collect()).await?;
        Ok(count)
    }
}
