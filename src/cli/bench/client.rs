//! One WebSocket client: it connects, reads frames in batches and answers pings.

use std::{io, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::time::timeout;

use super::{
    frame,
    scan::{Event, Scanner},
    target::Endpoint,
    wire::Wire,
};

/// How long a server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// The close code of a server whose limits are made for people, 4029.
const TOO_MANY: [u8; 2] = 4029_u16.to_be_bytes();
/// What such a server has to be told.
const ROOM: &str = "--max-connections 20000 --max-connections-per-user 100 --max-connections-per-address 20000";

/// A connection whose first frame, `connected`, has arrived.
pub(super) struct Client {
    wire: Wire,
}

impl Client {
    /// Connects, upgrades and waits for the `connected` frame.
    pub(super) async fn connect(endpoint: &Endpoint, scanner: &Scanner) -> Result<Self> {
        Self::over(Wire::connect(&endpoint.address), endpoint, scanner).await
    }

    /// The same over a connection that holds little for a client that does not read.
    pub(super) async fn connect_narrow(endpoint: &Endpoint, scanner: &Scanner) -> Result<Self> {
        Self::over(Wire::connect_narrow(&endpoint.address), endpoint, scanner).await
    }

    async fn over(
        wire: impl Future<Output = io::Result<Wire>>,
        endpoint: &Endpoint,
        scanner: &Scanner,
    ) -> Result<Self> {
        let connecting = async {
            let mut wire = wire.await?;
            upgrade(&mut wire, endpoint).await?;
            let mut client = Self { wire };
            client.greet(scanner).await?;
            Ok(client)
        };
        let result = timeout(PATIENCE, connecting).await.unwrap_or_else(|_| Err(anyhow!("no answer in {PATIENCE:?}")));
        result.with_context(|| format!("connecting to {}{}", endpoint.address, endpoint.public_path()))
    }

    /// Queues a text frame; the next [`turn`](Self::turn) sends everything queued at once.
    pub(super) fn push(&mut self, text: &[u8]) {
        frame::encode(frame::TEXT, text, self.wire.output());
    }

    /// Sends what is queued and waits for input; cancelling it loses nothing.
    pub(super) async fn turn(&mut self) -> Result<()> {
        Ok(self.wire.turn().await?)
    }

    /// Hands every whole text frame that was read to `each`, and answers pings.
    pub(super) fn drain(&mut self, scanner: &Scanner, mut each: impl FnMut(Event, &[u8])) -> Result<()> {
        while let Some(used) = self.next(scanner, &mut each)? {
            self.wire.consume(used);
        }
        Ok(())
    }

    fn next(&mut self, scanner: &Scanner, each: &mut impl FnMut(Event, &[u8])) -> Result<Option<usize>> {
        let (input, output) = self.wire.both();
        let Some(found) = frame::decode(input)? else { return Ok(None) };
        let payload = &input[found.start..found.end];
        match found.opcode {
            frame::TEXT => match scanner.event(payload) {
                Event::Ping => frame::encode(frame::TEXT, br#"{"type":"pong"}"#, output),
                event => each(event, payload),
            },
            frame::PING => frame::encode(frame::PONG, payload, output),
            frame::CLOSE if payload.starts_with(&TOO_MANY) => {
                bail!("closed: {}; start the server with {ROOM}", close_reason(payload))
            }
            frame::CLOSE => bail!("closed: {}", close_reason(payload)),
            _ => {}
        }
        Ok(Some(found.end))
    }

    /// One frame at a time: what follows the greeting belongs to whoever reads next.
    async fn greet(&mut self, scanner: &Scanner) -> Result<()> {
        let mut greeted = false;
        while !greeted {
            match self.next(scanner, &mut |event, _| greeted = event == Event::Connected)? {
                Some(used) => self.wire.consume(used),
                None => self.wire.turn().await?,
            }
        }
        Ok(())
    }
}

async fn upgrade(wire: &mut Wire, endpoint: &Endpoint) -> Result<()> {
    let key = STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
        endpoint.path, endpoint.address
    );
    if let Some(token) = &endpoint.token {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    wire.output().extend_from_slice(request.as_bytes());
    wire.output().extend_from_slice(b"\r\n");
    switched(wire).await
}

async fn switched(wire: &mut Wire) -> Result<()> {
    loop {
        wire.turn().await?;
        if let Some(end) = memchr::memmem::find(wire.input(), b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&wire.input()[..end]).into_owned();
            if !head.starts_with("HTTP/1.1 101") {
                bail!("the upgrade was refused: {}", head.lines().next().unwrap_or_default());
            }
            wire.consume(end + 4);
            return Ok(());
        }
    }
}

fn close_reason(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            format!("{code} {}", String::from_utf8_lossy(reason)).trim_end().to_owned()
        }
        _ => "without a reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_is_told_in_words() {
        assert_eq!(close_reason(&[0x0f, 0xa8, b's', b'l', b'o', b'w']), "4008 slow");
        assert_eq!(close_reason(&[0x03, 0xe8]), "1000");
        assert_eq!(close_reason(&[]), "without a reason");
    }
}
