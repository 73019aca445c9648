//! Heartbeats: each side learns that the other is there, and the client whether it has everything.
//!
//! A `ping` says how many sequenced frames this connection was given (`frames`), on a connection for one conversation
//! the number in the last one (`seq`), and with which cursor to go on (`cursor`). Frames arrive in order, so a client
//! that has counted fewer when the ping arrives lacks something and comes back with its own cursor; one that has all
//! may keep the new cursor, which moves on even while its conversations are silent. During a replay a ping carries only
//! the count: the end of the replay brings the cursor.

use everpost_core::{name::ConversationId, position::Position};
use serde_json::json;

use super::{
    connection::{Connection, End},
    frame,
    replay::From,
};

impl Connection {
    /// Sends a heartbeat, for programs and as the protocol has it. Whoever only listens cannot answer one.
    pub(super) async fn heartbeat(&mut self) -> Result<(), End> {
        if self.session.only_listens {
            return self.feed_ping().await;
        }
        let mut data = json!({ "frames": self.given.frames });
        if self.catchups.is_empty() && !self.lagging {
            data["cursor"] = self.seen.encode().into();
        }
        let scope = self.scope.as_ref().map(ConversationId::as_str);
        if scope.is_some() && self.given.frames > 0 {
            data["seq"] = self.given.seq.into();
        }
        self.feed(frame::plain("ping", scope, None, data)).await?;
        self.feed_ping().await
    }

    /// Reads again what got lost on its way here, except what a replay has brought already or is about to.
    pub(super) async fn missed(&mut self, conversation: ConversationId, after: Position) -> Result<(), End> {
        if !self.rooms.contains(&conversation) {
            return Ok(());
        }
        let partition = self.gateway.partitions.of(conversation.as_str());
        let beside = self.floors.iter().find(|(name, _)| *name == conversation).map(|(_, floor)| *floor);
        let history = self.gateway.recovery.history();
        let had = [Some(after), Some(self.caught_up.at(partition)), beside].into_iter().flatten();
        let from = had.map(|at| history.floor(partition, at)).max_by_key(|at| at.offset()).unwrap_or(after);
        self.listen_from(conversation, From::Position(from), false).await
    }
}
