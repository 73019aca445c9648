//! What Everpost knows about events, wherever it runs.
//!
//! Here belong: the events themselves, the durable [`log`] they are accepted into, the [`store`] they end up in, the
//! [`relay`] that carries them to the gateways with listeners, the [`roster`] of who is connected, and the pure rules
//! about events (sequence, cursor, identity, backoff). Each of the four ports is a trait with a distributed adapter (Redis, Postgres) and an embedded
//! one (SQLite, memory); both pass one conformance suite.
//!
//! Deliberately absent: HTTP, the environment, the command line and signals. `redis` and `sqlx` appear in adapter files
//! only. No `static` holds state.

pub mod circuit;
pub mod clock;
pub mod coalesce;
pub mod content;
pub mod cursor;
pub mod disk;
pub mod event;
pub mod generation;
pub mod identity;
pub mod json;
pub mod lease;
pub mod log;
pub mod name;
pub mod partition;
pub mod position;
pub mod pressure;
pub mod recovery;
pub mod relay;
pub mod retry;
pub mod role;
pub mod roster;
pub mod store;
