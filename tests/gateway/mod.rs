//! What a client of the gateway can rely on.
//!
//! Cases that concern more than one process run on both engines; on the distributed one there are two gateways.

/// Requests and frames that are wrong.
mod bad_input;
/// Connections that are refused or ended, each with its code.
mod closes;
/// Conversations, and who takes part in them.
mod conversations;
/// Events of any type, to conversations, users and devices.
mod events;
/// Publishing and reading over HTTP.
mod messages;
/// Who is connected, and who is told of it.
mod presence;
/// More coming in than is stored.
mod pressure;
/// What clients notice when the log loses something.
mod recovery;
/// Coming back after having been away.
mod replay;
/// Readers slower than the stream.
mod slow;
/// Frames over WebSocket.
mod websocket;
