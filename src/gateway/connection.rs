//! One connection from its first frame to its last: a single task that reads, sends and replays.
//!
//! What the client has been given is a cursor, `seen`. Live frames move it on, frames at or before it are repeats and
//! are dropped, and whenever frames may have been missed (on a resume, after the outbox ran over, after the relay was
//! interrupted) a replay goes from `seen` to the present end of the log while live frames are held back.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use axum::extract::ws::Message;
use everpost_core::{
    cursor::Cursor, event::Record, name::ConversationId, partition::Partition, position::Position, relay::Topic,
};
use serde_json::json;

use super::{
    Gateway,
    auth::Principal,
    close::Close,
    error::ApiError,
    frame::{self, Frame, Run},
    replay::{From, Page, Replay},
    sent::Sent,
    session::{Item, Session},
    start::Start,
    transport::Transport,
};

/// A replay under way.
pub(super) struct Catchup {
    pub(super) replay: Replay,
    /// Whether the client asked for it and is told about it; otherwise it is our own affair.
    pub(super) announced: bool,
    /// Where `seen` stands after it, if it moves `seen` on; a replay of one conversation beside others does not.
    pub(super) moves_to: Option<Cursor>,
    pub(super) replayed: u64,
}

pub(super) struct Connection {
    pub(super) gateway: Arc<Gateway>,
    pub(super) session: Arc<Session>,
    pub(super) principal: Principal,
    /// The conversations it listens to.
    pub(super) rooms: HashSet<ConversationId>,
    /// Conversations its user takes part in and does not want to hear of.
    pub(super) muted: HashSet<ConversationId>,
    /// The one conversation it is about, if it is.
    pub(super) scope: Option<ConversationId>,
    pub(super) transport: Transport,
    pub(super) seen: Cursor,
    /// What it was sent, as far as that is not acknowledged.
    pub(super) sent: Sent,
    /// Conversations its user is typing in.
    pub(super) typing_in: Vec<ConversationId>,
    /// Conversations joined on the way are replayed up to these positions beside the others.
    pub(super) floors: Vec<(ConversationId, Position)>,
    pub(super) catchups: VecDeque<Catchup>,
    /// Live runs that came during a replay.
    pub(super) held: VecDeque<Arc<Run>>,
    pub(super) held_bytes: usize,
    /// Up to where replays have brought everything, or are about to.
    pub(super) caught_up: Cursor,
    /// Live runs were dropped and are still to be made up for.
    pub(super) lagging: bool,
    /// How many sequenced frames it was given, and the number in the last one; heartbeats tell.
    pub(super) given: Given,
}

/// What a connection was given.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Given {
    pub(super) frames: u64,
    pub(super) seq: u64,
}

/// Why the connection ends: with a close frame of ours, or because the client is gone.
pub(super) enum End {
    Close(Close),
    /// The client said goodbye and waits for the answer.
    Bye,
    Gone,
}

impl std::convert::From<axum::Error> for End {
    fn from(_: axum::Error) -> Self {
        Self::Gone
    }
}

impl std::convert::From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        tracing::debug!(%error, "a connection ends because something it needs failed");
        Self::Close(Close::of(&error))
    }
}

impl Connection {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        session: Arc<Session>,
        principal: Principal,
        scope: Option<ConversationId>,
        transport: Transport,
    ) -> Self {
        let seen = Cursor::start(gateway.log.epoch(), gateway.partitions);
        let caught_up = seen.clone();
        let (rooms, muted, floors) = (HashSet::new(), HashSet::new(), Vec::new());
        let (catchups, held) = (VecDeque::new(), VecDeque::new());
        let (held_bytes, lagging, given) = (0, false, Given::default());
        Self {
            gateway,
            session,
            principal,
            rooms,
            muted,
            scope,
            transport,
            seen,
            sent: Sent::default(),
            typing_in: Vec::new(),
            floors,
            catchups,
            held,
            held_bytes,
            caught_up,
            lagging,
            given,
        }
    }

    /// Serves the connection to its end and tidies up behind it.
    pub(super) async fn run(mut self, start: Start) {
        let session = self.session.clone();
        let end = tokio::select! {
            end = self.serve(start) => end,
            close = session.overdue(super::FAREWELL) => End::Close(close),
        };
        self.gateway.hub.remove(&self.session, self.rooms.iter());
        Box::pin(self.stop_typing()).await;
        // Boxed, so that no connection pays for it until it ends.
        match end {
            End::Close(close) => Box::pin(self.transport.close(&close)).await,
            End::Bye => Box::pin(self.transport.answer()).await,
            End::Gone => {}
        }
    }

    /// Replays everything from `seen` to the given ends.
    pub(super) fn catch_up(&mut self, ends: &[Position], announced: bool) {
        let partitions = self.gateway.partitions;
        let from = |room: &ConversationId| (room.clone(), From::Position(self.seen.at(partitions.of(room.as_str()))));
        let replay = Replay::new(partitions, ends, self.rooms.iter().map(from).collect::<Vec<_>>());
        self.caught_up = Cursor::new(self.gateway.log.epoch(), ends.to_vec());
        let moves_to = Some(self.caught_up.clone());
        self.catchups.push_back(Catchup { replay, announced, moves_to, replayed: 0 });
    }

    pub(super) fn forget_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    async fn serve(&mut self, start: Start) -> End {
        if let Err(end) = Box::pin(self.begin(start)).await {
            return end;
        }
        loop {
            // What only a replay needs is allocated for its time, because most connections are idle most of the time.
            let turn = if self.catchups.is_empty() { self.live().await } else { Box::pin(self.catching_up()).await };
            if let Err(end) = turn {
                return end;
            }
        }
    }

    /// Whether the client may say more: not while too many of its publishes are unanswered.
    fn is_readable(&self) -> bool {
        self.session.in_flight.load(Ordering::Relaxed) < self.gateway.limits.max_in_flight
    }

    /// Waits for something to send or to read, and deals with it.
    async fn live(&mut self) -> Result<(), End> {
        let readable = self.is_readable();
        tokio::select! {
            () = self.session.ready.notified() => Box::pin(self.drain()).await,
            received = self.transport.recv(), if readable => Box::pin(self.received(received)).await,
        }
    }

    /// The same until the next page of a replay is there. Reading it goes on whatever else there is to do: on a busy
    /// connection it would otherwise be begun again and again.
    async fn catching_up(&mut self) -> Result<(), End> {
        let Some(catchup) = self.catchups.front_mut() else { return Ok(()) };
        let (mut replay, gateway) = (std::mem::take(&mut catchup.replay), self.gateway.clone());
        let page = {
            let mut page = std::pin::pin!(gateway.next_page(&mut replay));
            loop {
                let readable = self.is_readable();
                tokio::select! {
                    page = &mut page => break page,
                    () = self.session.ready.notified() => self.drain().await?,
                    received = self.transport.recv(), if readable => self.received(received).await?,
                }
            }
        };
        if let Some(catchup) = self.catchups.front_mut() {
            catchup.replay = replay;
        }
        self.replayed(page).await
    }

    async fn received(&mut self, received: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        match received {
            Some(Ok(message)) => self.receive(message).await,
            Some(Err(error)) => {
                let close = Close::after(error, self.gateway.limits.max_message_bytes);
                Err(close.map_or(End::Gone, End::Close))
            }
            None => Err(End::Gone),
        }
    }

    /// Sends what has gathered, with one flush.
    async fn drain(&mut self) -> Result<(), End> {
        let taken = self.session.take();
        self.lagging |= taken.lagging;
        self.make_up().await?;
        for item in taken.items {
            match item {
                Item::Run(run) if !self.catchups.is_empty() => self.hold(run),
                Item::Run(run) => self.feed_run(&run).await?,
                Item::Text(text) | Item::Ephemeral(text) => self.feed(text).await?,
                Item::Heartbeat => self.heartbeat().await?,
                Item::Joined(conversation, from) => self.joined(conversation, from).await?,
                Item::Left(conversation) => self.left(&conversation),
                Item::Lost(conversation, at) => self.lost(conversation, at).await?,
                Item::Missed(conversation, after) => self.missed(conversation, after).await?,
                Item::Lagging => self.make_up().await?,
            }
        }
        if let Some(close) = taken.close {
            return Err(End::Close(close));
        }
        self.flush().await
    }

    fn hold(&mut self, run: Arc<Run>) {
        self.held_bytes += run.bytes;
        if self.held_bytes > self.gateway.limits.max_queue_bytes {
            self.forget_held();
            self.lagging = true;
        } else {
            self.held.push_back(run);
        }
    }

    async fn feed_run(&mut self, run: &Run) -> Result<(), End> {
        let shared = run.base.covers_beside(run.partition, &self.seen);
        let floor = self.floors.iter().find(|(name, _)| *name == run.conversation).map(|(_, floor)| *floor);
        // What comes after a gap must wait for the replay that fills it, which brings it as well.
        if self.lagging || !self.rooms.contains(&run.conversation) {
            return Ok(());
        }
        for frame in &run.frames {
            if self.heed()? && !self.rooms.contains(&run.conversation) {
                return Ok(());
            }
            let seen = self.seen.at(run.partition);
            if frame.position <= seen {
                continue;
            }
            if frame.position.generation() != seen.generation() && !self.stands_before(run.partition, frame.position) {
                self.lagging = true; // the replay finds out what survived
                self.session.mark_lagging();
                return Ok(());
            }
            if shared {
                self.seen.join(&run.base);
            }
            self.seen.advance(run.partition, frame.position);
            if floor.is_some_and(|floor| frame.position <= floor) {
                continue;
            }
            let text = if shared { frame.text.clone() } else { frame.with_cursor(&self.seen) };
            self.give(frame.seq, text).await?;
            self.sent.note(run.conversation.as_str(), frame.position, frame.seq);
        }
        if floor.is_some_and(|floor| self.seen.at(run.partition) >= floor) {
            self.floors.retain(|(name, _)| *name != run.conversation);
        }
        Ok(())
    }

    /// Whether what the client has is part of the past of a position in a later generation.
    fn stands_before(&self, partition: Partition, later: Position) -> bool {
        let (history, seen) = (self.gateway.recovery.history(), self.seen.at(partition));
        history.current(partition).number >= later.generation() && history.floor(partition, seen) == seen
    }

    /// Sends a page of the replay under way, or finishes it.
    async fn replayed(&mut self, page: Result<Option<Page>, ApiError>) -> Result<(), End> {
        match page? {
            Some(page) => self.send_page(page).await,
            None => self.finish_replay().await,
        }
    }

    async fn send_page(&mut self, page: Page) -> Result<(), End> {
        let Some(catchup) = self.catchups.front_mut() else { return Ok(()) };
        let moves = catchup.moves_to.is_some();
        catchup.replayed += page.records.len() as u64;
        let names: HashSet<&str> = page.records.iter().filter_map(|record| record.conversation().ok()).collect();
        let withdrawn = self.gateway.withdrawn(&self.principal, names).await?;
        withdrawn.iter().for_each(|conversation| self.left(conversation));
        for record in &page.records {
            self.heed()?;
            if !record.conversation().is_ok_and(|name| self.rooms.contains(name)) {
                continue; // left in the middle of the replay
            }
            if moves {
                self.seen.advance(page.partition, record.position);
                if self.had_beside(record) {
                    continue;
                }
            }
            match Frame::of(record, &self.seen) {
                Ok(frame) => {
                    self.give(frame.seq, frame.text).await?;
                    record.conversation().iter().for_each(|name| self.sent.note(name, frame.position, frame.seq));
                }
                Err(error) => tracing::error!(%error, "a record cannot be replayed"),
            }
        }
        if moves {
            self.seen.advance(page.partition, page.upto);
        }
        self.flush().await
    }

    /// Whether a replay of one conversation beside the others has given it already.
    fn had_beside(&self, record: &Record) -> bool {
        let floor = self.floors.iter().find(|(name, _)| record.conversation().is_ok_and(|of| of == name.as_str()));
        floor.is_some_and(|(_, floor)| record.position <= *floor)
    }

    async fn finish_replay(&mut self) -> Result<(), End> {
        let Some(catchup) = self.catchups.pop_front() else { return Ok(()) };
        if let Some(end) = &catchup.moves_to {
            self.seen.join(end);
        }
        if catchup.announced {
            let outcome = if catchup.replayed > 0 { "complete" } else { "nothing_missed" };
            let data = json!({"outcome": outcome, "replayed": catchup.replayed, "cursor": self.seen.encode()});
            self.feed(frame::plain("replay_finished", None, None, data)).await?;
        }
        self.make_up().await?;
        if self.catchups.is_empty() {
            self.held_bytes = 0;
            for run in std::mem::take(&mut self.held) {
                self.feed_run(&run).await?;
            }
        }
        self.flush().await
    }

    /// Takes part in another conversation from a position on: what happened since then is replayed beside the rest.
    async fn joined(&mut self, conversation: ConversationId, from: Position) -> Result<(), End> {
        if self.scope.is_none() && self.rooms.insert(conversation.clone()) {
            self.listen_from(conversation, From::Position(from), false).await?;
        }
        Ok(())
    }

    /// Joins a room and replays it from its own point, up to where live frames take over.
    pub(super) async fn listen_from(
        &mut self,
        conversation: ConversationId,
        from: From,
        announced: bool,
    ) -> Result<(), End> {
        self.gateway.hub.join(&self.session, vec![Topic::Conversation(conversation.clone())]).await?;
        let ends = self.gateway.reads.ends().await?;
        let end = ends.get(self.gateway.partitions.of(conversation.as_str()).index()).copied().unwrap_or_default();
        let replay = Replay::new(self.gateway.partitions, &ends, [(conversation.clone(), from)]);
        self.floors.retain(|(name, _)| *name != conversation);
        self.floors.push((conversation, end));
        self.catchups.push_back(Catchup { replay, announced, moves_to: None, replayed: 0 });
        Ok(())
    }

    /// Stops listening to a conversation the user goes on taking part in.
    pub(super) fn mute(&mut self, conversation: &ConversationId) {
        if self.rooms.remove(conversation) {
            self.muted.insert(conversation.clone());
            self.gateway.hub.leave(&self.session, conversation);
        }
    }
}
