//! How long partitions are without an owner who works.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    sentry::{self, Owners},
    stage::Stage,
};

const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// A look at the leases that goes on until they are as they should be.
pub(crate) struct Watch {
    url: String,
    before: Owners,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    /// For each lease that changed hands, how long after the moment.
    pub(crate) after: Vec<Duration>,
    /// For each of those, how long it was seen without an owner.
    pub(crate) orphaned: Vec<Duration>,
    /// Whether it came to the expected end.
    pub(crate) is_complete: bool,
}

impl Watch {
    /// Waits until two workers share every role, and remembers who owns what.
    pub(crate) async fn begin(stage: &Stage) -> Self {
        let url = stage.cluster.redis.url();
        let before =
            until(&url, |owners| shared_by(owners) == Some(2)).await.expect("two workers share the partitions");
        Self { url, before }
    }

    /// Whether every lease has the owner it had.
    pub(crate) async fn is_unchanged(&self) -> bool {
        until(&self.url, |_| true).await.as_ref() == Some(&self.before)
    }

    /// Watches until one worker has everything.
    pub(crate) async fn until_one_is_left(&self, moment: Instant) -> Takeover {
        let mut seen = Takeover::default();
        let (mut current, mut orphans) = (self.before.clone(), std::collections::HashMap::new());
        let complete = until(&self.url, |owners| {
            for (lease, owner) in owners {
                if owner.name.is_none() {
                    orphans.entry(*lease).or_insert_with(Instant::now);
                } else if current.get(lease).is_none_or(|before| before.token != owner.token) {
                    seen.after.push(moment.elapsed());
                    let orphaned: Option<Instant> = orphans.remove(lease);
                    seen.orphaned.push(orphaned.map_or(Duration::ZERO, |since| since.elapsed()));
                }
            }
            current.clone_from(owners);
            shared_by(owners) == Some(1)
        });
        let is_complete = complete.await.is_some();
        Takeover { is_complete, ..seen }
    }
}

/// How many workers share the partitions; nothing while a partition has no owner or the roles differ.
fn shared_by(owners: &Owners) -> Option<usize> {
    let of = |role: &str| {
        let owned = owners.iter().filter(|((of, _), _)| *of == role);
        let names: Option<HashSet<&str>> = owned.map(|(_, owner)| owner.name.as_deref()).collect();
        names.map(|names| names.len())
    };
    of("persist").filter(|count| of("fanout") == Some(*count))
}

async fn until(url: &str, mut is: impl FnMut(&Owners) -> bool) -> Option<Owners> {
    let (began, mut connection) = (Instant::now(), None);
    while began.elapsed() < PATIENCE {
        if connection.is_none() {
            connection = sentry::connect(url).await;
        }
        match async { sentry::owners(connection.as_mut()?).await }.await {
            Some(owners) if is(&owners) => return Some(owners),
            Some(_) => {}
            None => connection = None,
        }
        sleep(LOOK).await;
    }
    None
}
