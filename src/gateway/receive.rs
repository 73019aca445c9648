//! What a connection does with the frames of its client.

use std::sync::{Arc, atomic::Ordering};

use axum::extract::ws::Message;
use everpost_core::{
    clock::{now_ms, rfc3339},
    cursor::Cursor,
    name::ConversationId,
    relay::Signal,
    store::Mark,
};
use serde_json::json;

use super::{
    close::Close,
    connection::{Connection, End},
    error::ApiError,
    frame,
    limits::Asked,
    publish::{self, Receipt, Sender},
    replay::From,
    session::Item,
    wire::{self, Body, Command, Parsed},
};

impl Connection {
    pub(super) async fn receive(&mut self, message: Message) -> Result<(), End> {
        self.session.hear(self.gateway.seconds());
        match message {
            Message::Text(text) => {
                let Parsed { id, command } = wire::parse(&text);
                let outcome = match command {
                    Ok(command) => self.obey(id.as_deref(), command).await,
                    Err(error) => Err(Refused::Frame(error)),
                };
                match outcome {
                    Ok(()) => Ok(()),
                    Err(Refused::Frame(error)) => self.send(frame::error(id.as_deref(), None, &error)).await,
                    Err(Refused::Connection(end)) => Err(end),
                }
            }
            Message::Binary(_) => {
                let error = ApiError::invalid("bad_frame", "frames are JSON text, not binary");
                self.send(frame::error(None, None, &error)).await
            }
            Message::Close(_) => Err(End::Gone),
            Message::Ping(_) | Message::Pong(_) => Ok(()), // tungstenite answers pings by itself
        }
    }

    async fn obey(&mut self, id: Option<&str>, command: Command) -> Result<(), Refused> {
        match command {
            Command::Publish { conversation, key, body } => {
                let conversation = self.target(conversation).await?;
                self.publish(id, conversation, key, &body).await
            }
            Command::Typing { conversation, is_typing } => {
                let conversation = self.target(conversation).await?;
                self.within_rate()?;
                let data = json!({"user_id": self.session.user, "is_typing": is_typing});
                Ok(self.gateway.whisper(conversation, "typing", &data).await?)
            }
            Command::Read { conversation, seq } => {
                let conversation = self.target(conversation).await?;
                self.within_rate()?;
                Ok(self.gateway.mark_read(conversation, &self.session.user, seq).await?)
            }
            Command::Ack { cursor } => Ok(self.acknowledge(&cursor)?),
            Command::Subscribe { conversation, after } => {
                let conversation = self.named(conversation)?;
                if !self.may(Asked::Join) {
                    return Err(ApiError::RateLimited.into());
                }
                self.gateway.authorise(&self.principal, &conversation).await?;
                self.subscribe(conversation, after).await.map_err(Refused::Connection)
            }
            Command::Unsubscribe { conversation } => {
                let conversation = self.named(conversation)?;
                self.mute(&conversation);
                Ok(())
            }
            Command::Ping => self.send(frame::plain("pong", None, id, json!({}))).await.map_err(Refused::Connection),
            Command::Pong => Ok(()),
        }
    }

    /// The conversation a frame is about; the connection's own if it names none.
    fn named(&self, conversation: Option<ConversationId>) -> Result<ConversationId, ApiError> {
        let conversation = conversation.or_else(|| self.scope.clone());
        conversation.ok_or_else(|| ApiError::invalid("bad_frame", "the member \"conversation_id\" is missing"))
    }

    /// The conversation a frame is about, if its sender takes part in it. Membership is kept up to date in `rooms` and
    /// `muted`; only what is not there is looked up.
    async fn target(&mut self, conversation: Option<ConversationId>) -> Result<ConversationId, ApiError> {
        let conversation = self.named(conversation)?;
        if !self.rooms.contains(&conversation) && !self.muted.contains(&conversation) {
            self.gateway.authorise(&self.principal, &conversation).await?;
        }
        Ok(conversation)
    }

    fn within_rate(&self) -> Result<(), ApiError> {
        if self.may(Asked::Publish) { Ok(()) } else { Err(ApiError::RateLimited) }
    }

    /// Whether the user may ask for that now.
    pub(super) fn may(&self, asked: Asked) -> bool {
        self.principal.is_backend || self.gateway.admission.may(asked, &self.session.user)
    }

    async fn publish(
        &mut self,
        id: Option<&str>,
        conversation: ConversationId,
        key: Option<everpost_core::identity::Key>,
        body: &Body,
    ) -> Result<(), Refused> {
        self.within_rate()?;
        self.gateway.has_room_for(&self.session.user)?;
        let sender = Sender { id: &self.session.user, kind: &self.principal.sender_type };
        let draft = publish::message_draft(conversation.clone(), &sender, key, body)?;
        let (session, stored, id) = (self.session.clone(), self.gateway.stored.clone(), id.map(str::to_owned));
        session.in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = Box::new(move |outcome: Result<Receipt, ApiError>| {
            let text = match outcome {
                Ok(receipt) => {
                    stored.tell(&session, &conversation, receipt.seq, receipt.position);
                    ack(id.as_deref(), &conversation, &receipt)
                }
                Err(error) => frame::error(id.as_deref(), Some(conversation.as_str()), &error),
            };
            session.in_flight.fetch_sub(1, Ordering::Relaxed);
            session.push(Item::Text(text));
        });
        self.gateway.publisher.publish(draft, answer).await;
        Ok(())
    }

    /// Remembers how far the device has come; without a device the client keeps its cursor itself. A connection for one
    /// conversation passes over all others, so its cursors say nothing about the device.
    fn acknowledge(&self, cursor: &str) -> Result<(), ApiError> {
        let cursor = Cursor::decode(cursor).map_err(|error| ApiError::invalid("unknown_cursor", error))?;
        if let Some(device) = self.principal.device.as_ref().filter(|_| self.scope.is_none()) {
            self.gateway.devices.note(self.session.user.clone(), device.clone(), cursor.encode());
        }
        Ok(())
    }

    async fn subscribe(&mut self, conversation: ConversationId, after: Option<u64>) -> Result<(), End> {
        self.muted.remove(&conversation);
        let new = self.rooms.insert(conversation.clone());
        match after {
            Some(seq) => self.listen_from(conversation, From::Seq(seq), true).await,
            None if new => {
                let partition = self.gateway.partitions.of(conversation.as_str());
                let end = self.gateway.reads.ends().await?.get(partition.index()).copied().unwrap_or_default();
                self.listen_from(conversation, From::Position(end), false).await
            }
            None => Ok(()),
        }
    }
}

/// What an unsuccessful frame costs: an answer, or the connection.
pub(super) enum Refused {
    Frame(ApiError),
    Connection(End),
}

impl std::convert::From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Frame(error)
    }
}

/// Written out, because a busy sender gets one for each of its messages.
fn ack(id: Option<&str>, conversation: &ConversationId, receipt: &Receipt) -> axum::extract::ws::Utf8Bytes {
    let Receipt { message_id, seq, duplicate, durability, .. } = receipt;
    let id = id.and_then(|id| serde_json::to_string(id).ok()).map_or(String::new(), |id| format!(r#","id":{id}"#));
    let now = rfc3339(now_ms());
    format!(
        r#"{{"event":"ack","conversation_id":"{conversation}"{id},"data":{{"message_id":"{message_id}","seq":{seq},"duplicate":{duplicate},"durability":"{durability}"}},"timestamp":"{now}"}}"#
    )
    .into()
}

impl super::Gateway {
    /// Moves a read mark forward and tells the conversation.
    pub(super) async fn mark_read(
        self: &Arc<Self>,
        conversation: ConversationId,
        user: &everpost_core::name::UserId,
        seq: u64,
    ) -> Result<(), ApiError> {
        let moved = self.store.advance(Mark::Read, &[(conversation.clone(), user.clone(), seq)]).await?;
        if moved.first() == Some(&true) {
            let data = json!({"user_id": user, "up_to": seq});
            self.signal(conversation, "message_read", &data).await?;
        }
        Ok(())
    }

    /// Sends an ephemeral frame to everybody connected in a conversation, on whatever instance.
    pub(super) async fn signal(
        &self,
        conversation: ConversationId,
        event: &str,
        data: &serde_json::Value,
    ) -> Result<(), ApiError> {
        let topic = everpost_core::relay::Topic::Conversation(conversation.clone());
        let signal = Signal::Frame { conversation, event: event.to_owned(), data: data.to_string() };
        self.tell(topic, signal).await
    }

    /// Closes every session here, each with its own delay to come back after.
    pub(super) fn close_all(&self, spread_ms: u64) {
        for (at, session) in self.hub.all().into_iter().enumerate() {
            // Spread by a number that is as good as random for a client and cheap for us.
            let reconnect_after_ms = (session.id.as_u128() as u64).wrapping_add(at as u64) % spread_ms.max(1);
            session.close(Close::GoingAway { reconnect_after_ms });
        }
    }
}
