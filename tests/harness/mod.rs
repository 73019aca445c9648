//! Private servers in temporary folders on free ports, and waiting for something to become true.
//!
//! Servers the machine may already run are never touched. A missing executable fails the test that needs it.

pub(crate) mod app;
pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod disk;
pub(crate) mod event_source;
pub(crate) mod eventually;
pub(crate) mod issuer;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
mod server;
pub(crate) mod troubled;
pub(crate) mod witness;
