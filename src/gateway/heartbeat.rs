//! Heartbeats: each side learns that the other is there, and the client whether it has everything.
//!
//! A `ping` says how many sequenced frames this connection was given (`frames`), on a connection for one conversation
//! the number in the last one (`seq`), and with which cursor to go on (`cursor`). Frames arrive in order, so a client
//! that has counted fewer when the ping arrives lacks something and comes back with its own cursor; one that has all
//! may keep the new cursor, which moves on even while its conversations are silent. During a replay a ping carries only
//! the count: the end of the replay brings the cursor.

use everpost_core::name::ConversationId;
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

    /// Reads again what got lost on its way here.
    pub(super) async fn missed(&mut self, conversation: ConversationId, after: u64) -> Result<(), End> {
        if !self.rooms.contains(&conversation) {
            return Ok(());
        }
        self.listen_from(conversation, From::Seq(after), false).await
    }
}
