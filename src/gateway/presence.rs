//! Presence: who is told that a user came or went, and what can be asked about it.
//!
//! A change costs one look-up of listeners and one signal for each instance concerned, however many people there are.
//! Each instance tells those who listen to a conversation shared with the user, once. Who is one of a crowd is not told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State};
use everpost_core::{
    clock::{now_ms, rfc3339},
    name::{ConversationId, DeviceId, DeviceType, InstanceId, UserId},
    pressure::Level,
    relay::{Parcel, Signal, Topic},
    roster::{Departure, Entry},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Gateway,
    attendance::News,
    auth::Principal,
    error::ApiError,
    extract::{Path, user_id},
};

/// Conversations in which a change is told: those last by name, which for names made here are the newest.
const MAX_SHARED: usize = 200;
/// A room with more listeners on one instance is a crowd.
pub(super) const CROWD: usize = 200;
/// Changes told together.
const MAX_BATCH: usize = 256;

/// Who is told that a user came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Whoever is connected and shares a conversation, and the user's own devices.
    Conversations,
    /// Nobody.
    Off,
}

/// A change, and where those are who are told.
struct Notice {
    topics: Vec<Topic>,
    event: &'static str,
    data: Value,
    to: To,
}

enum To {
    /// Those who share a conversation with the user.
    Peers(UserId),
    /// The user's other connections.
    Own(UserId, uuid::Uuid),
}

impl Notice {
    fn to_peers(user: UserId, shared: &[ConversationId], event: &'static str, data: Value) -> Self {
        let newest = &shared[shared.len().saturating_sub(MAX_SHARED)..];
        let topics = newest.iter().cloned().map(Topic::Conversation).collect();
        Self { topics, event, data, to: To::Peers(user) }
    }

    fn to_own(entry: &Entry, event: &'static str) -> Self {
        let data = json!({
            "user_id": entry.user_id, "connection_id": entry.connection_id,
            "device_id": entry.device_id, "device_type": entry.device_type,
        });
        let to = To::Own(entry.user_id.clone(), entry.connection_id);
        Self { topics: vec![Topic::User(entry.user_id.clone())], event, data, to }
    }

    fn signal(&self, topics: &[&Topic]) -> Signal {
        let (event, data) = (self.event.to_owned(), self.data.to_string());
        match &self.to {
            To::Peers(user) => {
                let shared = topics.iter().filter_map(|topic| match topic {
                    Topic::Conversation(conversation) => Some(conversation.clone()),
                    Topic::User(_) => None,
                });
                Signal::Presence { user: user.clone(), conversations: shared.collect(), event, data }
            }
            To::Own(user, except) => {
                Signal::Direct { user: user.clone(), device_type: None, except: Some(*except), event, data }
            }
        }
    }

    /// One parcel for each instance that listens to one of its topics.
    fn parcels(&self, listeners: &HashMap<&Topic, Vec<InstanceId>>) -> Vec<(InstanceId, Parcel)> {
        let mut by_instance: BTreeMap<&InstanceId, Vec<&Topic>> = BTreeMap::new();
        for topic in &self.topics {
            for instance in listeners.get(topic).into_iter().flatten() {
                by_instance.entry(instance).or_default().push(topic);
            }
        }
        let parcel =
            |(instance, topics): (&InstanceId, Vec<&Topic>)| (instance.clone(), Parcel::Signal(self.signal(&topics)));
        by_instance.into_iter().map(parcel).collect()
    }
}

impl Gateway {
    /// Tells the news for as long as there are any.
    pub(super) async fn tell_news(self: Arc<Self>, mut inbox: mpsc::Receiver<News>) {
        let mut news = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = inbox.recv_many(&mut news, MAX_BATCH) => if count == 0 { return },
                () = self.attendance.closed() => return,
            }
            if let Err(error) = self.tell_batch(&std::mem::take(&mut news)).await {
                tracing::debug!(%error, "who came or went was not told");
            }
        }
    }

    async fn tell_batch(&self, news: &[News]) -> Result<(), ApiError> {
        if self.pressure.level() != Level::Green {
            news.iter().for_each(|_| self.metrics.ephemeral_dropped()); // who went is handed out again
            return Ok(());
        }
        let departures = news.iter().filter_map(|news| match news {
            News::Offline(departure) => Some(departure.clone()),
            _ => None,
        });
        let departures: Vec<Departure> = departures.collect();
        self.notify(self.notices(news).await?).await?;
        if departures.is_empty() {
            return Ok(());
        }
        // Whoever came back while they were given up is not new to anybody but those who have just been told.
        let back = self.roster.settle(&departures).await?;
        let back: Vec<News> = back.into_iter().map(|user| News::Online(user, now_ms())).collect();
        self.notify(self.notices(&back).await?).await
    }

    async fn notices(&self, news: &[News]) -> Result<Vec<Notice>, ApiError> {
        if self.audience == Audience::Off {
            return Ok(Vec::new());
        }
        let notices = news.iter().map(|news| async move {
            Ok::<_, ApiError>(match news {
                News::Online(user, since) => {
                    let data = json!({"user_id": user, "since": rfc3339(*since)});
                    Notice::to_peers(user.clone(), &self.reads.conversations_of(user).await?, "user_online", data)
                }
                News::Offline(Departure { user_id: user, left_ms }) => {
                    let data = json!({"user_id": user, "last_seen": rfc3339(*left_ms)});
                    Notice::to_peers(user.clone(), &self.reads.conversations_of(user).await?, "user_offline", data)
                }
                News::Connected(entry) => Notice::to_own(entry, "device_connected"),
                News::Disconnected(entry) => Notice::to_own(entry, "device_disconnected"),
            })
        });
        futures_util::future::try_join_all(notices).await
    }

    async fn notify(&self, notices: Vec<Notice>) -> Result<(), ApiError> {
        let mut topics: Vec<&Topic> = notices.iter().flat_map(|notice| &notice.topics).collect();
        topics.sort_by_cached_key(|topic| topic.key());
        topics.dedup();
        if topics.is_empty() {
            return Ok(());
        }
        let asked: Vec<Topic> = topics.iter().copied().cloned().collect();
        let listeners = topics.into_iter().zip(self.relay.listeners(&asked).await?).collect();
        let parcels = notices.iter().flat_map(|notice| notice.parcels(&listeners)).collect();
        Ok(self.relay.send(parcels).await?)
    }
}

#[derive(Serialize)]
struct Device {
    device_id: Option<DeviceId>,
    device_type: Option<DeviceType>,
    connected_at: String,
}

impl From<Entry> for Device {
    fn from(entry: Entry) -> Self {
        let Entry { device_id, device_type, connected_ms, .. } = entry;
        Self { device_id, device_type, connected_at: rfc3339(connected_ms) }
    }
}

#[derive(Serialize)]
pub(super) struct PresenceView {
    user_id: UserId,
    online: bool,
    devices: Vec<Device>,
    last_seen: Option<String>,
}

/// `GET /v1/users/{id}/presence`
pub(super) async fn get_presence(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<PresenceView>, ApiError> {
    let user = user_id(&id)?;
    gateway.may_ask_about(&principal, &user).await?;
    let entries = gateway.roster.of_users(std::slice::from_ref(&user)).await?.pop().unwrap_or_default();
    let online = !entries.is_empty();
    let last_seen = if online { Some(now_ms()) } else { gateway.store.last_seen(&user).await? };
    let devices = entries.into_iter().map(Device::from).collect();
    Ok(Json(PresenceView { user_id: user, online, devices, last_seen: last_seen.map(rfc3339) }))
}

impl Gateway {
    /// Backends, the user, and whoever shares a conversation. It does not tell which users exist.
    async fn may_ask_about(&self, principal: &Principal, user: &UserId) -> Result<(), ApiError> {
        if principal.is_backend || principal.user == *user {
            return Ok(());
        }
        let (own, theirs) =
            tokio::try_join!(self.reads.conversations_of(&principal.user), self.reads.conversations_of(user))?;
        // Both are sorted by name.
        let shares = own.iter().any(|conversation| theirs.binary_search(conversation).is_ok());
        if shares { Ok(()) } else { Err(ApiError::Forbidden("you share no conversation with this user")) }
    }

    /// Saves when users were last here; what cannot be saved now is saved later.
    pub(super) async fn save_last_seen(&self) {
        let seen: Vec<(UserId, u64)> = self.attendance.take_seen().into_iter().collect();
        if !seen.is_empty()
            && let Err(error) = self.store.save_last_seen(&seen).await
        {
            tracing::debug!(%error, users = seen.len(), "when users were last here was not saved this time");
            self.attendance.keep_seen(seen);
        }
    }
}
