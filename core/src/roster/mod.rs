//! The roster: which connections are open, on whichever instance, and so who is online.
//!
//! A connection is entered together with the check of its limits, in one step for each limit, so two gateways cannot
//! give away the same place. There are no times-to-live: a gateway takes out what it has entered, and whoever finds that
//! a gateway is gone takes out the rest. A user whose last connection leaves is *departing*; when a grace is over and
//! no connection came back, any gateway is handed the departure and tells of it, also if the one that saw it is dead.

pub mod local;
pub mod redis;

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    log::LogError,
    name::{ConversationId, DeviceId, DeviceType, InstanceId, UserId},
};

/// How long a departure that was handed out stays with whoever took it, before another one is asked.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);

/// One open connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; a version 7 UUID, so names sort by when connections were opened.
    pub connection_id: Uuid,
    /// Whose it is.
    pub user_id: UserId,
    /// The gateway it is at.
    pub instance_id: InstanceId,
    /// The one conversation it is about, if it is.
    pub conversation_id: Option<ConversationId>,
    /// The device, if its token names one.
    pub device_id: Option<DeviceId>,
    /// What kind of device, if its token says so.
    pub device_type: Option<DeviceType>,
    /// When it was opened, milliseconds since the epoch.
    pub connected_ms: u64,
    /// Where it comes from.
    pub address: IpAddr,
    /// What the program at the other end calls itself.
    pub user_agent: Option<String>,
}

impl Entry {
    /// What connections from this address are counted under. A provider gives each customer at least a /64 of IPv6.
    pub fn network(&self) -> String {
        match self.address.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }
    }
}

/// How many connections there may be, over all instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Of one user.
    pub per_user: usize,
    /// Of one address, see [`Entry::network`].
    pub per_address: usize,
}

impl Quotas {
    /// As many as there are.
    pub const NONE: Self = Self { per_user: usize::MAX, per_address: usize::MAX };
}

/// Which quota was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// That of the user.
    User,
    /// That of the address.
    Address,
}

/// What a new connection changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// How many other connections the user has.
    pub others: usize,
    /// Whether the user was departing, so that nobody has been told that they were gone.
    pub returned: bool,
}

impl Arrival {
    /// Whether the user was offline until now.
    pub fn is_online(self) -> bool {
        self.others == 0 && !self.returned
    }
}

/// A connection that was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Which.
    pub entry: Entry,
    /// How many connections its user still has. With none the user is departing.
    pub others: usize,
    /// When, milliseconds since the epoch.
    pub left_ms: u64,
}

/// A user whose grace is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Who.
    pub user_id: UserId,
    /// When the last connection left, milliseconds since the epoch.
    pub left_ms: u64,
}

/// How long ago connections ended, and how long their users may take to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// How long ago.
    pub ago: Duration,
    /// From then on.
    pub grace: Duration,
}

impl Leave {
    /// Just now, for good.
    pub const NOW: Self = Self { ago: Duration::ZERO, grace: Duration::ZERO };
}

/// All open connections of one installation.
#[async_trait]
pub trait Roster: Send + Sync {
    /// Enters a connection, unless there are too many. A failure may have entered it all the same.
    async fn enter(&self, entry: &Entry, quotas: Quotas) -> Result<Result<Arrival, Refusal>, LogError>;

    /// Says that a gateway is there, and enters those of its connections that the roster may have forgotten, whatever the
    /// quotas. Idempotent. Tells which users were taken for gone meanwhile, because the gateway was given up for dead.
    async fn restore(&self, instance: &InstanceId, entries: &[Entry]) -> Result<Vec<UserId>, LogError>;

    /// Takes connections out. Idempotent: those that were in it are returned.
    async fn leave(&self, entries: &[Entry], leave: Leave) -> Result<Vec<Removed>, LogError>;

    /// Makes users departing who left a while ago, after the roster may have forgotten that they did. Those who have a
    /// connection are passed over. Idempotent.
    async fn depart(&self, left: &[(UserId, Duration)], grace: Duration) -> Result<(), LogError>;

    /// Takes out every connection of a gateway that is gone.
    async fn forget(&self, instance: &InstanceId, leave: Leave) -> Result<Vec<Removed>, LogError>;

    /// The gateways that said they are there and were not forgotten since.
    async fn instances(&self) -> Result<Vec<InstanceId>, LogError>;

    /// How many connections a gateway has; none if the roster does not know that it is there.
    async fn count(&self, instance: &InstanceId) -> Result<usize, LogError>;

    /// Connections of a gateway, in the order they were opened, after the given one.
    async fn page(&self, instance: &InstanceId, after: Option<Uuid>, limit: usize) -> Result<Vec<Entry>, LogError>;

    /// The connections of each user, in the order the users were asked for, each list in the order they were opened.
    async fn of_users(&self, users: &[UserId]) -> Result<Vec<Vec<Entry>>, LogError>;

    /// Users whose grace is over. Each is handed out again after [`RETRY_AFTER`] until it is settled.
    async fn due(&self) -> Result<Vec<Departure>, LogError>;

    /// Says that departures have been told. One that is followed by another departure meanwhile stays. Tells who came
    /// back since they were handed out: of them everybody has to be told that they are online.
    async fn settle(&self, departures: &[Departure]) -> Result<Vec<UserId>, LogError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> String {
        let entry = Entry {
            connection_id: Uuid::now_v7(),
            user_id: UserId::new("alice").expect("a name"),
            instance_id: InstanceId::random(),
            conversation_id: None,
            device_id: None,
            device_type: None,
            connected_ms: 0,
            address: address.parse().expect("an address"),
            user_agent: None,
        };
        entry.network()
    }

    #[test]
    fn addresses_count_by_what_one_customer_has() {
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7", "the same host over an IPv6 socket");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(network("2001:db8:1:2:ffff::1"), network("2001:db8:1:2::2"));
        assert_ne!(network("2001:db8:1:3::1"), network("2001:db8:1:2::1"));
    }
}
