//! What can go wrong with the store, and whether trying again helps.

use std::{error::Error, sync::Arc};

use crate::{coalesce::Stopped, disk::DiskFailed, position::Position};

/// A failure of the store. Cheap to clone, because one failed read answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It did not answer, or said it cannot now.
    #[error("the database is unavailable")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// A newer owner has written already; nothing was changed.
    #[error("another worker owns this partition")]
    Fenced,
    /// Another event already has this place. Two histories exist; somebody has to look.
    #[error("the place of the event at {0:?} is taken by another event")]
    Fork(Position),
    /// It refused what it was given, and will again.
    #[error("the database refused the operation")]
    Refused(#[source] Arc<dyn Error + Send + Sync>),
    /// What it holds cannot be read.
    #[error("the database holds something unreadable: {0}")]
    Damaged(String),
    /// Nobody knows what its disk holds; this process ends, and the next one reads it.
    #[error(transparent)]
    Disk(#[from] DiskFailed),
    /// The process is stopping.
    #[error("the database is closing")]
    Closing,
}

impl StoreError {
    /// Wraps a failure that time may heal.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(cause.into()))
    }

    /// Wraps a refusal.
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(Arc::from(cause.into()))
    }

    /// Whether the same call can succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Disk(_) | Self::Closing)
    }
}

impl From<Stopped> for StoreError {
    fn from(_: Stopped) -> Self {
        Self::Closing
    }
}
