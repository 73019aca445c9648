//! Which failures of Postgres time heals.

use sqlx::{Error, migrate::MigrateError};

use crate::store::StoreError;

/// Classes of errors that the values given are to blame for, and will be again: data, integrity, program limits.
const REFUSALS: [&str; 3] = ["22", "23", "54"];

/// What a failure means to callers. Everything that is not plainly the fault of the given values counts as unavailable,
/// a missing table or permission too: whoever gave up an event for that would give up every event.
pub(super) fn failed(error: Error) -> StoreError {
    match &error {
        Error::PoolClosed => StoreError::Closing,
        Error::Database(database) if refuses(database.code().as_deref()) => StoreError::refused(error),
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

fn refuses(code: Option<&str>) -> bool {
    code.and_then(|code| code.get(..2)).is_some_and(|class| REFUSALS.contains(&class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_own_faults_are_refusals() {
        for code in ["22021", "22001", "23505", "23502", "54000"] {
            assert!(refuses(Some(code)), "{code}");
        }
        for code in ["40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "25006", "42P01", "42501", "XX000"]
        {
            assert!(!refuses(Some(code)), "{code}");
        }
    }

    #[test]
    fn a_lost_connection_is_unavailable() {
        assert!(failed(Error::PoolTimedOut).is_retryable());
        assert!(failed(Error::Io(std::io::ErrorKind::ConnectionReset.into())).is_retryable());
        assert!(matches!(failed(Error::PoolClosed), StoreError::Closing));
    }
}
