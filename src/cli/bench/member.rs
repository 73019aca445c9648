//! One connection under load: it counts and checks what it receives, and publishes if it has a voice.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{sync::Notify, time};

use super::{
    client::Client,
    room::Room,
    scan::{Event, Scanner},
    tally::{Shard, Tally, lock},
    voice::Voice,
    witness::Witness,
};

/// What all members of a run share.
pub(super) struct Course {
    pub(super) scanner: Scanner,
    pub(super) tally: Tally,
    /// Whether publishers may publish.
    pub(super) publishing: AtomicBool,
    start: Instant,
}

impl Course {
    pub(super) fn new() -> Result<Self> {
        let publishing = AtomicBool::new(false);
        Ok(Self { scanner: Scanner::new(), tally: Tally::new()?, publishing, start: Instant::now() })
    }

    /// Nanoseconds since the run began, on a clock that never goes back.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    async fn until(&self, nanos: u64) {
        time::sleep_until((self.start + Duration::from_nanos(nanos)).into()).await;
    }
}

/// A connection with its conversation.
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) client: Client,
    pub(super) witness: Arc<Mutex<Witness>>,
    pub(super) room: Arc<Room>,
    pub(super) voice: Option<(Voice, Arc<Notify>)>,
    pub(super) course: Arc<Course>,
}

impl Member {
    /// Runs until the connection ends, which is a fault, or the task is aborted, which is how a run ends.
    pub(super) async fn run(mut self) {
        let end = if self.voice.is_some() { self.speak().await } else { self.listen().await };
        if let Err(reason) = end {
            self.course.tally.shard(self.index).close(format!("{reason:#}"));
        }
    }

    async fn listen(&mut self) -> Result<()> {
        loop {
            self.read()?;
            self.client.turn().await?;
        }
    }

    async fn speak(&mut self) -> Result<()> {
        loop {
            self.read()?;
            self.say();
            let Some((voice, woken)) = &self.voice else { return Ok(()) };
            let due = voice.due().filter(|_| self.course.publishing.load(Relaxed));
            tokio::select! {
                biased;
                turned = self.client.turn() => turned?,
                () = woken.notified() => {}
                () = self.course.until(due.unwrap_or_default()), if due.is_some() => {}
            }
        }
    }

    /// Publishes whatever may be published now, as one batch.
    fn say(&mut self) {
        let Some((voice, _)) = &mut self.voice else { return };
        if !self.course.publishing.load(Relaxed) {
            return;
        }
        let now = self.course.now();
        while voice.may_speak(&self.room, now) {
            self.client.push(voice.speak(now));
        }
    }

    /// Handles everything that has been read; one look at the clock serves the whole batch.
    fn read(&mut self) -> Result<()> {
        let Self { index, client, witness, room, voice, course } = self;
        let mut witness = lock(witness);
        let before = witness.received;
        let mut ear = Ear {
            now: course.now(),
            scanner: &course.scanner,
            shard: &mut course.tally.shard(*index),
            witness: &mut witness,
            room,
            voice: voice.as_mut().map(|(voice, _)| voice),
        };
        let result = client.drain(&course.scanner, |event, frame| ear.hear(event, frame));
        if voice.is_none() {
            room.advance(before, witness.received);
        }
        result
    }
}

/// Everything a frame may change.
struct Ear<'a> {
    now: u64,
    scanner: &'a Scanner,
    shard: &'a mut Shard,
    witness: &'a mut Witness,
    room: &'a Room,
    voice: Option<&'a mut Voice>,
}

impl Ear<'_> {
    fn hear(&mut self, event: Event, frame: &[u8]) {
        match event {
            Event::NewMessage => self.message(frame),
            Event::Ack => self.ack(frame),
            Event::Error => self.error(frame),
            Event::Stored => self.room.stored(self.scanner.up_to(frame).unwrap_or_default()),
            _ => self.other(frame),
        }
    }

    fn message(&mut self, frame: &[u8]) {
        self.shard.deliveries += 1;
        self.witness.received += 1;
        self.other(frame);
        if let Some(stamp) = self.scanner.stamp(frame) {
            self.shard.delivery.saturating_record(self.now.saturating_sub(stamp));
        }
    }

    /// Whatever has a number takes part in the sequence.
    fn other(&mut self, frame: &[u8]) {
        if let Some(seq) = self.scanner.seq(frame) {
            self.witness.see(seq);
        }
    }

    fn ack(&mut self, frame: &[u8]) {
        let id = self.scanner.id(frame).unwrap_or_default();
        let Some(sent) = self.voice.as_mut().and_then(|voice| voice.answered(id)) else { return };
        self.shard.acks += 1;
        self.shard.ack.saturating_record(self.now.saturating_sub(sent));
        self.shard.promise(self.scanner.durability(frame).unwrap_or(b"unsaid"), 1);
        match self.scanner.seq(frame) {
            Some(seq) => self.room.acked(seq),
            None => self.room.refused(),
        }
    }

    fn error(&mut self, frame: &[u8]) {
        self.shard.refuse(frame);
        let answers_us = self.scanner.id(frame).is_some();
        if let Some(voice) = self.voice.as_mut().filter(|_| answers_us) {
            voice.answered(self.scanner.id(frame).unwrap_or_default());
            self.room.refused();
        }
    }
}
