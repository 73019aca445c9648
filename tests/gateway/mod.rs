//! What a client of the gateway can rely on.
//!
//! Cases that concern more than one process run on both engines; on the distributed one there are two gateways.

/// Conversations, and who takes part in them.
mod conversations;
/// Publishing and reading over HTTP.
mod messages;
/// Frames over WebSocket.
mod websocket;
