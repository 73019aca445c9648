//! Everpost as one program: the gateway, the admin listener, and the composition of roles into processes.
//!
//! Everything is here rather than in `main`, so that tests can run any part of it. Configuration is read in
//! [`config`] only; parsing opens nothing, opening starts nothing, running is one call, stopping is a token.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod engine;
pub mod gateway;
mod open_files;
pub mod shutdown;
pub mod telemetry;
