//! One suite for each port of core; every adapter passes the same cases.

pub(crate) mod log;
mod relay;
pub(crate) mod store;
