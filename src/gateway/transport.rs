//! What carries a connection's frames to its client: a WebSocket, or a stream of server-sent events, which only sends.

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use everpost_core::cursor::Cursor;
use futures_util::SinkExt;

use super::{
    FAREWELL,
    close::{self, Close},
    connection::End,
    event_stream::EventStream,
};

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all connections are WebSockets, and a box would cost each of them"
)]
pub(super) enum Transport {
    WebSocket(WebSocket),
    /// Boxed, so that idle WebSockets do not pay for it.
    EventStream(Box<EventStream>),
}

impl Transport {
    /// What the client sent; `None` when it is gone. A stream of events only ever notices that.
    pub(super) async fn recv(&mut self) -> Option<Result<Message, axum::Error>> {
        match self {
            Self::WebSocket(socket) => socket.recv().await,
            Self::EventStream(stream) => {
                Box::pin(stream.gone()).await;
                None
            }
        }
    }

    /// Writes a frame to a client that has everything up to `seen` once it has this.
    pub(super) async fn feed(&mut self, text: Utf8Bytes, seen: &Cursor) -> Result<(), End> {
        match self {
            Self::WebSocket(socket) => Ok(socket.feed(Message::Text(text)).await?),
            Self::EventStream(stream) => stream.feed(&text, seen).await,
        }
    }

    /// Sends what was written.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        match self {
            Self::WebSocket(socket) => Ok(socket.flush().await?),
            Self::EventStream(stream) => stream.flush().await,
        }
    }

    /// A sign of life that means nothing.
    pub(super) async fn ping(&mut self) -> Result<(), End> {
        match self {
            Self::WebSocket(socket) => Ok(socket.feed(Message::Ping(Vec::new().into())).await?),
            Self::EventStream(stream) => {
                stream.comment();
                Ok(())
            }
        }
    }

    /// Says farewell and waits a moment until the client has done the same.
    pub(super) async fn close(&mut self, close: &Close) {
        match self {
            Self::WebSocket(socket) => close.tell(socket).await,
            Self::EventStream(stream) => {
                let _ = tokio::time::timeout(FAREWELL, stream.close(close)).await; // it may be long gone
            }
        }
    }

    /// Answers the client's goodbye; a stream of events never hears one.
    pub(super) async fn answer(&mut self) {
        if let Self::WebSocket(socket) = self {
            close::answer(socket).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_websocket_pays_nothing_for_the_other_kind() {
        assert_eq!(size_of::<Transport>(), size_of::<WebSocket>());
    }
}
