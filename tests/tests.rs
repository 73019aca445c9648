//! Everything that is tested through real servers, in one executable: it links once and starts Postgres once.

/// What the admin listener tells.
mod admin;
/// No secret and no payload is where it must not be.
mod canaries;
/// What people see who use the command line.
mod cli;
/// The deployment with containers says what the program understands.
mod compose;
/// Each port of core keeps its contract, whichever adapter is behind it.
mod conformance;
/// Nothing accepted goes missing without an alarm.
mod conservation;
/// The embedded engine on a disk that fails.
mod disk;
/// Real processes are killed, stopped and restarted under load.
mod durability;
/// What clients can rely on, over HTTP and WebSocket, on both engines.
mod gateway;
/// Private servers, and waiting without sleeping.
#[allow(dead_code, reason = "the fault suite uses the rest of it")]
mod harness;
/// Entries vanish from the log, and no conversation keeps a hole.
mod holes;
/// One bad event among many costs nobody else anything.
mod poison;
/// The checklist of docs/security.md, and what of it has no better place.
mod security;
/// What must not be where.
mod tidy;
/// The steps of the roles, called one by one.
mod workers;
