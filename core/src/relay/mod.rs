//! The relay: which gateway listens for what, and the way there.
//!
//! Gateways register the topics they have listeners for; fan-out and gateways look topics up and send parcels to the
//! instances found, so work grows with instances and not with members. A parcel is a hint: the log is the truth, and a
//! gateway that may have missed one reads the log. A topic registered before a position of the log was read receives
//! every later event of that topic, because senders look topics up only after they have read the event.

pub mod local;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    event::Record,
    log::LogError,
    name::{ConversationId, DeviceType, InstanceId, UserId},
    partition::{Partition, Partitions},
    store::Mark,
};

/// Something a gateway can have listeners for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Everything of one conversation.
    Conversation(ConversationId),
    /// What concerns one user, whatever the conversation.
    User(UserId),
}

impl Topic {
    /// The text it is registered under.
    pub fn key(&self) -> String {
        match self {
            Self::Conversation(id) => format!("c:{id}"),
            Self::User(id) => format!("u:{id}"),
        }
    }

    /// Where it is registered: beside the conversation's log, or wherever the user's name falls.
    pub fn partition(&self, partitions: Partitions) -> Partition {
        match self {
            Self::Conversation(id) => partitions.of(id.as_str()),
            Self::User(id) => partitions.of(id.as_str()),
        }
    }
}

/// Something that is said once and never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Signal {
    /// A frame for everybody in a conversation who is connected, such as typing.
    Frame {
        /// Where.
        conversation: ConversationId,
        /// The event's name.
        event: String,
        /// Its data, JSON text.
        data: String,
    },
    /// Marks that moved, of any number of conversations.
    Marks {
        /// Which.
        moved: Vec<Moved>,
    },
    /// A frame for everybody in a conversation who is connected, except one user.
    Others {
        /// Where.
        conversation: ConversationId,
        /// Whose connections are left out.
        except: UserId,
        /// The event's name.
        event: String,
        /// Its data, JSON text.
        data: String,
    },
    /// A frame for the connections of a user.
    Direct {
        /// Whose.
        user: UserId,
        /// Only devices of this kind.
        device_type: Option<DeviceType>,
        /// The connection that is left out.
        except: Option<Uuid>,
        /// The event's name.
        event: String,
        /// Its data, JSON text.
        data: String,
    },
    /// A user came or went: a frame for everybody else who listens to one of the conversations, once for each.
    Presence {
        /// Who.
        user: UserId,
        /// Where they can be met.
        conversations: Vec<ConversationId>,
        /// The event's name.
        event: String,
        /// Its data, JSON text.
        data: String,
    },
    /// A user takes part in a conversation from now on.
    Joined {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// The end of the conversation's partition when it was, as [`crate::position::Position::to_column`] has it.
        from: i64,
    },
    /// A user no longer takes part in a conversation.
    Left {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
    },
}

/// A mark that moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Which mark.
    pub mark: Mark,
    /// Where.
    pub conversation: ConversationId,
    /// Whose.
    pub user: UserId,
    /// Where it stands now.
    pub up_to: u64,
    /// Whether everybody in the conversation is told, or only the user's own devices.
    pub to_all: bool,
}

/// What arrives at a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parcel {
    /// Records of one partition, in order; those of conversations nobody there listens to are left out.
    Records {
        /// Whose.
        partition: Partition,
        /// Which.
        records: Vec<Record>,
    },
    /// Something ephemeral.
    Signal(Signal),
}

/// Routing between the instances of one installation.
#[async_trait]
pub trait Relay: Send + Sync {
    /// Opens the inbox of a gateway that is starting. Until then nothing is sent to it.
    async fn open(&self, instance: &InstanceId) -> Result<Box<dyn Inbox>, LogError>;

    /// Says that the gateway is alive. `false`: it was given up for dead meanwhile, what it had registered is gone and
    /// parcels may have been lost; it must open again, register everything and catch up from the log.
    async fn beat(&self, instance: &InstanceId) -> Result<bool, LogError>;

    /// Forgets gateways that have not beaten for a while, as seen by this process, with all they had registered.
    async fn sweep(&self) -> Result<(), LogError>;

    /// Withdraws a gateway that stops.
    async fn close(&self, instance: &InstanceId) -> Result<(), LogError>;

    /// Every gateway that is known, in no particular order.
    async fn instances(&self) -> Result<Vec<InstanceId>, LogError>;

    /// Registers topics. Idempotent.
    async fn join(&self, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError>;

    /// Withdraws topics. Idempotent.
    async fn leave(&self, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError>;

    /// The instances registered for each topic, in the order asked.
    async fn listeners(&self, topics: &[Topic]) -> Result<Vec<Vec<InstanceId>>, LogError>;

    /// Sends parcels. To one instance, parcels arrive in the order they were sent.
    async fn send(&self, parcels: Vec<(InstanceId, Parcel)>) -> Result<(), LogError>;

    /// Leaves a note under a name for a while, where whichever instance asks for it first gets it.
    async fn deposit(&self, name: &str, note: &str, keep: Duration) -> Result<(), LogError>;

    /// Takes a note away: of any number of askers exactly one gets it, and none once its time is over.
    async fn collect(&self, name: &str) -> Result<Option<String>, LogError>;
}

/// The receiving end of one gateway.
#[async_trait]
pub trait Inbox: Send {
    /// The next parcels; waits up to `wait` when there are none. An error means that parcels may be lost. Must not be
    /// cancelled.
    async fn receive(&mut self, wait: Duration) -> Result<Vec<Parcel>, LogError>;
}
