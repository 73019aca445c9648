//! Who may come in now: when everybody comes back at once, they are let in at a rate, in the order in which they ask.
//!
//! Whoever would have to wait too long is sent away with a time to come back after, before its connection costs
//! anything. What has come in then reads where it stands and what it missed; a bounded number do so at a time.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;

/// How long a connection waits for its turn at most. Longer, and its client would think us dead.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// As many as come within this time without others before them do not wait.
const BURST: Duration = Duration::from_secs(1);
/// How many connections may be reading at a time: enough for equal questions to meet, few enough to bound what their
/// pages weigh.
const READING: usize = 256;

pub(super) struct Gate {
    /// Between two connections.
    interval: Duration,
    opened: Instant,
    /// When the next one may come in, since the gate was opened.
    next: Mutex<Duration>,
    reading: Semaphore,
}

impl Gate {
    /// A gate that lets in so many connections a second.
    pub(super) fn new(rate: NonZeroU32) -> Self {
        let interval = Duration::from_secs(1) / rate.get();
        Self { interval, opened: Instant::now(), next: Mutex::default(), reading: Semaphore::new(READING) }
    }

    /// Waits for one's turn.
    pub(super) async fn enter(&self, stopping: &CancellationToken) -> Result<(), ApiError> {
        let Some(wait) = self.turn(BURST + self.opened.elapsed()) else { return Err(ApiError::crowded()) };
        if wait.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = stopping.cancelled() => Err(ApiError::crowded()),
        }
    }

    /// How long to wait for the next turn, which is then taken; `None` if that is too long.
    fn turn(&self, now: Duration) -> Option<Duration> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now.saturating_sub(BURST));
        let wait = turn.saturating_sub(now);
        if wait > LONGEST_WAIT {
            return None;
        }
        *next = turn + self.interval;
        Some(wait)
    }

    /// Waits until few enough are reading.
    pub(super) async fn reading(&self) -> Option<SemaphorePermit<'_>> {
        self.reading.acquire().await.ok() // it is never closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(rate: u32) -> Gate {
        Gate::new(NonZeroU32::new(rate).expect("not zero"))
    }

    #[test]
    fn a_burst_comes_in_and_the_rest_one_after_the_other() {
        let (gate, now) = (gate(10), Duration::from_secs(100));
        let waits: Vec<u128> = (0..14).filter_map(|_| gate.turn(now)).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 200, 300]);
        let later = now + Duration::from_secs(60);
        assert_eq!(
            (0..11).filter(|_| gate.turn(later) == Some(Duration::ZERO)).count(),
            11,
            "quiet times are forgiven"
        );
        assert_eq!(gate.turn(later), Some(Duration::from_millis(100)), "but not saved up");
    }

    #[test]
    fn whoever_would_wait_too_long_is_sent_away() {
        let (gate, now) = (gate(10), Duration::from_secs(100));
        let let_in = (0..1_000).filter(|_| gate.turn(now).is_some()).count();
        assert_eq!(let_in, 51, "a second's worth at once, and four seconds' worth waiting");
        assert_eq!(
            gate.turn(now + Duration::from_secs(1)),
            Some(Duration::from_millis(3_100)),
            "the refused took no turn"
        );
    }

    #[tokio::test]
    async fn nobody_waits_while_the_process_stops() {
        let (gate, stopping) = (gate(1), CancellationToken::new());
        stopping.cancel();
        gate.enter(&stopping).await.expect("the first does not wait");
        gate.enter(&stopping).await.expect("nor the second");
        let refused = gate.enter(&stopping).await;
        assert!(refused.is_err_and(|refused| refused.retry_after().is_some()));
    }
}
