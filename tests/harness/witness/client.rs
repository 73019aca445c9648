//! How publishers and listeners reach whichever gateway is alive.

use std::{net::SocketAddr, time::Duration};

use everpost::gateway::auth::{Claims, mint};
use everpost_core::clock::now_ms;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, client::IntoClientRequest},
};

use crate::harness::process::TOKEN_SECRET;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long a client waits before it tries the next gateway.
pub(super) const RECONNECT: Duration = Duration::from_millis(100);
/// How long it waits for one to answer.
const CONNECT: Duration = Duration::from_secs(5);

/// A token for a user, as the processes of a test accept it.
pub(crate) fn token(user: &str) -> String {
    let (sub, exp) = (user.to_owned(), now_ms() / 1_000 + 3_600);
    let claims = Claims { sub, exp, role: None, device_id: None, device_type: None };
    mint(&TOKEN_SECRET.into(), &claims).expect("a token")
}

/// Opens a WebSocket as that user.
pub(crate) async fn connect(gateway: SocketAddr, path: &str, user: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{gateway}{path}").into_client_request()?;
    let bearer = format!("Bearer {}", token(user)).parse().expect("a token is plain");
    request.headers_mut().insert("authorization", bearer);
    // A gateway behind a broken network accepts and never answers.
    let connected = tokio::time::timeout(CONNECT, connect_async(request)).await;
    Ok(connected.map_err(|_| Error::ConnectionClosed)??.0)
}

/// A frame of the server as JSON; pings and the like are none, nor is what is not wanted.
pub(super) fn frame(message: &tokio_tungstenite::tungstenite::Message, wanted: impl Fn(&str) -> bool) -> Option<Value> {
    let text = message.to_text().ok().filter(|text| wanted(text))?;
    serde_json::from_str(text).ok()
}
