//! The contract of the log: one suite, run against Redis and SQLite.
//!
//! A case is a function in one of these modules; the list at the module's end makes a test of it for each log. A case
//! left off its list is dead code, which the compiler reports.

mod admission;
mod append;
pub(crate) mod drafts;
mod followers;
mod leases;
mod reading;
mod redis;
mod repeats;
mod restart;
mod sqlite;
pub(crate) mod stage;
mod trimming;

/// Makes each case a test against each log.
macro_rules! on_every_log {
    ($($case:ident),* $(,)?) => {
        mod on_redis {
            use $crate::conformance::log::stage::Stage;
            $(#[tokio::test] async fn $case() { super::$case(Stage::redis().await).await })*
        }
        mod on_sqlite {
            use $crate::conformance::log::stage::Stage;
            $(#[tokio::test] async fn $case() { super::$case(Stage::sqlite().await).await })*
        }
    };
}
use on_every_log;
