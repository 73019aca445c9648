//! Who is typing, and that it ends by itself.
//!
//! Typing is told to everybody in the conversation and kept nowhere but in the gateways that heard of it: each tells its
//! own listeners when it has not been renewed for a while. So it ends also when the typist's gateway is gone.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::extract::ws::Utf8Bytes;
use everpost_core::{
    name::{ConversationId, UserId},
    relay::Topic,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Gateway, connection::Connection, error::ApiError, frame, session::Item};

/// The event's name.
pub(crate) const EVENT: &str = "typing";
/// How long it holds without being renewed.
const HOLDS: Duration = Duration::from_secs(6);
/// Typists one gateway knows of; what is beyond is not told to anybody.
const MAX_TYPISTS: usize = 10_000;
/// Conversations one connection is remembered to type in; the others end by themselves.
const MAX_TYPED_IN: usize = 16;

/// Everybody who is typing, as far as this gateway has heard.
#[derive(Default)]
pub(crate) struct Typing {
    until: Mutex<HashMap<(ConversationId, UserId), Instant>>,
}

#[derive(Deserialize)]
struct Said {
    user_id: UserId,
    is_typing: bool,
}

/// What is said of a typist.
pub(crate) fn said(user: &UserId, is_typing: bool) -> Value {
    json!({"user_id": user, "is_typing": is_typing})
}

impl Typing {
    fn until(&self) -> MutexGuard<'_, HashMap<(ConversationId, UserId), Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what was said; whether listeners are to hear of it.
    pub(crate) fn hear(&self, conversation: &ConversationId, data: &str, now: Instant) -> bool {
        let Ok(Said { user_id, is_typing }) = serde_json::from_str(data) else { return false };
        let (mut until, typist) = (self.until(), (conversation.clone(), user_id));
        if !is_typing {
            return until.remove(&typist).is_some();
        }
        let known = until.contains_key(&typist) || until.len() < MAX_TYPISTS;
        if known {
            until.insert(typist, now + HOLDS);
        }
        known
    }

    /// Forgets those who have not renewed it, and returns them.
    fn expired(&self, now: Instant) -> Vec<(ConversationId, UserId)> {
        self.until().extract_if(|_, end| *end <= now).map(|(typist, _)| typist).collect()
    }
}

impl Gateway {
    /// Tells the listeners here who is not typing any more.
    pub(super) fn end_typing(&self, now: Instant) {
        for (conversation, user) in self.typing.expired(now) {
            let text: Utf8Bytes = frame::plain(EVENT, Some(conversation.as_str()), None, said(&user, false));
            self.hub.tell(&Topic::Conversation(conversation), || Item::Text(text.clone()));
        }
    }
}

impl Connection {
    /// Tells a conversation whether this connection's user is typing.
    pub(super) async fn type_in(&mut self, conversation: ConversationId, is_typing: bool) -> Result<(), ApiError> {
        self.typing_in.retain(|other| *other != conversation);
        if is_typing && self.typing_in.len() < MAX_TYPED_IN {
            self.typing_in.push(conversation.clone());
        }
        self.gateway.whisper(conversation, EVENT, &said(&self.session.user, is_typing)).await
    }

    /// Whoever is gone is not typing.
    pub(super) async fn stop_typing(&mut self) {
        for conversation in std::mem::take(&mut self.typing_in) {
            let said = said(&self.session.user, false);
            if let Err(error) = self.gateway.whisper(conversation, EVENT, &said).await {
                tracing::debug!(%error, "typing ends by itself");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(typing: &Typing, user: &str, is_typing: bool, now: Instant) -> bool {
        let user = UserId::new(user).expect("a name");
        typing.hear(&ConversationId::new("room").expect("a name"), &said(&user, is_typing).to_string(), now)
    }

    #[test]
    fn it_ends_once_unless_it_is_renewed() {
        let (typing, start) = (Typing::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(say(&typing, "alice", true, start) && say(&typing, "bob", true, start));
        assert!(say(&typing, "alice", true, start + 5 * second), "renewed");
        let gone = typing.expired(start + 7 * second);
        assert_eq!(gone.iter().map(|(_, user)| user.as_str()).collect::<Vec<_>>(), ["bob"]);
        assert_eq!(typing.expired(start + 12 * second).len(), 1, "alice");
        assert!(typing.expired(start + 60 * second).is_empty());
    }

    #[test]
    fn who_is_not_typing_cannot_stop() {
        let (typing, now) = (Typing::default(), Instant::now());
        assert!(!say(&typing, "alice", false, now));
        assert!(say(&typing, "alice", true, now) && say(&typing, "alice", false, now));
        assert!(!say(&typing, "alice", false, now) && typing.expired(now + HOLDS).is_empty());
    }

    #[test]
    fn there_is_an_end_to_how_many_are_known() {
        let (typing, now) = (Typing::default(), Instant::now());
        let told = (0..MAX_TYPISTS + 5).filter(|n| say(&typing, &format!("u{n}"), true, now)).count();
        assert_eq!(told, MAX_TYPISTS);
        assert!(say(&typing, "u0", true, now), "those who are known can go on");
    }
}
