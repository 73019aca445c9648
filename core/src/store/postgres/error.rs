//! Which failures of Postgres time heals.

use sqlx::{Error, migrate::MigrateError};

use crate::store::StoreError;

/// Classes of errors that the values given are to blame for, and will be again: data, integrity, program limits.
const REFUSALS: [&str; 3] = ["22", "23", "54"];
/// What a trigger of the operator's says no with.
const RAISED: &str = "P0001";

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
    let class = code.and_then(|code| code.get(..2));
    class.is_some_and(|class| REFUSALS.contains(&class)) || code == Some(RAISED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_own_faults_are_refusals() {
        for code in ["22021", "22001", "23505", "23502", "23514", "54000", "P0001"] {
            assert!(refuses(Some(code)), "{code}");
        }
        let systemic = [
            "40001", "40P01", "08006", "25006", "42P01", "42501", "53100", "53200", "53300", "53400", "55P03", "57014",
            "57P01", "57P02", "57P03", "58000", "58030", "P0002", "XX000", "XX001",
        ];
        for code in systemic {
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
