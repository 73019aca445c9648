//! Which failures of SQLite time heals.

use sqlx::{Error, migrate::MigrateError};

use crate::{
    disk::{DiskFailed, Failure},
    store::StoreError,
};

const TOO_BIG: i32 = 18;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const RANGE: i32 = 25;

/// What a failure means to callers. Everything that is not plainly the fault of the given values counts as unavailable,
/// a full disk too: whoever gave up an event for that would give up every event.
pub(super) fn failed(error: Error) -> StoreError {
    match &error {
        Error::PoolClosed => StoreError::Closing,
        Error::Database(database) => {
            match (Failure::of(database.code().as_deref()), primary(database.code().as_deref())) {
                (Failure::Unknown, _) => DiskFailed::new("store.db", database).into(),
                (Failure::Damaged, _) => StoreError::Damaged(error.to_string()),
                (_, Some(TOO_BIG | CONSTRAINT | MISMATCH | RANGE)) => StoreError::refused(error),
                _ => StoreError::unavailable(error),
            }
        }
        Error::Encode(_) | Error::Configuration(_) | Error::InvalidArgument(_) => StoreError::refused(error),
        Error::Decode(_) | Error::ColumnDecode { .. } | Error::ColumnNotFound(_) | Error::RowNotFound => {
            StoreError::Damaged(error.to_string())
        }
        _ => StoreError::unavailable(error),
    }
}

/// What a failed migration means.
pub(super) fn failed_migration(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(cause) => failed(cause),
        MigrateError::ExecuteMigration(cause, _) => failed(cause),
        other => StoreError::Damaged(other.to_string()),
    }
}

/// The lowest byte of an extended result code names the kind of failure.
fn primary(code: Option<&str>) -> Option<i32> {
    code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_codes_count_as_their_kind() {
        assert_eq!(primary(Some("2067")), Some(CONSTRAINT), "SQLITE_CONSTRAINT_UNIQUE");
        assert_eq!(primary(Some("517")), Some(5), "SQLITE_BUSY_SNAPSHOT");
        assert_eq!(primary(None), None);
    }

    #[test]
    fn a_crowded_pool_is_unavailable() {
        assert!(failed(Error::PoolTimedOut).is_retryable());
        assert!(matches!(failed(Error::PoolClosed), StoreError::Closing));
    }
}
