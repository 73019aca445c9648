//! Marks and cursors in SQLite.

use async_trait::async_trait;

use super::{SqliteStore, failed, list};
use crate::{
    name::{ConversationId, DeviceId, UserId},
    store::{Mark, Marks, Reach, StoreError, columns},
};

const ADVANCE: &str = "
INSERT INTO marks (mark, conversation_id, user_id, seq)
SELECT ?1, ?2, ?3, ?4
WHERE ?4 > 0
  AND EXISTS (SELECT 1 FROM participants WHERE conversation_id = ?2 AND user_id = ?3)
  AND NOT EXISTS (SELECT 1 FROM marks
                  WHERE user_id = ?3 AND conversation_id = ?2 AND mark = 'read' AND seq >= ?4)
ON CONFLICT (user_id, conversation_id, mark) DO UPDATE SET seq = excluded.seq WHERE seq < excluded.seq";

const REACHES: &str = "
SELECT COALESCE((SELECT m.seq FROM marks m WHERE m.user_id = asked.value ->> 1
                 AND m.conversation_id = asked.value ->> 0 AND m.mark = 'delivered'), 0),
       COALESCE((SELECT m.seq FROM marks m WHERE m.user_id = asked.value ->> 1
                 AND m.conversation_id = asked.value ->> 0 AND m.mark = 'read'), 0)
FROM json_each(?) AS asked
ORDER BY asked.key";

const SAVE_CURSOR: &str = "
INSERT INTO cursors (user_id, device_id, cursor) VALUES (?, ?, ?)
ON CONFLICT (user_id, device_id) DO UPDATE SET cursor = excluded.cursor";

#[async_trait]
impl Marks for SqliteStore {
    async fn advance(&self, mark: Mark, to: &[(ConversationId, UserId, u64)]) -> Result<Vec<bool>, StoreError> {
        let (mut open, mut moved) = (self.begin().await?, Vec::with_capacity(to.len()));
        for (conversation, user, seq) in to {
            let advance = sqlx::query(ADVANCE)
                .bind(mark.as_str())
                .bind(conversation.as_str())
                .bind(user.as_str())
                .bind(columns::to_column(*seq))
                .execute(&mut *open);
            moved.push(advance.await.map_err(failed)?.rows_affected() > 0);
        }
        self.commit(open).await?;
        Ok(moved)
    }

    async fn reaches(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Reach>, StoreError> {
        let rows = sqlx::query_as(REACHES).bind(list(of)?).fetch_all(&self.readers);
        let rows: Vec<(i64, i64)> = rows.await.map_err(failed)?;
        Ok(rows.into_iter().map(|(delivered, read)| columns::reach(delivered, read)).collect())
    }

    async fn save_cursors(&self, cursors: &[(UserId, DeviceId, String)]) -> Result<(), StoreError> {
        let mut open = self.begin().await?;
        for (user, device, cursor) in cursors {
            let save = sqlx::query(SAVE_CURSOR).bind(user.as_str()).bind(device.as_str()).bind(cursor.as_str());
            save.execute(&mut *open).await.map_err(failed)?;
        }
        self.commit(open).await
    }

    async fn cursor(&self, user: &UserId, device: &DeviceId) -> Result<Option<String>, StoreError> {
        let saved = sqlx::query_scalar("SELECT cursor FROM cursors WHERE user_id = ? AND device_id = ?")
            .bind(user.as_str())
            .bind(device.as_str())
            .fetch_optional(&self.readers);
        saved.await.map_err(failed)
    }
}
