//! Routing inside one process: a map and a channel.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Inbox, Parcel, Relay, Topic};
use crate::{log::LogError, name::InstanceId};

/// Parcels on their way to one gateway; beyond it the gateway is told that it missed some.
const CAPACITY: usize = 8_192;
const MAX_RECEIVED: usize = 256;
/// Notes kept at the same time.
const MAX_NOTES: usize = 100_000;

/// A relay for gateways in this process. Clones share it.
#[derive(Clone, Default)]
pub struct LocalRelay {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    interest: HashMap<Topic, Vec<InstanceId>>,
    inboxes: HashMap<InstanceId, mpsc::Sender<Parcel>>,
    notes: HashMap<String, (String, Instant)>,
}

impl LocalRelay {
    /// A relay nobody is connected to yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, instance: &InstanceId) {
        self.inboxes.remove(instance);
        self.interest.retain(|_, instances| {
            instances.retain(|other| other != instance);
            !instances.is_empty()
        });
    }
}

#[async_trait]
impl Relay for LocalRelay {
    async fn open(&self, instance: &InstanceId) -> Result<Box<dyn Inbox>, LogError> {
        let (sender, parcels) = mpsc::channel(CAPACITY);
        self.state().inboxes.insert(instance.clone(), sender);
        Ok(Box::new(LocalInbox { parcels }))
    }

    async fn beat(&self, instance: &InstanceId) -> Result<bool, LogError> {
        Ok(self.state().inboxes.contains_key(instance))
    }

    async fn sweep(&self) -> Result<(), LogError> {
        let mut state = self.state();
        let gone: Vec<_> = state.inboxes.iter().filter(|(_, s)| s.is_closed()).map(|(i, _)| i.clone()).collect();
        gone.iter().for_each(|instance| state.forget(instance));
        Ok(())
    }

    async fn close(&self, instance: &InstanceId) -> Result<(), LogError> {
        self.state().forget(instance);
        Ok(())
    }

    async fn instances(&self) -> Result<Vec<InstanceId>, LogError> {
        Ok(self.state().inboxes.keys().cloned().collect())
    }

    async fn join(&self, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError> {
        let mut state = self.state();
        for topic in topics {
            let instances = state.interest.entry(topic.clone()).or_default();
            if !instances.contains(instance) {
                instances.push(instance.clone());
            }
        }
        Ok(())
    }

    async fn leave(&self, instance: &InstanceId, topics: &[Topic]) -> Result<(), LogError> {
        let mut state = self.state();
        for topic in topics {
            if let Some(instances) = state.interest.get_mut(topic) {
                instances.retain(|other| other != instance);
                if instances.is_empty() {
                    state.interest.remove(topic);
                }
            }
        }
        Ok(())
    }

    async fn listeners(&self, topics: &[Topic]) -> Result<Vec<Vec<InstanceId>>, LogError> {
        let state = self.state();
        Ok(topics.iter().map(|topic| state.interest.get(topic).cloned().unwrap_or_default()).collect())
    }

    async fn send(&self, parcels: Vec<(InstanceId, Parcel)>) -> Result<(), LogError> {
        let mut state = self.state();
        for (instance, parcel) in parcels {
            let sent = state.inboxes.get(&instance).is_none_or(|inbox| inbox.try_send(parcel).is_ok());
            if !sent {
                // Full, or its reader is gone: given up, so that the gateway opens again and catches up from the log.
                state.forget(&instance);
            }
        }
        Ok(())
    }

    async fn deposit(&self, name: &str, note: &str, keep: Duration) -> Result<(), LogError> {
        let (mut state, now) = (self.state(), Instant::now());
        if state.notes.len() >= MAX_NOTES {
            state.notes.retain(|_, (_, until)| *until > now);
        }
        if state.notes.len() >= MAX_NOTES {
            return Err(LogError::Full);
        }
        state.notes.insert(name.to_owned(), (note.to_owned(), now + keep));
        Ok(())
    }

    async fn collect(&self, name: &str) -> Result<Option<String>, LogError> {
        let found = self.state().notes.remove(name);
        Ok(found.and_then(|(note, until)| (until > Instant::now()).then_some(note)))
    }
}

struct LocalInbox {
    parcels: mpsc::Receiver<Parcel>,
}

#[async_trait]
impl Inbox for LocalInbox {
    async fn receive(&mut self, wait: Duration) -> Result<Vec<Parcel>, LogError> {
        let mut received = Vec::new();
        match tokio::time::timeout(wait, self.parcels.recv_many(&mut received, MAX_RECEIVED)).await {
            Ok(0) => Err(LogError::Closing),
            _ => Ok(received),
        }
    }
}
