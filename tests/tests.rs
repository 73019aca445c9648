//! Everything that is tested through real servers, in one executable: it links once and starts Postgres once.

/// Each port of core keeps its contract, whichever adapter is behind it.
mod conformance;
/// What clients can rely on, over HTTP and WebSocket, on both engines.
mod gateway;
/// Private servers, and waiting without sleeping.
mod harness;
