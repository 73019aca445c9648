//! A WebSocket client that waits for what a test expects and keeps what it did not ask for yet.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::Request,
        http::{HeaderValue, Response},
    },
};

/// Far longer than anything takes, so that a test that hangs says where.
const PATIENCE: Duration = Duration::from_secs(20);
static ASKED: AtomicU64 = AtomicU64::new(1);

/// One open connection.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Frames that came while another one was waited for.
    waiting: VecDeque<Value>,
    /// The last cursor in a frame that a test took.
    cursor: String,
}

/// What came of reading.
enum Read {
    Frame(Value),
    Closed(u16, String),
}

impl Client {
    /// Opens a connection; the gateway may still close it.
    pub(crate) async fn open(address: SocketAddr, path: &str, token: Option<&str>) -> Self {
        let mut request = request(address, path);
        if let Some(token) = token {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
            request.headers_mut().insert("authorization", bearer);
        }
        let (client, _) = Self::upgrade(request).await.expect("the upgrade succeeds");
        client
    }

    /// Tries an upgrade; the error tells the status it was refused with.
    pub(crate) async fn upgrade(request: Request) -> Result<(Self, Response<Option<Vec<u8>>>), Error> {
        let (socket, response) = connect_async(request).await?;
        Ok((Self { socket, waiting: VecDeque::new(), cursor: String::new() }, response))
    }

    /// Takes the greeting, whose cursor is where the connection starts.
    pub(crate) async fn greeted(&mut self) -> Value {
        let hello = self.next_event("connected").await;
        self.cursor = hello["data"]["cursor"].as_str().expect("a cursor").to_owned();
        hello
    }

    /// The cursor of the last sequenced frame that was taken, or where the connection started.
    pub(crate) fn cursor(&self) -> String {
        self.cursor.clone()
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        self.send_raw(Message::text(frame.to_string())).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.expect("the connection is open");
    }

    /// Sends bytes past the WebSocket layer.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.expect("the connection is open");
    }

    /// Sends frames without waiting for anything in between.
    pub(crate) async fn send_all(&mut self, frames: impl IntoIterator<Item = Value>) {
        for frame in frames {
            self.socket.feed(Message::text(frame.to_string())).await.expect("the connection is open");
        }
        self.socket.flush().await.expect("the connection is open");
    }

    /// Sends a frame and returns its answer.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        if frame["id"].is_null() {
            // Never the same twice, also not in another connection: it is the idempotency key as well.
            frame["id"] = json!(format!("ask-{}", ASKED.fetch_add(1, Ordering::Relaxed)));
        }
        let id = frame["id"].clone();
        self.send(frame).await;
        self.next_where("an answer", |frame| frame["id"] == id).await
    }

    /// Publishes a text and returns what the acknowledgement says.
    pub(crate) async fn text(&mut self, conversation: &str, text: &str) -> Value {
        let answer = self.ask(json!({"type": "text", "conversation_id": conversation, "content": text})).await;
        assert_eq!(answer["event"], "ack", "{answer}");
        answer["data"].clone()
    }

    /// Everything sent before has been dealt with when this returns.
    pub(crate) async fn round_trip(&mut self) {
        assert_eq!(self.ask(json!({"type": "ping"})).await["event"], "pong");
    }

    /// The next frame, whatever it is.
    pub(crate) async fn next(&mut self) -> Value {
        self.next_where("a frame", |_| true).await
    }

    /// The next frame of this name; others wait for their turn.
    pub(crate) async fn next_event(&mut self, event: &str) -> Value {
        self.next_where(event, |frame| frame["event"] == event).await
    }

    /// The next messages, which must be of the given numbers.
    pub(crate) async fn expect_seqs(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            let frame = self.next_event("new_message").await;
            assert_eq!(frame["seq"], seq, "{frame}");
        }
    }

    /// The next frame as it comes, or the code the connection is closed with.
    pub(crate) async fn first_event(&mut self) -> Result<Value, u16> {
        match self.read("a frame").await {
            Read::Frame(frame) => Ok(frame),
            Read::Closed(code, _) => Err(code),
        }
    }

    /// The next frame that is wanted.
    pub(crate) async fn next_where(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = self.waiting.iter().position(&wanted).and_then(|at| self.waiting.remove(at));
        let frame = match found {
            Some(frame) => frame,
            None => self.read_until(what, wanted).await,
        };
        if let Some(cursor) = frame["cursor"].as_str() {
            self.cursor = cursor.to_owned();
        }
        frame
    }

    async fn read_until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.read(what).await {
                Read::Frame(frame) if wanted(&frame) => return frame,
                Read::Frame(frame) => self.waiting.push_back(frame),
                Read::Closed(code, reason) => panic!("closed with {code} ({reason}) while waiting for {what}"),
            }
        }
    }

    /// Reads to the end, which must come with this code; returns the reason.
    pub(crate) async fn expect_close(&mut self, expected: u16) -> String {
        loop {
            if let Read::Closed(code, reason) = self.read("the end").await {
                assert_eq!(code, expected, "{reason}");
                return reason;
            }
        }
    }

    /// The frames that came and nobody asked for yet.
    pub(crate) fn heard(&self) -> &VecDeque<Value> {
        &self.waiting
    }

    /// The frames of this name that came and nobody asked for.
    pub(crate) fn waiting(&self, event: &str) -> Vec<Value> {
        self.waiting.iter().filter(|frame| frame["event"] == event).cloned().collect()
    }

    /// Drops the frames that nobody asked for.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Returns when the connection has ended in whatever way.
    pub(crate) async fn gone(&mut self) {
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Says goodbye and waits until the gateway has done the same.
    pub(crate) async fn close(mut self) {
        self.socket.close(None).await.expect("the connection is open");
        timeout(PATIENCE, async { while let Some(Ok(_)) = self.socket.next().await {} }).await.expect("an end");
    }

    async fn read(&mut self, what: &str) -> Read {
        loop {
            let read = timeout(PATIENCE, self.socket.next()).await;
            match read.unwrap_or_else(|_| panic!("{what} did not come; waiting: {:?}", self.waiting)) {
                Some(Ok(Message::Text(text))) => match serde_json::from_str::<Value>(&text).expect("JSON") {
                    frame if frame["event"] == "ping" => {}
                    frame => return Read::Frame(frame),
                },
                Some(Ok(Message::Close(Some(close)))) => {
                    return Read::Closed(close.code.into(), close.reason.to_string());
                }
                Some(Ok(_)) => {}
                other => panic!("the connection broke while waiting for {what}: {other:?}"),
            }
        }
    }
}

/// The request of an upgrade.
pub(crate) fn request(address: SocketAddr, path: &str) -> Request {
    format!("ws://{address}{path}").into_client_request().expect("an address")
}
