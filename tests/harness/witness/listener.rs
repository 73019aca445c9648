//! A receiver that keeps the cursor of the last frame it handled, and resumes with it wherever somebody answers.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{interval, sleep};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{
    Scene,
    checker::{Seen, Stream},
    client::{RECONNECT, Socket, connect, frame},
};

const WATCH: Duration = Duration::from_millis(500);

/// A part of history is no longer true.
struct Reset {
    /// The conversation, or all of them.
    conversation: Option<String>,
    /// The first number that is not.
    from: u64,
}

/// Listens to everything of its user until the scene is over.
pub(super) struct Listener {
    scene: Scene,
    /// Which stream of the transcript is its own.
    stream: usize,
    /// After how many frames it hangs up without a word; 0 for never.
    restless: usize,
    cursor: Option<String>,
}

impl Listener {
    pub(super) fn new(scene: Scene, number: usize) -> Self {
        let stream = Stream { observer: user(number), seen: Vec::new() };
        scene.transcript().streams.push(stream);
        let restless = number * scene.load.restless;
        Self { scene, stream: number, restless, cursor: None }
    }

    /// Finds out where the present is; everything after it must arrive.
    pub(super) async fn arrive(&mut self) {
        let mut socket = connect(self.scene.gateways[0], "/v1/ws", &user(self.stream)).await.expect("a gateway runs");
        while self.cursor.is_none() {
            let message = socket.next().await.expect("a greeting").expect("a frame");
            self.note(&message);
        }
    }

    pub(super) async fn run(mut self) {
        let gateways = self.scene.gateways.clone();
        for gateway in gateways.iter().cycle().skip(self.stream) {
            let cursor = self.cursor.as_deref().unwrap_or_default();
            let path = format!("/v1/ws?cursor={cursor}");
            if let Ok(socket) = connect(*gateway, &path, &user(self.stream)).await {
                let _ = self.listen(socket).await; // the next connection goes on from the cursor
            }
            sleep(RECONNECT).await;
        }
    }

    async fn listen(&mut self, mut socket: Socket) -> Result<(), Error> {
        let (mut handled, mut heard, mut watch) = (0, Instant::now(), interval(WATCH));
        while self.restless == 0 || handled < self.restless {
            tokio::select! {
                message = socket.next() => {
                    let message = message.ok_or(Error::ConnectionClosed)??;
                    (handled, heard) = (handled + 1, Instant::now());
                    if let Some(reset) = self.note(&message) {
                        self.refetch(&reset, &mut socket).await?;
                    }
                }
                _ = watch.tick() => if heard.elapsed() > self.scene.load.silence { break },
            }
        }
        Ok(())
    }

    fn note(&mut self, message: &Message) -> Option<Reset> {
        let frame = frame(message, |_| true)?;
        let reset = (frame["data"]["outcome"] == "reset").then(|| self.reset(&frame));
        if let Some(seen) = seen(&frame) {
            let mut transcript = self.scene.transcript();
            if let Some(id) = seen.id {
                transcript.pulse.heard(self.stream, id);
            }
            transcript.streams[self.stream].seen.push(seen);
        }
        let cursor = frame["cursor"].as_str().or_else(|| frame["data"]["cursor"].as_str());
        self.cursor = cursor.map(str::to_owned).or_else(|| self.cursor.take());
        reset
    }

    /// Drops what it is told to drop.
    fn reset(&self, frame: &Value) -> Reset {
        let conversation = frame["conversation_id"].as_str().map(str::to_owned);
        let reset = Reset { conversation, from: frame["data"]["reset_from"].as_u64().unwrap_or(1) };
        let mut transcript = self.scene.transcript();
        transcript.resets += 1;
        if !self.scene.load.renumbers {
            transcript.refusals.push(frame.to_string());
        }
        let kept = |seen: &Seen| {
            seen.seq < reset.from || reset.conversation.as_ref().is_some_and(|only| *only != seen.conversation)
        };
        transcript.streams[self.stream].seen.retain(kept);
        reset
    }

    /// Asks for everything it dropped. Where one conversation is named, the server sends what is there now by itself.
    async fn refetch(&self, reset: &Reset, socket: &mut Socket) -> Result<(), Error> {
        if reset.conversation.is_some() {
            return Ok(());
        }
        for number in 0..self.scene.load.conversations {
            let (conversation, after) = (self.scene.conversation(number), reset.from.saturating_sub(1));
            let frame = json!({"type": "subscribe", "conversation_id": conversation, "after": after});
            socket.feed(frame.to_string().into()).await?;
        }
        socket.flush().await
    }
}

fn user(number: usize) -> String {
    format!("listener-{number}")
}

fn seen(frame: &Value) -> Option<Seen> {
    let (seq, conversation) = (frame["seq"].as_u64()?, frame["conversation_id"].as_str()?.to_owned());
    Some(Seen { conversation, seq, ..of_data(frame["event"].as_str()?, &frame["data"]) })
}

/// What the data of an event says; the same over the wire and in the database.
pub(super) fn of_data(event: &str, data: &Value) -> Seen {
    let text = data["content"]["text"].as_str().unwrap_or_default();
    let id = text.rsplit(' ').next().and_then(|id| id.parse().ok());
    let content = format!("{text} {} {} {}", data["message_id"], data["sender_id"], data["created_at"]);
    Seen { conversation: String::new(), seq: 0, id, content, is_tombstone: event == "tombstone" }
}
