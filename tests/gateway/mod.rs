//! What a client of the gateway can rely on.
//!
//! Cases that concern more than one process run on both engines; on the distributed one there are two gateways.

/// Who is let in, and for how long.
mod auth;
/// Requests and frames that are wrong.
mod bad_input;
/// A browser of its own, where there is one.
mod browser;
/// Connections that are refused or ended, each with its code.
mod closes;
/// Conversations, and who takes part in them.
mod conversations;
/// Devices of one user, each at its own point.
mod devices;
/// Events of any type, to conversations, users and devices.
mod events;
/// Heartbeats, and what they find.
mod heartbeats;
/// Publishing and reading over HTTP.
mod messages;
/// The description of the HTTP interface.
mod openapi;
/// Who is connected, and who is told of it.
mod presence;
/// More coming in than is stored.
mod pressure;
/// Delivered and read marks, unread counts, typing.
mod receipts;
/// What clients notice when the log loses something.
mod recovery;
/// Coming back after having been away.
mod replay;
/// WebSocket, byte by byte.
mod rfc6455;
/// What HTTP lets nobody get away with.
mod security_http;
/// Readers slower than the stream.
mod slow;
/// Server-sent events.
mod sse;
/// Everybody at once.
mod storms;
/// The same over TLS.
mod tls;
/// Frames over WebSocket.
mod websocket;
