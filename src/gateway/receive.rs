//! What a connection does with the frames of its client.

use std::sync::atomic::Ordering;

use axum::extract::ws::Message;
use everpost_core::{
    clock::{now_ms, rfc3339},
    cursor::Cursor,
    name::ConversationId,
    relay::Signal,
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
    session::{Item, Session},
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
            Message::Close(_) => Err(End::Bye),
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
                Ok(self.type_in(conversation, is_typing).await?)
            }
            Command::Read { conversation, seq } => {
                let conversation = self.target(conversation).await?;
                Ok(self.read(conversation, seq).await?)
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
            Command::Refresh { token } => self.renew(id, &token).await,
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

    pub(super) fn within_rate(&self) -> Result<(), ApiError> {
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
        let receipts = (!self.principal.is_backend).then(|| self.gateway.receipts.clone());
        session.in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = Box::new(move |outcome: Result<Receipt, ApiError>| {
            let text = match outcome {
                Ok(receipt) => {
                    stored.tell(&session, &conversation, receipt.seq, receipt.position);
                    if let Some(receipts) = receipts {
                        receipts.published(conversation.clone(), session.user.clone(), receipt.seq);
                    }
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

    /// Moves the user's read mark. What this connection has sent exists; only other numbers are looked up.
    async fn read(&mut self, conversation: ConversationId, seq: u64) -> Result<(), ApiError> {
        let mut up_to = seq;
        if seq > self.sent.top(&conversation) {
            self.within_rate()?;
            up_to = self.gateway.existing(&conversation, seq).await?;
        }
        let taken = self.gateway.receipts.read(conversation, self.session.user.clone(), up_to);
        if taken { Ok(()) } else { Err(ApiError::overloaded()) }
    }

    /// Remembers how far the device and its user have come; without a device the client keeps its cursor itself. A
    /// connection for one conversation passes over all others, so its cursors say nothing about the device.
    fn acknowledge(&mut self, cursor: &str) -> Result<(), ApiError> {
        let cursor = Cursor::decode(cursor).map_err(|error| ApiError::invalid("unknown_cursor", error))?;
        for (conversation, up_to) in self.sent.acknowledge(&cursor, self.gateway.partitions) {
            self.gateway.receipts.delivered(conversation, self.session.user.clone(), up_to);
        }
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

    /// Why a session ends when the process stops, with a delay of its own to come back after.
    pub(super) fn going_away(&self, session: &Session) -> Close {
        let spread_ms = u64::try_from(self.drain_spread.as_millis()).unwrap_or(u64::MAX);
        // The last bits of its id are as good as random for a client and cheap for us.
        Close::GoingAway { reconnect_after_ms: (session.id.as_u128() as u64) % spread_ms.max(1) }
    }
}
