//! A sender that keeps each message until it is safe, and sends it again under the same id when in doubt.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use super::{
    Keep, Scene,
    checker::Ack,
    client::{RECONNECT, Socket, connect, frame},
};

/// What every text contains; it must never be seen in a log.
pub(crate) const PAYLOAD: &str = "canary-payload";
/// Messages it sends without having heard of the earlier ones.
const WINDOW: usize = 64;
/// How soon it sends again what was answered with a retryable error, and how late at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
const WATCH: Duration = Duration::from_millis(250);

struct Letter {
    id: Uuid,
    conversation: String,
    written: Instant,
    /// Its number, once it was acknowledged.
    seq: Option<u64>,
}

impl Letter {
    fn frame(&self) -> Message {
        let Self { id, conversation, .. } = self;
        let content = format!("{PAYLOAD} {id}");
        json!({"type": "text", "id": id, "conversation_id": conversation, "content": content}).to_string().into()
    }
}

/// Publishes to some conversations in turn until the scene is over.
pub(super) struct Publisher {
    scene: Scene,
    number: usize,
    /// What was not reported stored yet, in order.
    outbox: VecDeque<Letter>,
    /// Whether a letter is kept beyond its acknowledgement.
    keeps: bool,
    written: usize,
    /// When and after how long it sends again what was not acknowledged.
    retry: Option<(Instant, Duration)>,
}

impl Publisher {
    pub(super) fn new(scene: Scene, number: usize) -> Self {
        let keeps = match scene.load.keep {
            Keep::UntilAcknowledged => false,
            Keep::UntilStored => true,
            Keep::Either => number.is_multiple_of(2),
        };
        Self { scene, number, outbox: VecDeque::new(), keeps, written: 0, retry: None }
    }

    pub(super) async fn run(mut self) {
        let gateways = self.scene.gateways.clone();
        for gateway in gateways.iter().cycle().skip(self.number) {
            if let Ok(socket) = connect(*gateway, "/v1/ws", &format!("sender-{}", self.number)).await {
                let _ = self.converse(socket).await; // the next connection sends again what this one left open
            }
            sleep(RECONNECT).await;
        }
    }

    async fn converse(&mut self, mut socket: Socket) -> Result<(), Error> {
        self.start_over(&mut socket).await?;
        let (mut pace, mut watch) = (steady(self.scene.load.pace), steady(WATCH));
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    if self.receive(&message.ok_or(Error::ConnectionClosed)??) {
                        self.start_over(&mut socket).await?;
                    }
                }
                _ = pace.tick(), if self.unanswered() < WINDOW => {
                    if let Some(frame) = self.write() {
                        socket.send(frame).await?;
                    }
                }
                _ = watch.tick() => {
                    if heard.elapsed() > self.scene.load.silence {
                        return Err(Error::ConnectionClosed);
                    }
                    self.try_again(&mut socket).await?;
                }
            }
        }
    }

    /// Sends everything again that is not safe yet, in order.
    async fn start_over(&mut self, socket: &mut Socket) -> Result<(), Error> {
        if !self.keeps {
            self.outbox.retain(|letter| letter.seq.is_none());
        }
        for letter in &mut self.outbox {
            letter.seq = None;
            socket.feed(letter.frame()).await?;
        }
        self.retry = None;
        self.account();
        socket.flush().await
    }

    /// After retryable errors, in order and less and less often.
    async fn try_again(&mut self, socket: &mut Socket) -> Result<(), Error> {
        let due = self.retry.filter(|(since, pause)| since.elapsed() >= *pause);
        let Some((_, pause)) = due else { return Ok(()) };
        self.retry = None;
        for letter in self.outbox.iter().filter(|letter| letter.seq.is_none()) {
            socket.feed(letter.frame()).await?;
        }
        socket.flush().await?;
        self.retry = Some((Instant::now() + pause, (pause * 2).min(RETRY.1)));
        Ok(())
    }

    fn unanswered(&self) -> usize {
        self.outbox.iter().filter(|letter| letter.seq.is_none()).count()
    }

    /// Nothing is written once the scene closes: whoever waits for the end must not be overtaken by one letter more.
    fn write(&mut self) -> Option<Message> {
        let conversation = self.scene.load.written_by(self.number, self.written);
        let conversation = self.scene.conversation(conversation);
        let letter = Letter { id: Uuid::now_v7(), conversation, written: Instant::now(), seq: None };
        let mut transcript = self.scene.transcript();
        if self.scene.closing.is_cancelled() {
            return None;
        }
        transcript.pulse.outstanding[self.number] += 1;
        transcript.sent.insert(letter.id, letter.conversation.clone());
        transcript.pulse.written.insert(letter.id, letter.written);
        drop(transcript);
        self.written += 1;
        let frame = letter.frame();
        self.outbox.push_back(letter);
        self.account();
        Some(frame)
    }

    /// `true` when everything has to be sent again.
    fn receive(&mut self, message: &Message) -> bool {
        let Some(frame) = frame(message, |text| !text.starts_with(r#"{"event":"new_message""#)) else { return false };
        match frame["event"].as_str() {
            Some("ack") => self.acknowledged(&frame),
            Some("stored") => self.stored(&frame),
            Some("error") if frame["data"]["retryable"] == true => self.stumble(&frame),
            Some("error") => self.scene.transcript().refusals.push(frame.to_string()),
            _ => return frame["data"]["outcome"] == "reset",
        }
        self.account();
        false
    }

    fn stumble(&mut self, frame: &Value) {
        let code = frame["data"]["code"].as_str().unwrap_or_default().to_owned();
        *self.scene.transcript().deferrals.entry(code).or_default() += 1;
        self.retry.get_or_insert_with(|| (Instant::now(), RETRY.0));
    }

    fn acknowledged(&mut self, frame: &Value) {
        let id = frame["id"].as_str().and_then(|id| id.parse().ok()).expect("an ack names what was sent");
        let conversation = frame["conversation_id"].as_str().expect("an ack names the conversation").to_owned();
        let seq = frame["data"]["seq"].as_u64().expect("an ack has a number");
        let mut transcript = self.scene.transcript();
        if let Some(letter) = self.outbox.iter_mut().find(|letter| letter.id == id) {
            if letter.seq.is_none() {
                transcript.pulse.latencies.push((letter.written, letter.written.elapsed()));
            }
            letter.seq = Some(seq);
            transcript.pulse.acked(self.number, letter.written);
        }
        transcript.acks.push(Ack { id, conversation, seq });
        drop(transcript);
        if self.unanswered() == 0 {
            self.retry = None;
        }
    }

    fn stored(&mut self, frame: &Value) {
        let conversation = frame["conversation_id"].as_str().expect("a notice names the conversation");
        let up_to = frame["data"]["up_to"].as_u64().expect("a notice has a number");
        let covers =
            |letter: &Letter| letter.conversation == conversation && letter.seq.is_some_and(|seq| seq <= up_to);
        if let Some(latest) = self.outbox.iter().filter(|letter| covers(letter)).map(|letter| letter.written).max() {
            self.scene.transcript().pulse.stored(self.number, latest);
        }
        self.outbox.retain(|letter| !covers(letter));
    }

    /// Tells how much it still waits for.
    fn account(&self) {
        let outstanding = if self.keeps { self.outbox.len() } else { self.unanswered() };
        self.scene.transcript().pulse.outstanding[self.number] = outstanding;
    }
}

fn steady(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}
