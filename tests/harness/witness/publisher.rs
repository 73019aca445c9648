//! A sender that keeps each message until it is acknowledged, and sends it again under the same id when in doubt.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use super::{
    Scene,
    checker::Ack,
    client::{RECONNECT, Socket, connect, frame},
};

/// What every text contains; it must never be seen in a log.
pub(crate) const PAYLOAD: &str = "canary-payload";
/// A steady stream rather than a burst, so that a fault always meets messages under way.
const PACE: Duration = Duration::from_millis(25);
/// Messages it sends without having heard of the earlier ones.
const WINDOW: usize = 64;

struct Letter {
    id: Uuid,
    conversation: String,
}

impl Letter {
    fn frame(&self) -> Message {
        let Self { id, conversation } = self;
        let content = format!("{PAYLOAD} {id}");
        json!({"type": "text", "id": id, "conversation_id": conversation, "content": content}).to_string().into()
    }
}

/// Publishes to two conversations in turn until the scene is over.
pub(super) struct Publisher {
    pub(super) scene: Scene,
    pub(super) number: usize,
    outbox: VecDeque<Letter>,
}

impl Publisher {
    pub(super) fn new(scene: Scene, number: usize) -> Self {
        Self { scene, number, outbox: VecDeque::new() }
    }

    pub(super) async fn run(mut self) {
        let gateways = self.scene.gateways.clone();
        for gateway in gateways.iter().cycle().skip(self.number) {
            let path = format!("/v1/ws/{}", self.scene.conversation(self.number));
            if let Ok(socket) = connect(*gateway, &path, &format!("sender-{}", self.number)).await {
                let _ = self.converse(socket).await; // the next connection sends again what this one left open
            }
            sleep(RECONNECT).await;
        }
    }

    async fn converse(&mut self, mut socket: Socket) -> Result<(), Error> {
        for letter in &self.outbox {
            socket.send(letter.frame()).await?;
        }
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let writes = self.outbox.len() < WINDOW && !self.scene.closing.is_cancelled();
            tokio::select! {
                message = socket.next() => self.receive(&message.ok_or(Error::ConnectionClosed)??)?,
                _ = pace.tick(), if writes => {
                    if !self.scene.closing.is_cancelled() {
                        socket.send(self.write()).await?;
                    }
                }
            }
        }
    }

    fn write(&mut self) -> Message {
        let turn = self.scene.transcript().sent.len();
        let letter = Letter { id: Uuid::now_v7(), conversation: self.scene.conversation(self.number + turn % 2) };
        self.scene.transcript().sent.insert(letter.id, letter.conversation.clone());
        let frame = letter.frame();
        self.outbox.push_back(letter);
        frame
    }

    fn receive(&mut self, message: &Message) -> Result<(), Error> {
        let Some(frame) = frame(message) else { return Ok(()) };
        match frame["event"].as_str() {
            Some("ack") => self.acknowledged(&frame),
            Some("error") if frame["data"]["retryable"] == true => return Err(Error::ConnectionClosed),
            Some("error") => self.scene.transcript().refusals.push(frame.to_string()),
            _ => {}
        }
        Ok(())
    }

    fn acknowledged(&mut self, frame: &Value) {
        let id = frame["id"].as_str().and_then(|id| id.parse().ok()).expect("an ack names what was sent");
        let conversation = frame["conversation_id"].as_str().expect("an ack names the conversation").to_owned();
        let seq = frame["data"]["seq"].as_u64().expect("an ack has a number");
        self.outbox.retain(|letter| letter.id != id);
        self.scene.transcript().acks.push(Ack { id, conversation, seq });
    }
}
