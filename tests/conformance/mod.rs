//! One suite for each port of core; every adapter passes the same cases.

mod log;
mod store;
