//! What can go wrong with the log, and whether trying again helps.

use std::{error::Error, sync::Arc};

use crate::{coalesce::Stopped, disk::DiskFailed};

/// A failure of the log. Cheap to clone, because one failed batch answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// It did not answer, or said it cannot now; nothing is known about the outcome of a write.
    #[error("the event log is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// It has no room for more events until some are stored.
    #[error("the event log is full")]
    Full,
    /// It was restarted or has lost something, and is being brought back; nothing was changed.
    #[error("the event log is coming back and takes nothing for a moment")]
    Renewing,
    /// The lease belongs to somebody else by now.
    #[error("another worker owns this partition")]
    Fenced,
    /// What is in the log contradicts what this process was told; somebody has to look.
    #[error("the event log is not what it was: {0}")]
    Damaged(String),
    /// It is set up in a way that would make a promise false.
    #[error("{0}")]
    Unsuitable(String),
    /// Nobody knows what its disk holds; this process ends, and the next one reads it.
    #[error(transparent)]
    Disk(#[from] DiskFailed),
    /// The process is stopping.
    #[error("the event log is closing")]
    Closing,
}

impl LogError {
    /// Wraps whatever an adapter met on the way to its backend.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(cause.into()))
    }

    /// Whether the same call can succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full | Self::Renewing | Self::Disk(_) | Self::Closing)
    }
}

impl From<Stopped> for LogError {
    fn from(_: Stopped) -> Self {
        Self::Closing
    }
}
