//! How much one client may ask for.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use everpost_core::{name::UserId, pressure::Level};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};

/// The limits, all configurable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// WebSocket connections of this instance.
    pub max_connections: usize,
    /// Of one user.
    pub max_connections_per_user: usize,
    /// Of one network address.
    pub max_connections_per_address: usize,
    /// WebSocket connections let in a second; a second's worth may come at once.
    pub accept_rate: NonZeroU32,
    /// Bytes of one message, over WebSocket or HTTP.
    pub max_message_bytes: usize,
    /// Bytes waiting to be sent on one connection.
    pub max_queue_bytes: usize,
    /// Publishes a second of one user; twice that in a burst.
    pub publish_rate: NonZeroU32,
    /// The same while the log is under pressure, for backends too.
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

/// Counts what is open, by instance, user and address.
pub(crate) struct Admission {
    limits: Limits,
    open: Mutex<Open>,
    publishes: DefaultKeyedRateLimiter<UserId>,
    /// Consulted under pressure only.
    pressed: DefaultKeyedRateLimiter<UserId>,
}

#[derive(Default)]
struct Open {
    all: usize,
    users: HashMap<UserId, usize>,
    addresses: HashMap<IpAddr, usize>,
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    User,
    Address,
}

impl Refusal {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::User => "too many connections of this user",
            Self::Address => "too many connections from this address",
        }
    }
}

/// The right to one connection; given back when dropped.
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    user: UserId,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        let quota = |rate: NonZeroU32| {
            Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(1)))
        };
        let publishes = RateLimiter::keyed(quota(limits.publish_rate));
        let pressed = RateLimiter::keyed(quota(limits.pressed_publish_rate));
        Self { limits: limits.clone(), open: Mutex::default(), publishes, pressed }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the instance has room for another connection.
    pub(crate) fn has_room(&self) -> bool {
        self.open().all < self.limits.max_connections
    }

    pub(crate) fn connections(&self) -> usize {
        self.open().all
    }

    pub(crate) fn admit(self: &Arc<Self>, user: &UserId, address: IpAddr) -> Result<Admitted, Refusal> {
        let mut open = self.open();
        if open.users.get(user).copied().unwrap_or(0) >= self.limits.max_connections_per_user {
            return Err(Refusal::User);
        }
        if open.addresses.get(&address).copied().unwrap_or(0) >= self.limits.max_connections_per_address {
            return Err(Refusal::Address);
        }
        open.all += 1;
        *open.users.entry(user.clone()).or_default() += 1;
        *open.addresses.entry(address).or_default() += 1;
        Ok(Admitted { admission: self.clone(), user: user.clone(), address })
    }

    /// Whether the user may publish now.
    pub(crate) fn may_publish(&self, user: &UserId) -> bool {
        self.publishes.check_key(user).is_ok()
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
        for limiter in [&self.publishes, &self.pressed] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.all -= 1;
        give_back(&mut open.users, &self.user);
        give_back(&mut open.addresses, &self.address);
    }
}

fn give_back<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        Arc::new(Admission::new(&Limits {
            max_connections: 3,
            max_connections_per_user: 2,
            max_connections_per_address: 2,
            accept_rate: NonZeroU32::MIN,
            max_message_bytes: 1,
            max_queue_bytes: 1,
            publish_rate: NonZeroU32::MIN,
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
    fn each_limit_is_met_and_given_back() {
        let admission = admission();
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = admission.admit(&user("a"), here).ok();
        let _second = admission.admit(&user("a"), there).ok();
        assert_eq!(admission.admit(&user("a"), there).err(), Some(Refusal::User));
        let _third = admission.admit(&user("b"), here).ok();
        assert_eq!(admission.admit(&user("c"), here).err(), Some(Refusal::Address));
        assert!(!admission.has_room());
        drop(first);
        assert!(admission.has_room() && admission.admit(&user("a"), here).is_ok());
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
    }
}
