//! When a disk fails: what may be tried again, and what nobody can know any more.
//!
//! SQLite undoes a transaction it could not write, so a full disk costs time and nothing else. A failed flush is
//! different: the kernel may drop what it could not write and call the next flush a success, so from then on nobody
//! knows what is on the disk. The file is left alone and the process ends; the next one reads what is there.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

const FULL: i32 = 13;
const CORRUPT: i32 = 11;
const NOT_A_DATABASE: i32 = 26;
/// `SQLITE_IOERR_FSYNC`, `SQLITE_IOERR_DIR_FSYNC`, `SQLITE_IOERR_TRUNCATE`: what is in the file is not known any more.
const UNKNOWN: [i32; 3] = [10 | 4 << 8, 10 | 5 << 8, 10 | 6 << 8];

/// What a failure of SQLite says about its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No room; nothing was changed.
    Full,
    /// Nothing was changed, and time may help.
    Passing,
    /// The file holds something unreadable.
    Damaged,
    /// Nobody knows what is in the file.
    Unknown,
}

impl Failure {
    /// The failure behind a result code, extended or not.
    pub(crate) fn of(code: Option<&str>) -> Self {
        match code.and_then(|code| code.parse::<i32>().ok()) {
            Some(code) if UNKNOWN.contains(&code) => Self::Unknown,
            Some(code) => match code & 0xff {
                FULL => Self::Full,
                CORRUPT | NOT_A_DATABASE => Self::Damaged,
                _ => Self::Passing,
            },
            None => Self::Passing,
        }
    }
}

/// A disk did not keep what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk did not keep what was written to {file} ({cause}), and nobody knows what is on it now; look after the \
     disk and start again: what was acknowledged before is read from there"
)]
pub struct DiskFailed {
    file: &'static str,
    cause: Arc<str>,
}

impl DiskFailed {
    pub(crate) fn new(file: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self { file, cause: cause.to_string().into() }
    }
}

/// Rings when the disk under a file has failed for good. Clones are one alarm.
#[derive(Debug, Clone)]
pub struct Alarm(watch::Sender<Option<DiskFailed>>);

impl Alarm {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn ring(&self, failed: &DiskFailed) {
        self.0.send_replace(Some(failed.clone()));
    }

    /// Whether it has rung.
    pub(crate) fn has_rung(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it rings, for ever as long as the disk is sound.
    pub fn rung(&self) -> impl Future<Output = DiskFailed> + Send + 'static {
        let mut failed = self.0.subscribe();
        async move {
            let heard = failed.wait_for(Option::is_some).await.ok().and_then(|failed| failed.clone());
            match heard {
                Some(failed) => failed,
                None => std::future::pending().await, // the file was closed in order
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_flush_leaves_the_file_unknown() {
        let failures =
            ["13", "778", "1034", "1290", "5", "4874", "11", "26", "nonsense"].map(|code| Failure::of(Some(code)));
        let expected = [
            Failure::Full,
            Failure::Passing, // SQLITE_IOERR_WRITE: undone
            Failure::Unknown,
            Failure::Unknown,
            Failure::Passing, // SQLITE_BUSY
            Failure::Passing, // SQLITE_IOERR_SHMSIZE
            Failure::Damaged,
            Failure::Damaged,
            Failure::Passing,
        ];
        assert_eq!(failures, expected);
    }

    #[tokio::test]
    async fn an_alarm_rings_for_whoever_waits_and_for_who_comes_late() {
        let alarm = Alarm::new();
        let early = alarm.rung();
        assert!(!alarm.has_rung());
        alarm.ring(&DiskFailed::new("log.db", &"no flush"));
        assert_eq!(early.await, alarm.rung().await);
        assert!(alarm.has_rung());
    }
}
