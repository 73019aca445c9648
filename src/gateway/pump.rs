//! The pump: takes parcels from this gateway's inbox and hands frames to the rooms.
//!
//! It keeps the gateway's own cursor: up to where every live session here has been given everything it listens to. A
//! partition without listeners gets no parcels, so once a second the pump also takes over the progress of fan-out, as
//! soon as the inbox has been emptied after that progress was read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::Utf8Bytes;
use everpost_core::{
    cursor::Cursor,
    event::Record,
    generation::History,
    log::{Log, LogError},
    name::{ConversationId, InstanceId},
    partition::Partition,
    position::Position,
    recovery::Recovery,
    relay::{Inbox, Parcel, Relay, Signal, Topic},
    retry::Policy,
    role::Role,
};
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;

use super::{
    Gateway,
    attendance::Attendance,
    frame::{self, Frame, Run},
    hub::Hub,
    presence::CROWD,
    receipts,
    session::{Item, Session},
    typing::{self, Typing},
    vigil::Vigil,
};

const WAIT: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_secs(1);
/// How many rooms are looked at each second; keys are lost by the partition, not one by one.
const ROOMS_LOOKED_AT: usize = 64;
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Pump {
    instance: InstanceId,
    log: Arc<dyn Log>,
    relay: Arc<dyn Relay>,
    recovery: Arc<Recovery>,
    hub: Arc<Hub>,
    typing: Arc<Typing>,
    attendance: Arc<Attendance>,
    delivered: Counter,
    missed: Counter,
    vigil: Vigil,
    /// What the cursor stands on.
    history: Arc<History>,
    cursor: Cursor,
    /// The progress of fan-out, to be taken over when the inbox is empty.
    fanned: Option<Vec<Position>>,
    looked: Instant,
}

impl Pump {
    pub(crate) fn new(gateway: &Gateway) -> Self {
        let Gateway { instance, log, relay, recovery, hub, typing, attendance, metrics, limits, .. } = gateway;
        let cursor = Cursor::start(log.epoch(), log.partitions());
        Self {
            instance: instance.clone(),
            log: log.clone(),
            relay: relay.clone(),
            recovery: recovery.clone(),
            hub: hub.clone(),
            typing: typing.clone(),
            attendance: attendance.clone(),
            delivered: metrics.delivered(),
            missed: metrics.missed(),
            vigil: Vigil::new(hub.clone(), log.clone(), limits.heartbeat),
            history: recovery.history(),
            cursor,
            fanned: None,
            looked: Instant::now(),
        }
    }

    /// Pumps until told to stop, and starts over whenever something may have been missed.
    pub(crate) async fn run(mut self, mut inbox: Box<dyn Inbox>, stop: CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            match self.step(&mut *inbox).await {
                Ok(()) => failures = 0,
                Err(_) if stop.is_cancelled() => return, // the relay closes before the pump looks up
                Err(error) => {
                    if failures % 16 == 0 {
                        tracing::warn!(%error, "deliveries are interrupted; sessions will catch up from the log");
                    }
                    tokio::time::sleep(Policy::RECONNECT.delay(failures)).await;
                    failures += 1;
                    if let Ok(opened) = self.start_over().await {
                        inbox = opened;
                    }
                }
            }
        }
    }

    async fn start_over(&mut self) -> Result<Box<dyn Inbox>, LogError> {
        self.recovery.settle(PATIENCE).await; // what took the inbox away may have taken more
        let inbox = self.relay.open(&self.instance).await?;
        if self.hub.register_all().await.is_err() {
            return Err(LogError::Closing);
        }
        self.attendance.doubt(); // whatever took the inbox away may have taken more
        self.hub.all().iter().for_each(|session| session.mark_lagging());
        self.vigil.forget();
        Ok(inbox)
    }

    async fn step(&mut self, inbox: &mut dyn Inbox) -> Result<(), LogError> {
        if self.looked.elapsed() >= EVERY {
            self.looked = Instant::now();
            self.look().await?;
        }
        let parcels = inbox.receive(WAIT).await?;
        self.stand_on_what_survived()?;
        let emptied = parcels.is_empty();
        for parcel in parcels {
            match parcel {
                Parcel::Records { partition, records } => self.deliver(partition, &records),
                Parcel::Signal(signal) => self.signal(signal),
            }
        }
        if emptied && let Some(fanned) = self.fanned.take() {
            self.missed.inc_by(self.vigil.judge(&fanned));
            self.cursor.join(&Cursor::new(self.cursor.epoch, fanned));
        }
        Ok(())
    }

    /// A log that went on in a new generation may have forgotten who listens to what, with the rest it lost.
    fn stand_on_what_survived(&mut self) -> Result<(), LogError> {
        let history = self.recovery.history();
        if Arc::ptr_eq(&history, &self.history) {
            return Ok(());
        }
        (self.cursor, self.fanned) = (self.cursor.floor(&history), None);
        self.history = history;
        Err(LogError::Renewing)
    }

    /// Looks whether some of the rooms are still registered: what vanished there would be missed in silence.
    async fn look_at_rooms(&self) -> Result<(), LogError> {
        let rooms = self.hub.some_rooms(ROOMS_LOOKED_AT);
        let listeners = self.relay.listeners(&rooms).await?;
        if listeners.iter().all(|instances| instances.contains(&self.instance)) {
            return Ok(());
        }
        Err(LogError::Damaged("this gateway's rooms are no longer registered".into()))
    }

    async fn look(&mut self) -> Result<(), LogError> {
        if !self.relay.beat(&self.instance).await? {
            return Err(LogError::Damaged("this gateway was given up for dead".into()));
        }
        self.relay.sweep().await?;
        self.hub.sweep();
        self.look_at_rooms().await?;
        self.vigil.look().await?;
        self.fanned = Some(self.log.progress(Role::Fanout).await?);
        Ok(())
    }

    /// Cuts records into runs of one conversation and hands each to its room.
    fn deliver(&mut self, partition: Partition, records: &[Record]) {
        for run in records.chunk_by(|a, b| a.conversation() == b.conversation()) {
            let Some(conversation) = run[0].conversation().ok().and_then(|name| ConversationId::new(name).ok()) else {
                tracing::error!(position = ?run[0].position, "a record cannot be read");
                continue;
            };
            let run = Arc::new(self.run_of(conversation, partition, run));
            self.delivered.inc_by(run.frames.len() as u64);
            if self.hub.deliver(&run) {
                self.missed.inc();
            }
        }
    }

    fn run_of(&mut self, conversation: ConversationId, partition: Partition, records: &[Record]) -> Run {
        let base = Arc::new(self.cursor.clone());
        let mut frames = Vec::with_capacity(records.len());
        for record in records {
            self.cursor.advance(partition, record.position);
            frames.extend(Frame::of(record, &self.cursor));
        }
        let bytes = frames.iter().map(|frame| frame.text.len()).sum();
        Run { conversation, partition, base, frames, bytes }
    }

    fn signal(&self, signal: Signal) {
        match signal {
            Signal::Frame { conversation, event, data } => {
                if event == typing::EVENT && !self.typing.hear(&conversation, &data, Instant::now()) {
                    return;
                }
                let Some(text) = text_of(&event, Some(&conversation), data) else { return };
                self.hub.tell(&Topic::Conversation(conversation), || Item::Ephemeral(text.clone()));
            }
            Signal::Others { conversation, except, event, data } => {
                let Some(text) = text_of(&event, Some(&conversation), data) else { return };
                let wanted = |session: &Session| session.user != except;
                let topic = Topic::Conversation(conversation);
                self.hub.tell_once([topic], usize::MAX, wanted, || Item::Ephemeral(text.clone()));
            }
            Signal::Direct { user, device_type, except, event, data } => {
                let Some(text) = text_of(&event, None, data) else { return };
                let of_type = |session: &Session| device_type.is_none() || session.device_type == device_type;
                let wanted = |session: &Session| of_type(session) && except != Some(session.id);
                self.hub.tell_once([Topic::User(user)], usize::MAX, wanted, || Item::Ephemeral(text.clone()));
            }
            Signal::Presence { user, conversations, event, data } => {
                let Some(text) = text_of(&event, None, data) else { return };
                let topics = conversations.into_iter().map(Topic::Conversation);
                self.hub.tell_once(topics, CROWD, |session| session.user != user, || Item::Ephemeral(text.clone()));
            }
            Signal::Marks { moved } => receipts::deliver(&self.hub, moved),
            Signal::Joined { conversation, user, from } => {
                let from = Position::from_column(from);
                self.hub.tell(&Topic::User(user), || Item::Joined(conversation.clone(), from));
            }
            Signal::Left { conversation, user } => {
                self.hub.tell(&Topic::User(user), || Item::Left(conversation.clone()));
            }
        }
    }
}

/// The frame of something ephemeral.
fn text_of(event: &str, conversation: Option<&ConversationId>, data: String) -> Option<Utf8Bytes> {
    let data = serde_json::value::RawValue::from_string(data).ok()?;
    Some(frame::plain(event, conversation.map(ConversationId::as_str), None, data))
}
