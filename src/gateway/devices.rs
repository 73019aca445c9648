//! The cursors devices acknowledge, saved once a second and for all of them together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use everpost_core::{
    name::{DeviceId, UserId},
    store::Store,
};

/// Cursors that wait while the database is away; what is beyond is forgotten and costs repeats.
const MAX_WAITING: usize = 20_000;

/// Acknowledged cursors that wait to be saved.
#[derive(Default)]
pub(crate) struct Devices {
    waiting: Mutex<HashMap<(UserId, DeviceId), String>>,
    saving: tokio::sync::Mutex<()>,
}

impl Devices {
    /// Notes a cursor; a later one of the same device replaces it.
    pub(crate) fn note(&self, user: UserId, device: DeviceId, cursor: String) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert((user, device), cursor);
    }

    /// Saves what waits; when it returns, so has everything that was being saved. What could not be saved waits for the
    /// next time. A loss costs a device some repeats after its next resume, nothing more.
    pub(crate) async fn save(&self, store: &Arc<dyn Store>) {
        let _one_at_a_time = self.saving.lock().await;
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let cursors: Vec<_> = waiting.into_iter().map(|((user, device), cursor)| (user, device, cursor)).collect();
        if !cursors.is_empty()
            && let Err(error) = store.save_cursors(&cursors).await
        {
            tracing::debug!(%error, devices = cursors.len(), "cursors were not saved this time");
            if error.is_retryable() {
                self.wait_again(cursors);
            }
        }
    }

    /// Unless the device has acknowledged more meanwhile.
    fn wait_again(&self, cursors: Vec<(UserId, DeviceId, String)>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_WAITING.saturating_sub(waiting.len());
        for (user, device, cursor) in cursors.into_iter().take(room) {
            waiting.entry((user, device)).or_insert(cursor);
        }
    }
}
