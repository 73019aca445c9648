//! Everything that is tested through real servers, in one executable: it links once and starts Postgres once.

/// What people see who use the command line.
mod cli;
/// The deployment with containers says what the program understands.
mod compose;
/// Each port of core keeps its contract, whichever adapter is behind it.
mod conformance;
/// Real processes are killed, stopped and restarted under load.
mod durability;
/// What clients can rely on, over HTTP and WebSocket, on both engines.
mod gateway;
/// Private servers, and waiting without sleeping.
mod harness;
/// What must not be where.
mod tidy;
/// The steps of the roles, called one by one.
mod workers;
