//! A WebSocket client that writes every byte itself, right or wrong, and takes apart what comes back.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The key of RFC 6455's own example, and what proves that it was read.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;
/// The first byte of a frame that is the last of its message.
pub(crate) const FIN: u8 = 0x80;

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl RawFrame {
    /// The code and the reason of a close frame; 1005 stands for none.
    pub(crate) fn close(&self) -> Option<(u16, String)> {
        match (self.opcode, &self.payload[..]) {
            (CLOSE, [high, low, reason @ ..]) => {
                Some((u16::from_be_bytes([*high, *low]), String::from_utf8(reason.to_vec()).expect("UTF-8")))
            }
            (CLOSE, []) => Some((1005, String::new())),
            _ => None,
        }
    }
}

/// A connection below WebSocket.
pub(crate) struct Raw {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A frame as a client should send it; `first` is FIN, the reserved bits and the opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len());
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The head of a masked frame whose payload never comes.
pub(crate) fn bare(first: u8, length: usize) -> Vec<u8> {
    [head(first, length), MASK.to_vec()].concat()
}

/// The head of a masked frame, up to its length.
fn head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..=125 => head.push(0x80 | length as u8),
        126..=0xffff => {
            head.push(0x80 | 126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}

/// A close frame with any payload.
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// The lines of a good request for an upgrade.
pub(crate) fn upgrade(address: SocketAddr, path: &str) -> Vec<String> {
    vec![
        format!("GET {path} HTTP/1.1"),
        format!("Host: {address}"),
        "Connection: Upgrade".to_owned(),
        "Upgrade: websocket".to_owned(),
        "Sec-WebSocket-Version: 13".to_owned(),
        format!("Sec-WebSocket-Key: {KEY}"),
    ]
}

impl Raw {
    /// A connection on which nothing was said yet.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        Self::over(stream)
    }

    /// The same with as little room for what was not read as a socket can have.
    pub(crate) async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("it can be narrow");
        Self::over(socket.connect(address).await.expect("it listens"))
    }

    /// The same over a connection that is there.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self { stream, input: Vec::new() }
    }

    /// A connection that was upgraded and greeted.
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Self {
        let mut raw = Self::connect(address).await;
        let answer = raw.request(&upgrade(address, path)).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let greeting = raw.next().await.expect("a greeting");
        assert!(String::from_utf8_lossy(&greeting.payload).contains("\"connected\""), "{greeting:?}");
        raw
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection is open");
    }

    /// Writes as far as the other side lets it.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await; // closed meanwhile, which the answer tells
    }

    /// Says that nothing more will come, and goes on reading.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }

    /// Sends a request and returns the head of its answer.
    pub(crate) async fn request(&mut self, lines: &[String]) -> String {
        self.write(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).await;
        self.head().await
    }

    /// The same, unless the connection ends before.
    pub(crate) async fn try_request(&mut self, lines: &[String]) -> Option<String> {
        self.try_write(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes()).await;
        self.try_head().await
    }

    /// The head of the next answer.
    pub(crate) async fn head(&mut self) -> String {
        self.try_head().await.unwrap_or_else(|| panic!("the connection ended: {:?}", self.input))
    }

    async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..end + 4).collect();
                return Some(String::from_utf8(head).expect("text"));
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// Takes a body of that length.
    pub(crate) async fn body(&mut self, length: usize) -> String {
        while self.input.len() < length {
            assert!(self.read().await > 0, "the connection ended in the middle of a body");
        }
        String::from_utf8(self.input.drain(..length).collect()).expect("text")
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<RawFrame> {
        loop {
            if let Some((frame, length)) = take_apart(&self.input) {
                self.input.drain(..length);
                return Some(frame);
            }
            if self.read().await == 0 {
                assert!(self.input.is_empty(), "the connection ended in the middle of a frame");
                return None;
            }
        }
    }

    /// The answer to one of our frames; the service's own heartbeats are no answers.
    pub(crate) async fn answer(&mut self) -> Option<RawFrame> {
        loop {
            match self.next().await? {
                RawFrame { opcode: PING, .. } => {}
                RawFrame { opcode: TEXT, payload } if String::from_utf8_lossy(&payload).contains("\"ping\"") => {}
                frame => return Some(frame),
            }
        }
    }

    /// Reads to the end of the connection and tells what it was closed with, if with anything.
    pub(crate) async fn closed(&mut self) -> Option<(u16, String)> {
        let mut told = None;
        while let Some(frame) = self.next().await {
            assert_eq!(told, None, "a close frame is the last one: {frame:?}");
            told = frame.close();
        }
        told
    }

    /// Reads some more; 0 at the end, also at one that is not in order.
    async fn read(&mut self) -> usize {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
        read.unwrap_or_else(|_| panic!("nothing came; waiting: {:?}", self.input)).unwrap_or(0)
    }
}

/// The first frame, if it is whole, and how many bytes it took. What a server sends is neither masked nor reserved.
fn take_apart(input: &[u8]) -> Option<(RawFrame, usize)> {
    let (&[first, second], rest) = input.split_first_chunk::<2>()?;
    assert_eq!((first & 0x70, second & 0x80), (0, 0), "reserved bits or a mask from a server");
    let (length, start) = match second {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    let payload = input.get(start..start + length)?.to_vec();
    assert_eq!(first & FIN, FIN, "this server does not fragment");
    Some((RawFrame { opcode: first & 0x0f, payload }, start + length))
}
