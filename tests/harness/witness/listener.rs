//! A receiver that keeps the cursor of the last frame it handled, and resumes with it wherever somebody answers.

use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{
    Scene,
    checker::{Seen, Stream},
    client::{RECONNECT, Socket, connect, frame},
};

/// Listens to everything of its user until the scene is over.
pub(super) struct Listener {
    pub(super) scene: Scene,
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
        Self { scene, stream: number, restless: number * 97, cursor: None }
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
        let mut handled = 0;
        while let Some(message) = socket.next().await {
            self.note(&message?);
            handled += 1;
            if handled == self.restless {
                break;
            }
        }
        Ok(())
    }

    fn note(&mut self, message: &Message) {
        let Some(frame) = frame(message) else { return };
        if frame["data"]["outcome"] == "reset" {
            self.scene.transcript().refusals.push(frame.to_string());
        }
        if let Some(seen) = seen(&frame) {
            self.scene.transcript().streams[self.stream].seen.push(seen);
        }
        let cursor = frame["cursor"].as_str().or_else(|| frame["data"]["cursor"].as_str());
        self.cursor = cursor.map(str::to_owned).or_else(|| self.cursor.take());
    }
}

fn user(number: usize) -> String {
    format!("listener-{number}")
}

fn seen(frame: &Value) -> Option<Seen> {
    let (seq, conversation) = (frame["seq"].as_u64()?, frame["conversation_id"].as_str()?.to_owned());
    Some(Seen { conversation, seq, ..of_data(&frame["data"]) })
}

/// What the data of an event says; the same over the wire and in the database.
pub(super) fn of_data(data: &Value) -> Seen {
    let text = data["content"]["text"].as_str().unwrap_or_default();
    let id = text.rsplit(' ').next().and_then(|id| id.parse().ok());
    let content = format!("{text} {} {} {}", data["message_id"], data["sender_id"], data["created_at"]);
    Seen { conversation: String::new(), seq: 0, id, content }
}
