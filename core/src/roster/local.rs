//! The roster of one process: a few maps.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{Arrival, Departure, Entry, Leave, Quotas, RETRY_AFTER, Refusal, Removed, Roster};
use crate::{
    clock::now_ms,
    log::LogError,
    name::{InstanceId, UserId},
};

/// A roster for gateways in this process. Clones share it.
#[derive(Clone, Default)]
pub struct LocalRoster {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Uuid, Entry>,
    users: HashMap<UserId, Vec<Uuid>>,
    networks: HashMap<String, usize>,
    departing: HashMap<UserId, Departing>,
    instances: HashSet<InstanceId>,
    forgotten: HashSet<InstanceId>,
}

struct Departing {
    due: Instant,
    left_ms: u64,
}

impl LocalRoster {
    /// A roster nobody is in yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn others(&self, entry: &Entry) -> usize {
        let all = self.users.get(&entry.user_id);
        all.map_or(0, |all| all.iter().filter(|connection| **connection != entry.connection_id).count())
    }

    fn refusal(&self, entry: &Entry, quotas: Quotas) -> Option<Refusal> {
        if self.entries.contains_key(&entry.connection_id) {
            return None;
        }
        if self.others(entry) >= quotas.per_user {
            return Some(Refusal::User);
        }
        let beside = self.networks.get(&entry.network()).copied().unwrap_or(0);
        (beside >= quotas.per_address).then_some(Refusal::Address)
    }

    fn enter(&mut self, entry: &Entry) -> Arrival {
        let (others, returned) = (self.others(entry), self.departing.remove(&entry.user_id).is_some());
        if self.entries.insert(entry.connection_id, entry.clone()).is_none() {
            // Most people have one.
            self.users.entry(entry.user_id.clone()).or_insert_with(|| Vec::with_capacity(1)).push(entry.connection_id);
            *self.networks.entry(entry.network()).or_default() += 1;
        }
        Arrival { others, returned }
    }

    fn leave(&mut self, connection: Uuid, leave: Leave) -> Option<Removed> {
        let entry = self.entries.remove(&connection)?;
        let left_ms = moment(leave);
        self.give_back(&entry.network());
        let others = self.others(&entry);
        if others == 0 {
            self.users.remove(&entry.user_id);
            self.depart(&entry.user_id, left_ms, leave);
        } else if let Some(all) = self.users.get_mut(&entry.user_id) {
            all.retain(|other| *other != connection);
        }
        Some(Removed { entry, others, left_ms })
    }

    fn give_back(&mut self, network: &str) {
        if let Some(count) = self.networks.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(network);
            }
        }
    }

    fn depart(&mut self, user: &UserId, left_ms: u64, leave: Leave) {
        let due = Instant::now() + leave.grace.saturating_sub(leave.ago);
        self.departing.entry(user.clone()).or_insert(Departing { due, left_ms });
    }
}

/// When connections ended, milliseconds since the epoch.
fn moment(leave: Leave) -> u64 {
    now_ms().saturating_sub(u64::try_from(leave.ago.as_millis()).unwrap_or(u64::MAX))
}

#[async_trait]
impl Roster for LocalRoster {
    async fn enter(&self, entry: &Entry, quotas: Quotas) -> Result<Result<Arrival, Refusal>, LogError> {
        let mut state = self.state();
        Ok(match state.refusal(entry, quotas) {
            Some(refusal) => Err(refusal),
            None => Ok(state.enter(entry)),
        })
    }

    async fn restore(&self, instance: &InstanceId, entries: &[Entry]) -> Result<Vec<UserId>, LogError> {
        let mut state = self.state();
        let was_forgotten = state.forgotten.remove(instance);
        state.instances.insert(instance.clone());
        let new = entries.iter().filter(|entry| state.enter(entry).is_online()).map(|entry| entry.user_id.clone());
        let new: Vec<UserId> = new.collect();
        Ok(if was_forgotten { new } else { Vec::new() })
    }

    async fn leave(&self, entries: &[Entry], leave: Leave) -> Result<Vec<Removed>, LogError> {
        let mut state = self.state();
        Ok(entries.iter().filter_map(|entry| state.leave(entry.connection_id, leave)).collect())
    }

    async fn depart(&self, left: &[(UserId, Duration)], grace: Duration) -> Result<(), LogError> {
        let mut state = self.state();
        for (user, ago) in left {
            if !state.users.contains_key(user) {
                let leave = Leave { ago: *ago, grace };
                state.depart(user, moment(leave), leave);
            }
        }
        Ok(())
    }

    async fn forget(&self, instance: &InstanceId, leave: Leave) -> Result<Vec<Removed>, LogError> {
        let mut state = self.state();
        let all = state.entries.values().filter(|entry| entry.instance_id == *instance);
        let all: Vec<Uuid> = all.map(|entry| entry.connection_id).collect();
        state.instances.remove(instance);
        state.forgotten.insert(instance.clone());
        Ok(all.into_iter().filter_map(|connection| state.leave(connection, leave)).collect())
    }

    async fn instances(&self) -> Result<Vec<InstanceId>, LogError> {
        Ok(self.state().instances.iter().cloned().collect())
    }

    async fn count(&self, instance: &InstanceId) -> Result<usize, LogError> {
        let state = self.state();
        let entries = state.entries.values().filter(|entry| entry.instance_id == *instance);
        Ok(if state.instances.contains(instance) { entries.count() } else { 0 })
    }

    async fn page(&self, instance: &InstanceId, after: Option<Uuid>, limit: usize) -> Result<Vec<Entry>, LogError> {
        let state = self.state();
        let entries = state.entries.values().filter(|entry| entry.instance_id == *instance);
        let rest = entries.filter(|entry| after.is_none_or(|after| entry.connection_id > after));
        Ok(rest.take(limit).cloned().collect())
    }

    async fn of_users(&self, users: &[UserId]) -> Result<Vec<Vec<Entry>>, LogError> {
        let state = self.state();
        let entries = |of: &Vec<Uuid>| {
            let mut entries: Vec<Entry> = of.iter().filter_map(|id| state.entries.get(id).cloned()).collect();
            entries.sort_unstable_by_key(|entry| entry.connection_id);
            entries
        };
        Ok(users.iter().map(|user| state.users.get(user).map_or_else(Vec::new, entries)).collect())
    }

    async fn due(&self) -> Result<Vec<Departure>, LogError> {
        let (mut state, now) = (self.state(), Instant::now());
        let due = state.departing.iter_mut().filter(|(_, departing)| departing.due <= now);
        let handed = due.map(|(user, departing)| {
            departing.due = now + RETRY_AFTER;
            Departure { user_id: user.clone(), left_ms: departing.left_ms }
        });
        Ok(handed.collect())
    }

    async fn settle(&self, departures: &[Departure]) -> Result<Vec<UserId>, LogError> {
        let mut state = self.state();
        for Departure { user_id, left_ms } in departures {
            if state.departing.get(user_id).is_some_and(|departing| departing.left_ms == *left_ms) {
                state.departing.remove(user_id);
            }
        }
        let users = departures.iter().map(|departure| &departure.user_id);
        Ok(users.filter(|user| state.users.contains_key(*user)).cloned().collect())
    }
}
