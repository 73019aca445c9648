//! Writes to a client, and whether they had to wait for it.

use std::{
    pin::pin,
    task::{Context, Poll},
};

/// What came of a write.
pub(super) struct Written {
    pub(super) outcome: Result<(), axum::Error>,
    /// The system's buffer was full, so the client had to read something first.
    pub(super) waited: bool,
}

/// Writes, and notes whether that was possible at once.
pub(super) async fn watch(write: impl Future<Output = Result<(), axum::Error>>) -> Written {
    let (mut write, mut waited) = (pin!(write), false);
    let polled = |context: &mut Context<'_>| {
        let poll = write.as_mut().poll(context);
        waited |= poll.is_pending();
        poll
    };
    let outcome = std::future::poll_fn(polled).await;
    Written { outcome, waited }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_write_that_was_not_possible_at_once_has_waited() {
        assert!(!watch(async { Ok(()) }).await.waited);
        let mut full = true;
        let later = std::future::poll_fn(|context: &mut Context<'_>| {
            context.waker().wake_by_ref();
            if std::mem::take(&mut full) { Poll::Pending } else { Poll::Ready(Ok(())) }
        });
        let written = watch(later).await;
        assert!(written.waited && written.outcome.is_ok());
    }
}
