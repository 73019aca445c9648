//! Waiting for something to become true.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(10);
/// How long a server may take to start: a disk that is still busy with what was built keeps it waiting.
pub(crate) const START: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// What a question may be answered with: `Some` or `true` ends the waiting.
pub(crate) trait Answer {
    /// What the waiting yields.
    type Value;

    /// The value, if this is the answer that was waited for.
    fn value(self) -> Option<Self::Value>;
}

impl<T> Answer for Option<T> {
    type Value = T;

    fn value(self) -> Option<T> {
        self
    }
}

impl Answer for bool {
    type Value = ();

    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

/// Asks again and again until the answer is there; panics after ten seconds with what was waited for.
pub(crate) async fn eventually<A: Answer>(what: &str, ask: impl AsyncFnMut() -> A) -> A::Value {
    within(LIMIT, what, ask).await
}

/// Asks again and again until the answer is there; panics after the limit with what was waited for.
pub(crate) async fn within<A: Answer>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> A) -> A::Value {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ask().await.value() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        sleep(PAUSE).await;
    }
}

#[tokio::test]
#[should_panic(expected = "in vain until pigs fly")]
async fn waiting_ends() {
    within(Duration::from_millis(20), "pigs fly", async || false).await;
}
