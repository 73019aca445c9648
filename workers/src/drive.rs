//! The one loop: step after step, with a pause after failures, until told to stop.

use std::{
    error::Error,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use everpost_core::{retry::Policy, role::Role};
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::{StepError, WorkerMetrics};

/// At most one line in this time about a failure that repeats itself.
const QUIET: Duration = Duration::from_secs(1);

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It handled this many records; there may be more.
    Worked(usize),
    /// There was nothing, although it waited a while.
    Idle,
}

/// Work in bounded pieces.
#[async_trait]
pub trait Worker: Send {
    /// What for: log field, metric label.
    const ROLE: Role;

    /// Does a bounded amount of work, or waits a bounded time for some. After an error the same work is tried again by
    /// the next call. Is never cancelled.
    async fn step(&mut self) -> Result<Step, StepError>;

    /// A step has panicked. The next one is about the same work, and had better find out what was the matter with it.
    fn panicked(&mut self) {}

    /// No step follows.
    async fn end(&mut self) {}
}

/// Steps until `stop`; a step that has begun is finished. One that panics is a failure like any other: the next record
/// is not to blame, nor is the rest of the process.
pub async fn drive<W: Worker>(mut worker: W, metrics: &WorkerMetrics, stop: &CancellationToken) {
    let (mut failures, mut complained) = (0_u32, None::<Instant>);
    while !stop.is_cancelled() {
        let began = Instant::now();
        let step = AssertUnwindSafe(worker.step()).catch_unwind().await;
        if step.is_err() {
            worker.panicked();
        }
        match step.unwrap_or(Err(StepError::Panicked)) {
            Ok(step) => {
                failures = 0;
                metrics.stepped(W::ROLE, step, began.elapsed());
            }
            Err(error) => {
                metrics.failed(W::ROLE);
                if complained.is_none_or(|last| last.elapsed() >= QUIET) {
                    complain(W::ROLE, &error, failures);
                    complained = Some(Instant::now());
                }
                let pause = Policy::RECONNECT.delay(failures);
                failures = failures.saturating_add(1);
                let _ = tokio::time::timeout(pause, stop.cancelled()).await; // whichever comes first
            }
        }
    }
    worker.end().await;
}

fn complain(role: Role, error: &StepError, failures: u32) {
    let cause = error.source().map(ToString::to_string);
    if error.is_retryable() {
        tracing::warn!(%role, error = %error, cause, failures, "a step failed and will be tried again");
    } else {
        tracing::error!(%role, error = %error, cause, failures, "a step fails and needs somebody to look");
    }
}
