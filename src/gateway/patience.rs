//! What is asked again before a client is sent away: the log is being renewed, the database restarts.

use std::time::{Duration, Instant};

use everpost_core::retry::Policy;
use tokio_util::sync::CancellationToken;

use super::{
    Gateway,
    error::ApiError,
    replay::{Page, Replay},
};

/// How long a connection that is about to begin waits for what it needs. Longer, and its client thinks us dead.
pub(super) const LONGEST: Duration = Duration::from_secs(8);
/// The delays between two questions.
const AGAIN: Policy = Policy { base: Duration::from_millis(100), cap: Duration::from_secs(2) };

/// A time within which things may fail.
pub(super) struct Patience<'a> {
    until: Instant,
    stopping: &'a CancellationToken,
}

impl<'a> Patience<'a> {
    pub(super) fn new(stopping: &'a CancellationToken) -> Self {
        Self { until: Instant::now() + LONGEST, stopping }
    }

    /// Asks until there is an answer, or no more time.
    pub(super) async fn ask<T, A>(&self, mut ask: impl FnMut() -> A) -> Result<T, ApiError>
    where
        A: Future<Output = Result<T, ApiError>>,
    {
        for attempt in 0.. {
            match ask().await {
                Err(error) if is_passing(&error) && self.lasts() => {
                    tokio::time::sleep(AGAIN.delay(attempt)).await;
                }
                answer => return answer,
            }
        }
        Err(ApiError::Internal)
    }

    fn lasts(&self) -> bool {
        Instant::now() < self.until && !self.stopping.is_cancelled()
    }
}

fn is_passing(error: &ApiError) -> bool {
    matches!(error, ApiError::Unavailable(_))
}

impl Gateway {
    /// The next page of a replay, at whose reading a bounded number take part. A client that is connected waits for it
    /// as long as it takes: meanwhile it can publish, and sending it away would only bring it back.
    pub(super) async fn next_page(&self, replay: &mut Replay) -> Result<Option<Page>, ApiError> {
        for attempt in 0.. {
            let page = {
                let _turn = self.gate.reading().await;
                replay.next(&self.reads).await
            };
            match page {
                Err(error) if is_passing(&error) => tokio::time::sleep(AGAIN.delay(attempt)).await,
                page => return page,
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_is_waited_for_and_nothing_else() {
        let stopping = CancellationToken::new();
        let patience = Patience::new(&stopping);
        let mut tries = 0;
        let answer = patience.ask(|| {
            tries += 1;
            let answer = if tries < 3 { Err(ApiError::Unavailable("in a test")) } else { Ok(tries) };
            async move { answer }
        });
        assert_eq!(answer.await.expect("it came in the end"), 3);
        let refused = patience.ask(|| async { Err::<(), _>(ApiError::Forbidden("in a test")) });
        assert!(matches!(refused.await, Err(ApiError::Forbidden(_))));
        stopping.cancel();
        let stopped = patience.ask(|| async { Err::<(), _>(ApiError::Unavailable("in a test")) });
        assert!(matches!(stopped.await, Err(ApiError::Unavailable(_))), "nobody waits while the process stops");
    }
}
