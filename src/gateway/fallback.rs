//! What a connection does when frames may have been missed, or when the log has lost what it had been given already.
//!
//! A session that lags replays from where it stands, unnoticed by its client. But where it stands may be a place that no
//! longer exists: the log went on in a new generation from a point before it. Then the session falls back to the last
//! point that survived, its client is told for each conversation from which number on to drop what it holds
//! (`reset_from`), and gets from there whatever is there now. A sender whose events were acknowledged and are lost is
//! told the same way, and sends them again.

use std::{sync::Arc, time::Duration};

use everpost_core::{cursor::Cursor, generation::History, name::ConversationId, position::Position};
use serde_json::json;

use super::{
    connection::{Catchup, Connection, End},
    error::ApiError,
    frame,
    replay::{From, Replay},
    session::Item,
};

const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A conversation of which the client has to drop everything from a number on.
pub(super) struct Reset {
    conversation: ConversationId,
    from: u64,
}

impl Connection {
    /// Replays what was dropped, once no other replay is under way: only then does `seen` tell where the gap begins.
    pub(super) async fn make_up(&mut self) -> Result<(), End> {
        if !self.catchups.is_empty() || !std::mem::take(&mut self.lagging) {
            return Ok(());
        }
        self.forget_held();
        match self.find_ground().await {
            Ok((ends, resets)) => {
                let announced = !resets.is_empty();
                if announced {
                    self.announce_replay().await?;
                }
                self.tell_resets(resets).await?;
                self.catch_up(&ends, announced);
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                self.lagging = true; // live frames wait for it
                self.later(Item::Lagging);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The log or the store is away: the same is tried again in a moment.
    fn later(&self, item: Item) {
        let session = Arc::downgrade(&self.session);
        self.gateway.tasks.spawn(async move {
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            session.upgrade().inspect(|session| session.push(item));
        });
    }

    /// Where the log ends, after falling back to where the session still has ground under its feet.
    async fn find_ground(&mut self) -> Result<(Arc<[Position]>, Vec<Reset>), ApiError> {
        let (ends, history) = self.gateway.present().await?;
        let resets = self.fall_back(&history).await?;
        Ok((ends, resets))
    }

    /// Moves `seen` back to what survived, and says what the client has to drop.
    pub(super) async fn fall_back(&mut self, history: &History) -> Result<Vec<Reset>, ApiError> {
        let (partitions, mut resets) = (self.gateway.partitions, Vec::new());
        let floor = self.seen.floor(history);
        if floor == self.seen {
            return Ok(resets);
        }
        // What survived and is not stored yet can only be found by reading the log, so that is replayed as well.
        let stored = self.gateway.reads.stored().await?;
        let mut positions = floor.positions().to_vec();
        for partition in partitions.iter().filter(|&at| floor.at(at) != self.seen.at(at)) {
            let at = &mut positions[partition.index()];
            *at = (*at).min(stored.get(partition.index()).copied().unwrap_or_default());
            for conversation in self.rooms.iter().filter(|room| partitions.of(room.as_str()) == partition) {
                let from = self.gateway.reads.place(conversation.clone(), *at).await? + 1;
                resets.push(Reset { conversation: conversation.clone(), from });
            }
        }
        self.seen = Cursor::new(floor.epoch, positions);
        self.sent.clear();
        Ok(resets)
    }

    /// Tells the client what to drop.
    pub(super) async fn tell_resets(&mut self, resets: Vec<Reset>) -> Result<(), End> {
        for Reset { conversation, from } in resets {
            let data = json!({
                "conversation_id": conversation, "outcome": "reset", "reason": "log_lost", "reset_from": from,
                "replayed": 0, "cursor": self.seen.encode(),
            });
            self.feed(frame::plain("replay_finished", Some(conversation.as_str()), None, data)).await?;
        }
        Ok(())
    }

    /// Where the log ends, and the last number of a conversation before a position that is stored and survived.
    async fn survivor(
        &mut self,
        conversation: &ConversationId,
        at: Position,
    ) -> Result<(Arc<[Position]>, u64), ApiError> {
        let (ends, history) = self.gateway.present().await?;
        let partition = self.gateway.partitions.of(conversation.as_str());
        let stored = self.gateway.reads.stored().await?;
        let stored = stored.get(partition.index()).copied().unwrap_or_default();
        let survived = history.floor(partition, at).min(stored);
        Ok((ends, self.gateway.reads.place(conversation.clone(), survived).await?))
    }

    /// What this connection published at a position is lost, and its client has been told it was accepted.
    pub(super) async fn lost(&mut self, conversation: ConversationId, at: Position) -> Result<(), End> {
        let (ends, after) = match self.survivor(&conversation, at).await {
            Err(error) if error.is_retryable() => {
                self.later(Item::Lost(conversation, at));
                return Ok(());
            }
            survivor => survivor?,
        };
        let partition = self.gateway.partitions.of(conversation.as_str());
        self.tell_resets(vec![Reset { conversation: conversation.clone(), from: after + 1 }]).await?;
        if self.rooms.contains(&conversation) {
            let end = ends.get(partition.index()).copied().unwrap_or_default();
            let from = [(conversation.clone(), From::Seq(after))];
            let replay = Replay::new(self.gateway.partitions, &ends, from);
            self.floors.push((conversation, end));
            self.catchups.push_back(Catchup { replay, announced: true, moves_to: None, replayed: 0 });
        }
        Ok(())
    }
}
