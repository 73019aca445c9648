//! Why the server closes a connection: one table. 4001 and 4003 tell a client not to come back without a change.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use everpost_core::retry::Policy;
use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, error::ProtocolError};

use super::{
    FAREWELL,
    error::{ApiError, wait_ms},
};

/// How long a client is sent away for when we cannot serve it now, at least, and the random time on top of it.
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
const SPREAD: Policy = Policy { base: Duration::from_secs(5), cap: Duration::from_secs(5) };

/// A reason to close, with its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Close {
    /// The service is going away; come back after so many milliseconds.
    GoingAway { reconnect_after_ms: u64 },
    /// A frame that is not WebSocket, or not in a form we read.
    ProtocolError,
    /// Text that is not UTF-8.
    NotText,
    /// A frame beyond the size limit.
    TooBig { limit: usize },
    /// Something failed on our side.
    Internal,
    /// What we need does not answer; come back after so many milliseconds.
    TryLater { reconnect_after_ms: u64 },
    /// No token, not ours, or run out.
    Unauthenticated(&'static str),
    /// No part in this conversation.
    Forbidden,
    /// Too slow; resume with the last cursor.
    TooSlow,
    /// Not heard of for too long.
    Silent,
    /// Too many connections or requests.
    TooMany(&'static str),
}

impl Close {
    /// What a failed read deserves; nothing when the client is gone.
    pub(crate) fn after(error: axum::Error, limit: usize) -> Option<Self> {
        match error.into_inner().downcast::<Error>().map(|error| *error) {
            Ok(Error::Capacity(_)) => Some(Self::TooBig { limit }),
            Ok(Error::Utf8(_)) => Some(Self::NotText),
            // It has closed its side: whatever it would be told, it does not expect an answer any more.
            Ok(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => None,
            Ok(Error::Protocol(_)) => Some(Self::ProtocolError),
            _ => None,
        }
    }

    /// What a failure on our side deserves.
    pub(crate) fn of(error: &ApiError) -> Self {
        match error {
            ApiError::Unavailable(_) | ApiError::Overloaded { .. } => Self::try_later(),
            _ => Self::Internal,
        }
    }

    pub(crate) fn try_later() -> Self {
        Self::TryLater { reconnect_after_ms: wait_ms(SHORTEST_WAIT + SPREAD.delay(0)) }
    }

    pub(crate) fn code(&self) -> u16 {
        match self {
            Self::GoingAway { .. } => 1001,
            Self::ProtocolError => 1002,
            Self::NotText => 1007,
            Self::TooBig { .. } => 1009,
            Self::Internal => 1011,
            Self::TryLater { .. } => 1013,
            Self::Unauthenticated(_) => 4001,
            Self::Forbidden => 4003,
            Self::TooSlow => 4008,
            Self::Silent => 4009,
            Self::TooMany(_) => 4029,
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::GoingAway { reconnect_after_ms } => format!("going away, reconnect in {reconnect_after_ms} ms"),
            Self::ProtocolError => "protocol error".to_owned(),
            Self::NotText => "text frames must be UTF-8".to_owned(),
            Self::TooBig { limit } => format!("a message may have at most {limit} bytes"),
            Self::Internal => "internal error".to_owned(),
            Self::TryLater { reconnect_after_ms } => format!("try again later, reconnect in {reconnect_after_ms} ms"),
            Self::Unauthenticated(why) | Self::TooMany(why) => (*why).to_owned(),
            Self::Forbidden => "access denied".to_owned(),
            Self::TooSlow => "too slow, resume with your cursor".to_owned(),
            Self::Silent => "heartbeat missed".to_owned(),
        }
    }

    fn message(&self) -> Message {
        Message::Close(Some(CloseFrame { code: self.code(), reason: self.reason().into() }))
    }

    /// Closes our side and waits a moment for the client to close its own.
    pub(crate) async fn tell(&self, socket: &mut WebSocket) {
        let farewell = async {
            socket.send(self.message()).await?;
            while let Some(Ok(_)) = socket.recv().await {} // until the client has closed its side
            Ok::<_, axum::Error>(())
        };
        let _ = timeout(FAREWELL, farewell).await; // it may be long gone
    }
}

/// Answers the client's goodbye. The answer was made when the goodbye was read; it only has to be sent.
pub(crate) async fn answer(socket: &mut WebSocket) {
    let _ = timeout(FAREWELL, socket.flush()).await; // it may be long gone
}
