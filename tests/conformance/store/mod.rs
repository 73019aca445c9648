//! The contract of the store: one suite, run against Postgres and SQLite.
//!
//! A case is a function in one of these modules; the list at the module's end makes a test of it for each database. A
//! case left off its list is dead code, which the compiler reports.

mod conversations;
mod dead_letters;
mod generations;
mod jobs;
mod marks;
mod messages;
mod migrations;
mod overviews;
mod postgres;
mod presence;
mod priors;
pub(crate) mod records;
mod revocations;
mod sqlite;
pub(crate) mod stage;
mod tenures;

/// Makes each case a test against each database.
macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        mod on_postgres {
            use $crate::conformance::store::stage::Stage;
            $(#[tokio::test] async fn $case() { super::$case(Stage::postgres().await).await })*
        }
        mod on_sqlite {
            use $crate::conformance::store::stage::Stage;
            $(#[tokio::test] async fn $case() { super::$case(Stage::sqlite().await).await })*
        }
    };
}
pub(crate) use on_every_store;
