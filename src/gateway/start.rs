//! How a connection begins: where the client was, where the present is, and what lies between.

use std::sync::Arc;

use everpost_core::{
    cursor::Cursor,
    generation::History,
    name::{ConversationId, DeviceId},
    position::Position,
    relay::Topic,
};
use serde_json::json;

use super::{
    close::Close,
    connection::{Catchup, Connection, End},
    error::ApiError,
    frame,
    limits::Asked,
    patience::Patience,
    replay::{self, From, Replay},
};

/// Where the client wants to start.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    /// With what happens from now on.
    Now,
    /// After the last cursor it handled.
    Cursor(String),
    /// After a number of its one conversation.
    After(u64),
}

impl Connection {
    /// Joins the rooms, then finds out where the present is: everything after it will arrive live.
    pub(super) async fn begin(&mut self, start: Start) -> Result<(), End> {
        let (gateway, session) = (self.gateway.clone(), self.session.clone());
        gateway.hub.add(&session);
        // Whoever is in the hub when the process stops is told so; whoever comes later finds out here.
        if gateway.stopping.is_cancelled() {
            return Err(End::Close(gateway.going_away(&session)));
        }
        let patience = Patience::new(&gateway.stopping);
        let turn = gateway.gate.reading().await;
        // Whoever becomes a participant from here on is told so; whoever was one before is found below.
        patience.ask(|| gateway.hub.join(&session, vec![Topic::User(session.user.clone())])).await?;
        let rooms: Vec<ConversationId> = match &self.scope {
            Some(conversation) => vec![conversation.clone()],
            None => patience.ask(|| gateway.reads.conversations_of(&session.user)).await?.to_vec(),
        };
        self.rooms.extend(rooms.iter().cloned());
        let topics: Vec<Topic> = rooms.into_iter().map(Topic::Conversation).collect();
        patience.ask(|| gateway.hub.join(&session, topics.clone())).await?;
        let (ends, history) = patience.ask(|| gateway.present()).await?;
        drop(turn);
        let start = match (start, &self.principal.device, &self.scope) {
            (Start::Now, Some(device), None) => self.remembered(&device.clone()).await?,
            (start, ..) => start,
        };
        self.set_out(start, &ends, &history).await
    }

    /// Where the device acknowledged last.
    async fn remembered(&mut self, device: &DeviceId) -> Result<Start, End> {
        self.gateway.devices.save(&self.gateway.store).await; // what it acknowledged here a moment ago counts
        let cursor = self.gateway.store.cursor(&self.session.user, device).await.map_err(ApiError::from)?;
        Ok(cursor.map_or(Start::Now, Start::Cursor))
    }

    /// A device that comes for the first time begins here, also if it goes before it has acknowledged anything.
    async fn remember(&mut self) {
        if let Some(device) = self.principal.device.as_ref().filter(|_| self.scope.is_none()) {
            self.gateway.devices.note(self.session.user.clone(), device.clone(), self.seen.encode());
            self.gateway.devices.save(&self.gateway.store).await;
        }
    }

    async fn set_out(&mut self, start: Start, ends: &Arc<[Position]>, history: &History) -> Result<(), End> {
        let present = Cursor::new(self.gateway.log.epoch(), ends.to_vec());
        self.caught_up = present.clone(); // what lies before is replayed, or not wanted
        if !matches!(start, Start::Now) && !self.may(Asked::Replay) {
            return Err(End::Close(Close::TooMany("too many replays")));
        }
        match start {
            Start::Now => {
                self.seen = present;
                self.remember().await;
                self.greet().await
            }
            Start::Cursor(text) => match honour(&text, &present, history) {
                Ok(cursor) => {
                    self.seen = cursor;
                    let resets = self.fall_back(history).await?;
                    self.greet().await?;
                    self.announce_replay().await?;
                    self.tell_resets(resets).await?;
                    self.catch_up(ends, true);
                    Ok(())
                }
                Err(reason) => {
                    self.seen = present;
                    self.greet().await?;
                    self.announce_replay().await?;
                    self.reset(reason, 1).await
                }
            },
            Start::After(seq) => match self.position_of(seq).await? {
                Ok(at) => {
                    self.stand_at(at, &present);
                    self.greet().await?;
                    self.announce_replay().await?;
                    let conversations: Vec<_> = self.rooms.iter().map(|room| (room.clone(), From::Seq(seq))).collect();
                    let replay = Replay::new(self.gateway.partitions, ends, conversations);
                    self.catchups.push_back(Catchup { replay, announced: true, moves_to: Some(present), replayed: 0 });
                    Ok(())
                }
                Err(top) => {
                    self.seen = present;
                    self.greet().await?;
                    self.announce_replay().await?;
                    self.reset("log_lost", top + 1).await
                }
            },
        }
    }

    /// Stands at a position in the partitions of its conversations, so that the cursors of a replay are those of its
    /// records and a client that drops at any point can go on there.
    fn stand_at(&mut self, at: Position, present: &Cursor) {
        let mut positions = present.positions().to_vec();
        for room in &self.rooms {
            positions[self.gateway.partitions.of(room.as_str()).index()] = at;
        }
        self.seen = Cursor::new(present.epoch, positions);
    }

    /// The position of a number of its one conversation; the last number, if there is none as high.
    async fn position_of(&mut self, seq: u64) -> Result<Result<Position, u64>, End> {
        let (reads, partitions) = (&self.gateway.reads, self.gateway.partitions);
        let Some(scope) = self.scope.as_ref().filter(|_| seq > 0) else { return Ok(Ok(Position::ZERO)) };
        if let Some(record) = replay::after(reads, partitions, scope, seq - 1, 1).await?.first() {
            return Ok(Ok(record.position));
        }
        let stored = reads.top(scope).await?.seq;
        let unstored = replay::after(reads, partitions, scope, stored, usize::MAX).await?;
        Ok(Err(unstored.last().and_then(|record| record.event().ok()).map_or(stored, |event| event.seq)))
    }

    async fn greet(&mut self) -> Result<(), End> {
        let data = json!({
            "connection_id": self.session.id,
            "instance_id": self.gateway.instance,
            "user_id": self.session.user,
            "heartbeat_seconds": self.gateway.heartbeat_seconds(&self.session),
            "cursor": self.seen.encode(),
        });
        let scope = self.scope.as_ref().map(ConversationId::as_str);
        self.send(frame::plain("connected", scope, None, data)).await
    }

    pub(super) async fn announce_replay(&mut self) -> Result<(), End> {
        let data = json!({ "conversations": self.rooms.len() });
        self.send(frame::plain("replay_started", None, None, data)).await
    }

    async fn reset(&mut self, reason: &str, from: u64) -> Result<(), End> {
        let data = json!({
            "outcome": "reset", "reason": reason, "reset_from": from, "replayed": 0, "cursor": self.seen.encode(),
        });
        self.send(frame::plain("replay_finished", None, None, data)).await
    }
}

/// A cursor is honoured if it is of this installation, and what it has seen that survived is not ahead of the present.
fn honour(text: &str, present: &Cursor, history: &History) -> Result<Cursor, &'static str> {
    let cursor = Cursor::decode(text).map_err(|_| "unknown_cursor")?;
    if cursor.epoch != present.epoch || cursor.positions().len() != present.positions().len() {
        return Err("another_installation");
    }
    if present.covers(&cursor.floor(history)) { Ok(cursor) } else { Err("log_lost") }
}
