//! Lists of conversations in SQLite.

use async_trait::async_trait;
use sqlx::{Row, sqlite::SqliteRow};

use super::{SqliteStore, conversations::conversation, failed, messages::record};
use crate::{
    name::{ConversationId, UserId},
    store::{Activity, Overview, Overviews, StoreError, columns},
};

/// The last event of each conversation is one look into the primary key; only those of the page are read whole.
const OVERVIEWS: &str = "
WITH mine AS (
    SELECT c.id, c.title, c.created_ms,
           (SELECT max(m.seq) FROM messages m WHERE m.conversation_id = c.id) AS seq
    FROM participants p CROSS JOIN conversations c ON c.id = p.conversation_id
    WHERE p.user_id = ?1
), dated AS (
    SELECT mine.*,
           COALESCE((SELECT m.created_ms FROM messages m WHERE m.conversation_id = mine.id AND m.seq = mine.seq),
                    mine.created_ms) AS at_ms
    FROM mine
), page AS MATERIALIZED (
    SELECT * FROM dated WHERE ?2 IS NULL OR (at_ms, id) < (?2, ?3) ORDER BY at_ms DESC, id DESC LIMIT ?4
)
SELECT m.conversation_id, m.seq, m.position, m.created_ms, m.message_id, m.body, m.event, m.sender_id, m.key, m.data,
       page.id, page.title, page.created_ms,
       (SELECT json_group_array(p.user_id ORDER BY p.user_id) FROM participants p WHERE p.conversation_id = page.id),
       page.at_ms,
       COALESCE((SELECT d.seq FROM marks d
                 WHERE d.user_id = ?1 AND d.conversation_id = page.id AND d.mark = 'delivered'), 0),
       COALESCE((SELECT r.seq FROM marks r
                 WHERE r.user_id = ?1 AND r.conversation_id = page.id AND r.mark = 'read'), 0)
FROM page LEFT JOIN messages m ON m.conversation_id = page.id AND m.seq = page.seq
ORDER BY page.at_ms DESC, page.id DESC";

#[async_trait]
impl Overviews for SqliteStore {
    async fn overviews(
        &self,
        user: &UserId,
        behind: Option<&Activity>,
        limit: usize,
    ) -> Result<Vec<Overview>, StoreError> {
        let rows = sqlx::query(OVERVIEWS)
            .bind(user.as_str())
            .bind(behind.map(|place| columns::to_column(place.at_ms)))
            .bind(behind.map(|place| place.conversation.as_str()))
            .bind(columns::limit(limit))
            .fetch_all(&self.readers);
        rows.await.map_err(failed)?.iter().map(overview).collect()
    }
}

fn overview(row: &SqliteRow) -> Result<Overview, StoreError> {
    let conversation = conversation(row, 10)?;
    let number = |column: usize| row.try_get::<i64, _>(column).map_err(failed);
    let has_last = row.try_get::<Option<i64>, _>(1).map_err(failed)?.is_some();
    let id: ConversationId = conversation.id.clone();
    Ok(Overview {
        last: if has_last { Some(record(row)?) } else { None },
        reach: columns::reach(number(15)?, number(16)?),
        activity: Activity { at_ms: columns::from_column(number(14)?), conversation: id },
        conversation,
    })
}
