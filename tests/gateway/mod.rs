//! What a client of the gateway can rely on.
//!
//! Cases that concern more than one process run on both engines; on the distributed one there are two gateways.

/// Requests and frames that are wrong.
mod bad_input;
/// A browser of its own, where there is one.
mod browser;
/// Connections that are refused or ended, each with its code.
mod closes;
/// Conversations, and who takes part in them.
mod conversations;
/// Publishing and reading over HTTP.
mod messages;
/// The description of the HTTP interface.
mod openapi;
/// More coming in than is stored.
mod pressure;
/// What clients notice when the log loses something.
mod recovery;
/// Coming back after having been away.
mod replay;
/// What HTTP lets nobody get away with.
mod security_http;
/// Readers slower than the stream.
mod slow;
/// Server-sent events.
mod sse;
/// The same over TLS.
mod tls;
/// Frames over WebSocket.
mod websocket;
