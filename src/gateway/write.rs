//! Writes to a client, and whether they had to wait for it.

use std::{pin::pin, task::Context};

use axum::extract::ws::Utf8Bytes;

use super::connection::{Connection, End, Given};

/// What came of a write.
struct Written {
    outcome: Result<(), End>,
    /// The system's buffer was full, so the client had to read something first.
    waited: bool,
}

/// Writes, and notes whether that was possible at once.
async fn watch(write: impl Future<Output = Result<(), End>>) -> Written {
    let (mut write, mut waited) = (pin!(write), false);
    let polled = |context: &mut Context<'_>| {
        let poll = write.as_mut().poll(context);
        waited |= poll.is_pending();
        poll
    };
    let outcome = std::future::poll_fn(polled).await;
    Written { outcome, waited }
}

impl Connection {
    /// Gives the client a sequenced frame.
    pub(super) async fn give(&mut self, seq: u64, text: Utf8Bytes) -> Result<(), End> {
        self.given = Given { frames: self.given.frames + 1, seq };
        self.feed(text).await
    }

    pub(super) async fn feed(&mut self, text: Utf8Bytes) -> Result<(), End> {
        let fed = watch(self.transport.feed(text, &self.seen)).await;
        self.written(fed)
    }

    /// A sign of life that means nothing.
    pub(super) async fn feed_ping(&mut self) -> Result<(), End> {
        let fed = watch(self.transport.ping()).await;
        self.written(fed)
    }

    pub(super) async fn flush(&mut self) -> Result<(), End> {
        let flushed = watch(self.transport.flush()).await;
        self.written(flushed)
    }

    pub(super) async fn send(&mut self, text: Utf8Bytes) -> Result<(), End> {
        self.feed(text).await?;
        self.flush().await
    }

    /// A write that had to wait and then went through shows that somebody reads, however slowly, and whatever they say
    /// meanwhile waits unread.
    fn written(&self, Written { outcome, waited }: Written) -> Result<(), End> {
        if waited && outcome.is_ok() {
            self.session.hear(self.gateway.seconds());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

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
