//! Everything that is tested through real servers, in one executable: it links once and starts Postgres once.

/// Each port of core keeps its contract, whichever adapter is behind it.
mod conformance;
/// Private servers, and waiting without sleeping.
mod harness;
