//! The loops that carry events from the log to where they belong.
//!
//! A [`Worker`] is a step: a bounded amount of work that says whether there was any. [`drive()`] repeats it and owns
//! waiting, backing off and stopping; tests call the step. Workers do not know each other: they meet in the log and the
//! store. Every step may be repeated, acknowledgements come last.
//!
//! Deliberately absent: configuration, sockets towards clients, and any state that a crash would miss.

mod audit;
mod caution;
mod drive;
mod fanout;
mod history;
mod holes;
mod metrics;
mod ownership;
mod persist;
mod pressure;

use std::sync::Arc;

use everpost_core::{
    lease::Leases,
    log::{Log, LogError},
    recovery::Recovery,
    relay::Relay,
    role::Role,
    roster::Roster,
    store::{Store, StoreError},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    drive::{Step, Worker, drive},
    fanout::Fanout,
    history::register_recovery,
    metrics::WorkerMetrics,
    ownership::{Held, Ownership},
    persist::Persist,
    pressure::{Outlook, Pressure, PressureMetrics, Watcher},
};

/// What the workers work with.
#[derive(Clone)]
pub struct Ports {
    /// Where events are accepted.
    pub log: Arc<dyn Log>,
    /// Who works on what.
    pub leases: Arc<dyn Leases>,
    /// The way to the gateways.
    pub relay: Arc<dyn Relay>,
    /// Who is connected.
    pub roster: Arc<dyn Roster>,
    /// Where events stay.
    pub store: Arc<dyn Store>,
    /// Who notices when the log has lost something.
    pub recovery: Arc<Recovery>,
}

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The log or the relay.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody expected it.
    #[error("a step panicked")]
    Panicked,
}

impl StepError {
    /// Whether the same step can succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Log(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            Self::Panicked => false,
        }
    }
}

/// Runs one role until it is told to stop, then finishes the step it is in and hands its partitions over.
///
/// Any number of processes may run the same role: they share the partitions.
pub async fn run(
    role: Role,
    ports: Ports,
    pressure: Pressure,
    metrics: WorkerMetrics,
    stop: CancellationToken,
) -> Result<(), StepError> {
    let follower = ports.log.follow(role).await?;
    let (mut ownership, held) = Ownership::new(role, ports.leases.clone(), ports.log.partitions());
    // The leases outlive the work by one step, so that the last acknowledgement still counts.
    let keeping = CancellationToken::new();
    let keep = ownership.keep(keeping.clone());
    let work = async {
        match role {
            Role::Persist => {
                let persist = Persist::new(follower, held, ports).under(pressure).counting(metrics.clone());
                drive(persist, &metrics, &stop).await;
            }
            Role::Fanout => drive(Fanout::new(follower, held, ports), &metrics, &stop).await,
        }
        keeping.cancel();
    };
    tokio::join!(keep, work);
    Ok(())
}
