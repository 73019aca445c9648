//! What was taken back, as this gateway knows it, and what follows for open connections.
//!
//! Once a second a gateway reads what is new in the store. Connections of a revoked token are closed; people who left a
//! conversation are shown out again, whether or not the signal that said so has arrived. A second is the most by which
//! any instance is behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use everpost_core::{
    clock::now_ms,
    name::{ConversationId, UserId},
    store::{Revocation, Revoked, Standing, Store, StoreError},
};

use super::{Gateway, claims::Grant, close::Close, session::Item};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PAGE: usize = 1_000;

/// What was revoked and has not run out.
pub(crate) struct Revocations {
    store: Arc<dyn Store>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The last entry that was read.
    last: u64,
    /// Ids, and until when they matter.
    tokens: HashMap<String, u64>,
    /// Before which instant a user's tokens are void, and until when that matters.
    users: HashMap<UserId, (u64, u64)>,
}

impl Revocations {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is new; returns who left which conversation.
    pub(crate) async fn read(&self) -> Result<Vec<(ConversationId, UserId)>, StoreError> {
        let mut left = Vec::new();
        loop {
            let after = self.known().last;
            let found = self.store.revocations(after, PAGE).await?;
            let is_all = found.len() < PAGE;
            let mut known = self.known();
            if !found.is_empty() {
                known.forget(now_ms());
            }
            left.extend(found.into_iter().filter_map(|entry| known.learn(entry)));
            if is_all {
                return Ok(left);
            }
        }
    }

    /// Whether a user's token was revoked.
    pub(crate) fn cover(&self, user: &UserId, grant: &Grant) -> bool {
        let known = self.known();
        let by_id = grant.token_id.as_ref().is_some_and(|id| known.tokens.contains_key(id));
        by_id || known.users.get(user).is_some_and(|(before, _)| grant.issued < *before)
    }
}

impl Known {
    fn learn(&mut self, entry: Revocation) -> Option<(ConversationId, UserId)> {
        self.last = self.last.max(entry.number);
        match entry.what {
            Revoked::Token(id) => {
                let until = self.tokens.entry(id).or_default();
                *until = entry.until_ms.max(*until);
                None
            }
            Revoked::Tokens { user, issued_before } => {
                let (before, until) = self.users.entry(user).or_default();
                (*before, *until) = (issued_before.max(*before), entry.until_ms.max(*until));
                None
            }
            Revoked::Part { conversation, user } => Some((conversation, user)),
        }
    }

    /// A minute more than needed, because clocks differ.
    fn forget(&mut self, now: u64) {
        let matters = |until: u64| until.saturating_add(60_000) > now;
        self.tokens.retain(|_, until| matters(*until));
        self.users.retain(|_, (_, until)| matters(*until));
    }
}

impl Gateway {
    /// Applies what is new, every second.
    pub(super) async fn watch_revocations(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.revocations.read().await {
                Ok(left) => self.show_out(left).await,
                Err(error) => tracing::debug!(%error, "what was revoked cannot be read at the moment"),
            }
            // All of them each time: one may have been let in while its token was being revoked.
            for session in self.hub.all() {
                if self.revocations.cover(&session.user, &session.grant()) {
                    session.close(Close::Unauthenticated("the token was revoked"));
                }
            }
        }
    }

    /// Tells connections here that their users left, unless they are back already.
    async fn show_out(&self, left: Vec<(ConversationId, UserId)>) {
        for (conversation, user) in left {
            let sessions = self.hub.of_user(&user);
            if sessions.is_empty() {
                continue;
            }
            let standing = self.reads.standing(&conversation, &user).await;
            if !matches!(standing, Ok(Standing::Participant)) {
                sessions.iter().for_each(|session| session.push(Item::Left(conversation.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, what: Revoked, until_ms: u64) -> Revocation {
        Revocation { number, what, until_ms }
    }

    #[test]
    fn what_has_run_out_is_forgotten() {
        let (mut known, user) = (Known::default(), UserId::new("alice").expect("a name"));
        known.learn(entry(1, Revoked::Token("a".into()), 100_000));
        known.learn(entry(2, Revoked::Token("b".into()), 900_000));
        known.learn(entry(3, Revoked::Tokens { user: user.clone(), issued_before: 5 }, 900_000));
        known.learn(entry(4, Revoked::Tokens { user, issued_before: 3 }, 100_000));
        assert_eq!((known.last, known.users.values().next()), (4, Some(&(5, 900_000))), "the stricter one holds");
        known.forget(500_000);
        assert_eq!((known.tokens.len(), known.users.len()), (1, 1));
        known.forget(1_000_000);
        assert_eq!((known.tokens.len(), known.users.len()), (0, 0));
    }
}
