//! The ceiling to compare with: an in-memory broadcast server that speaks just enough of the interface.
//!
//! It keeps no promise (nothing is durable, nobody is authenticated) but it is not wasteful: one task a connection, a
//! frame is serialized once and shared, and a connection's queue goes out with one flush. What a durable server adds on
//! top is what the comparison shows.
#![expect(clippy::print_stdout, reason = "whoever starts the server reads its address there")]

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use axum::{
    Router,
    extract::{
        Path, Query, State, WebSocketUpgrade,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    http::StatusCode,
    response::Response,
    routing::{any, post},
    serve::ListenerExt as _,
};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::spawn_blocking,
};

use super::tally::lock;

/// A connection that only listens should cost little.
const READ_BUFFER: usize = 4 << 10;
/// A batch is written in pieces of this size; the buffer grows only when there is a batch.
const WRITE_BUFFER: usize = 32 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 8_192;
/// Messages of a room kept for clients that come back.
const KEPT: usize = 1_000;
/// Frames of a connection written before it reads again.
const BATCH: usize = 256;

/// Listens on a free port of the loopback address until standard input ends.
pub(super) async fn serve() -> Result<()> {
    let listener = listen()?;
    println!("http://{}", listener.local_addr()?);
    // Without nodelay a second small frame waits for the first one's acknowledgement; the peer lives with a failure.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::select! {
        served = axum::serve(listener, router()).into_future() => Ok(served?),
        ended = spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())) => ended?.map(|_| ()).map_err(Into::into),
    }
}

/// With the usual backlog a thousand clients at once overflow it, and then wait a second for their next attempt.
fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(BACKLOG)
}

fn router() -> Router {
    Router::new()
        .route("/v1/conversations", post(async || StatusCode::CREATED))
        .route("/v1/ws/{room}", any(open))
        .with_state(Rooms::default())
}

type Rooms = Arc<Mutex<HashMap<String, Arc<Mutex<Room>>>>>;

#[derive(Default)]
struct Room {
    name: String,
    seq: u64,
    members: Vec<UnboundedSender<Utf8Bytes>>,
    recent: VecDeque<(u64, Utf8Bytes)>,
}

/// What a client sends.
#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    content: &'a RawValue,
}

impl Room {
    /// Numbers a message, hands it to every member, and returns its number.
    fn publish(&mut self, text: &Text<'_>) -> u64 {
        self.seq += 1;
        let frame = Utf8Bytes::from(self.frame(text));
        self.recent.push_back((self.seq, frame.clone()));
        if self.recent.len() > KEPT {
            self.recent.pop_front();
        }
        self.members.retain(|member| member.send(frame.clone()).is_ok());
        self.seq
    }

    /// As long as a real server's frame, so that both move the same number of bytes.
    fn frame(&self, text: &Text<'_>) -> String {
        let Self { name, seq, .. } = self;
        let Text { id, content } = text;
        format!(
            r#"{{"event":"new_message","conversation_id":"{name}","seq":{seq},"cursor":"{seq:024}","id":{id},"data":{{"message_id":{id},"conversation_id":"{name}","seq":{seq},"type":"text","content":{{"text":{content}}},"sender_id":"somebody","sender_type":"user","is_important":false,"reply_to_message_id":null,"extra_metadata":null,"created_at":"1970-01-01T00:00:00.000Z"}},"timestamp":"1970-01-01T00:00:00.000Z"}}"#
        )
    }

    /// Adds a member and returns what it missed.
    fn join(&mut self, member: UnboundedSender<Utf8Bytes>, after: Option<u64>) -> Vec<Utf8Bytes> {
        self.members.push(member);
        let after = after.unwrap_or(self.seq);
        self.recent.iter().filter(|(seq, _)| *seq > after).map(|(_, frame)| frame.clone()).collect()
    }
}

#[derive(Deserialize)]
struct Resume {
    after: Option<u64>,
}

async fn open(
    State(rooms): State<Rooms>,
    Path(name): Path<String>,
    Query(resume): Query<Resume>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let new = || Arc::new(Mutex::new(Room { name: name.clone(), ..Room::default() }));
    let room = Arc::clone(lock(&rooms).entry(name.clone()).or_insert_with(new));
    upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(WRITE_BUFFER).on_upgrade(async move |socket| {
        // However the connection ended, there is nobody left to tell.
        let _ = session(socket, &room, resume.after).await;
    })
}

async fn session(mut socket: WebSocket, room: &Mutex<Room>, after: Option<u64>) -> Result<()> {
    let (sender, mut queue) = unbounded_channel();
    let missed = lock(room).join(sender, after);
    socket.feed(text(r#"{"event":"connected","cursor":"0","data":{}}"#)).await?;
    for frame in missed {
        socket.feed(Message::Text(frame)).await?;
    }
    socket.flush().await?;
    loop {
        tokio::select! {
            Some(frame) = queue.recv() => socket.feed(Message::Text(frame)).await?,
            incoming = socket.next() => match incoming {
                Some(message) => receive(&mut socket, room, message?).await?,
                None => return Ok(()),
            },
        }
        write_queued(&mut socket, &mut queue).await?;
    }
}

/// Answers a message and whatever else has arrived with it.
async fn receive(socket: &mut WebSocket, room: &Mutex<Room>, first: Message) -> Result<()> {
    let mut next = Some(first);
    while let Some(message) = next {
        if let Message::Text(json) = message {
            let parsed: Text<'_> = serde_json::from_str(&json)?;
            let seq = lock(room).publish(&parsed);
            socket.feed(text(acknowledgement(&parsed, seq))).await?;
        }
        next = socket.next().now_or_never().flatten().transpose()?;
    }
    Ok(())
}

fn acknowledgement(text: &Text<'_>, seq: u64) -> String {
    let id = text.id;
    format!(
        r#"{{"event":"ack","id":{id},"data":{{"message_id":{id},"seq":{seq},"duplicate":false,"durability":"memory"}},"timestamp":"1970-01-01T00:00:00.000Z"}}"#
    )
}

async fn write_queued(socket: &mut WebSocket, queue: &mut UnboundedReceiver<Utf8Bytes>) -> Result<()> {
    for _ in 0..BATCH {
        let Ok(frame) = queue.try_recv() else { break };
        socket.feed(Message::Text(frame)).await?;
    }
    Ok(socket.flush().await?)
}

fn text(text: impl Into<Utf8Bytes>) -> Message {
    Message::Text(text.into())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            load::{Load, Shape},
            report::Progress,
            target::{Socket, Target},
            witness::Faults,
        },
        *,
    };

    fn say(room: &mut Room) -> u64 {
        room.publish(&serde_json::from_str(r#"{"type":"text","id":"i","content":"hello"}"#).expect("a text"))
    }

    #[test]
    fn members_share_numbered_frames() {
        let mut room = Room::default();
        let (sender, mut queue) = unbounded_channel();
        assert!(room.join(sender, None).is_empty());
        assert_eq!((say(&mut room), say(&mut room)), (1, 2));
        let frame: serde_json::Value = serde_json::from_str(&queue.try_recv().expect("a frame")).expect("JSON");
        assert_eq!((frame["seq"].as_u64(), frame["data"]["content"]["text"].as_str()), (Some(1), Some("hello")));
    }

    #[test]
    fn whoever_comes_back_gets_what_it_missed() {
        let mut room = Room::default();
        for _ in 0..3 {
            say(&mut room);
        }
        assert_eq!(room.join(unbounded_channel().0, Some(1)).len(), 2);
        assert_eq!(room.join(unbounded_channel().0, None).len(), 0);
        say(&mut room);
        assert!(room.members.is_empty(), "whoever has gone is forgotten");
    }

    #[test]
    fn answers_are_json() {
        let text = serde_json::from_str(r#"{"id":"i","content":"x"}"#).expect("a text");
        let ack: serde_json::Value = serde_json::from_str(&acknowledgement(&text, 7)).expect("JSON");
        assert_eq!((ack["id"].as_str(), ack["data"]["seq"].as_u64()), (Some("i"), Some(7)));
    }

    /// Serves on a free port until the test ends, as a target for the generator.
    fn target() -> Target {
        let listener = listen().expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("valid");
        tokio::spawn(axum::serve(listener, router()).into_future());
        Target { name: "reference", urls: vec![url], api_key: None, token_secret: None, socket: Socket::Conversation }
    }

    #[tokio::test]
    async fn the_generator_finds_nothing_wrong_with_it() {
        let shape = Shape { rooms: 3, listeners: 2, publishers: 2, echo: true, window: 16, depth: 64, rate: None };
        let load = Load::open(&target(), &shape).await.expect("connected");
        let progress = Progress::new("test").expect("a valid style");
        let outcome = load.measure(1, &[std::process::id()], &progress).await.expect("measured");
        assert!(outcome.acks > 0 && outcome.deliveries >= outcome.acks, "{} {}", outcome.acks, outcome.deliveries);
        assert_eq!((outcome.faults, outcome.unanswered), (Faults::default(), 0));
        assert_eq!((outcome.end.errors, outcome.end.closed), (0, 0));
        assert_eq!(outcome.end.deliveries, outcome.end.acks * 4, "everybody got everything");
    }
}
