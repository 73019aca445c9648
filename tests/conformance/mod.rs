//! One suite for each port of core; every adapter passes the same cases.

mod crashes;
pub(crate) mod log;
mod recovery;
mod relay;
mod roster;
pub(crate) mod store;
