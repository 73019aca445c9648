//! How much one client may ask for of this instance. Connections of a user and of an address are counted over all of
//! them, see [`super::attendance`].

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use everpost_core::{name::UserId, pressure::Level, roster::Quotas};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};

/// The limits, all configurable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// WebSocket connections of this instance.
    pub max_connections: usize,
    /// Of one user, over all instances.
    pub max_connections_per_user: usize,
    /// Of one network address, over all instances.
    pub max_connections_per_address: usize,
    /// WebSocket connections let in a second; a second's worth may come at once.
    pub accept_rate: NonZeroU32,
    /// Bytes of one message, over WebSocket or HTTP.
    pub max_message_bytes: usize,
    /// Bytes waiting to be sent on one connection.
    pub max_queue_bytes: usize,
    /// Publishes a second of one user; twice that in a burst.
    pub publish_rate: NonZeroU32,
    /// The same for subscribing to conversations.
    pub join_rate: NonZeroU32,
    /// The same for replays that connections begin with.
    pub replay_rate: NonZeroU32,
    /// The same as `publish_rate` while the log is under pressure, for backends too.
    pub pressed_publish_rate: NonZeroU32,
    /// Publishes of one connection that wait for their acknowledgement; beyond it the connection is not read.
    pub max_in_flight: usize,
    /// Conversations with more participants tell nobody else how far each of them is.
    pub max_receipt_participants: usize,
    /// How often the server pings.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// After how much silence a connection is closed.
    #[serde(with = "humantime_serde")]
    pub heartbeat_timeout: Duration,
    /// How long a client may take to send a request's head.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
}

impl Limits {
    /// What is counted over all instances.
    pub(crate) fn quotas(&self) -> Quotas {
        Quotas { per_user: self.max_connections_per_user, per_address: self.max_connections_per_address }
    }
}

/// The requests of each user that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Publish,
    Join,
    Replay,
}

/// Counts what is open, and how often users ask for something.
pub(crate) struct Admission {
    max_connections: usize,
    open: AtomicUsize,
    publishes: DefaultKeyedRateLimiter<UserId>,
    joins: DefaultKeyedRateLimiter<UserId>,
    replays: DefaultKeyedRateLimiter<UserId>,
    /// Consulted under pressure only.
    pressed: DefaultKeyedRateLimiter<UserId>,
}

/// A place on this instance; given back when dropped.
pub(crate) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        let limiter = |rate: NonZeroU32| {
            let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
            RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst))
        };
        Self {
            max_connections: limits.max_connections,
            open: AtomicUsize::new(0),
            publishes: limiter(limits.publish_rate),
            joins: limiter(limits.join_rate),
            replays: limiter(limits.replay_rate),
            pressed: limiter(limits.pressed_publish_rate),
        }
    }

    /// A place for another connection, unless the instance is full.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let one_more = |open| (open < self.max_connections).then_some(open + 1);
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Place(self.clone()))
    }

    pub(crate) fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether the user may publish now.
    pub(crate) fn may_publish(&self, user: &UserId) -> bool {
        self.may(Asked::Publish, user)
    }

    /// Whether the user may do that now.
    pub(crate) fn may(&self, asked: Asked, user: &UserId) -> bool {
        let limiter = match asked {
            Asked::Publish => &self.publishes,
            Asked::Join => &self.joins,
            Asked::Replay => &self.replays,
        };
        limiter.check_key(user).is_ok()
    }

    /// Whether the log takes a publish of this sender at a level of pressure.
    pub(crate) fn is_taken(&self, level: Level, sender: &UserId) -> bool {
        match level {
            Level::Green | Level::Yellow => true,
            Level::Orange => self.pressed.check_key(sender).is_ok(),
            Level::Red => false,
        }
    }

    /// Forgets users whose allowance is full again.
    pub(crate) fn tidy(&self) {
        for limiter in [&self.publishes, &self.joins, &self.replays, &self.pressed] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        Arc::new(Admission::new(&Limits {
            max_connections: 2,
            max_connections_per_user: 2,
            max_connections_per_address: 2,
            accept_rate: NonZeroU32::MIN,
            max_message_bytes: 1,
            max_queue_bytes: 1,
            publish_rate: NonZeroU32::MIN,
            join_rate: NonZeroU32::MIN,
            replay_rate: NonZeroU32::MIN,
            pressed_publish_rate: NonZeroU32::MIN,
            max_in_flight: 1,
            max_receipt_participants: 1,
            heartbeat: Duration::ZERO,
            heartbeat_timeout: Duration::ZERO,
            request_timeout: Duration::ZERO,
        }))
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a name")
    }

    #[test]
    fn a_full_instance_has_no_place_until_one_is_given_back() {
        let admission = admission();
        let (first, second) = (admission.place(), admission.place());
        assert!(first.is_some() && second.is_some() && admission.place().is_none());
        drop(first);
        assert_eq!(admission.connections(), 1);
        assert!(admission.place().is_some());
    }

    #[test]
    fn under_pressure_the_rate_counts_and_then_nothing_does() {
        let admission = admission();
        let taken = |level, name| (0..5).filter(|_| admission.is_taken(level, &user(name))).count();
        let levels = Level::ALL.map(|level| taken(level, level.as_str()));
        assert_eq!(levels, [5, 5, 2, 0]);
        assert_eq!(taken(Level::Orange, "another"), 2, "senders do not share an allowance");
    }

    #[test]
    fn a_burst_is_twice_the_rate() {
        let admission = admission();
        let allowed = (0..10).filter(|_| admission.may_publish(&user("a"))).count();
        assert_eq!(allowed, 2);
        assert!(admission.may_publish(&user("b")), "users do not share an allowance");
        assert!(admission.may(Asked::Join, &user("a")), "and each kind of request has its own");
        assert!(admission.may(Asked::Replay, &user("a")));
    }
}
