//! Lists of conversations in Postgres.

use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};

use super::{PostgresStore, conversations::conversation, failed, messages::record};
use crate::{
    name::{ConversationId, UserId},
    store::{Activity, Overview, Overviews, StoreError, columns},
};

/// The last event of each conversation is one look into the primary key; only those of the page are read whole. Lateral
/// and limited, so that whatever the planner thinks of the sizes each is one look into an index.
const OVERVIEWS: &str = "
WITH mine AS (
    SELECT c.id, c.title, c.created_ms, last.seq, COALESCE(last.created_ms, c.created_ms) AS at_ms
    FROM participants p
    CROSS JOIN LATERAL (SELECT * FROM conversations c WHERE c.id = p.conversation_id LIMIT 1) c
    LEFT JOIN LATERAL (
        SELECT m.seq, m.created_ms FROM messages m WHERE m.conversation_id = c.id ORDER BY m.seq DESC LIMIT 1
    ) last ON true
    WHERE p.user_id = $1
), page AS MATERIALIZED (
    SELECT * FROM mine WHERE $2::bigint IS NULL OR (at_ms, id) < ($2, $3) ORDER BY at_ms DESC, id DESC LIMIT $4
)
SELECT m.*, page.id, page.title, page.created_ms,
       ARRAY(SELECT p.user_id FROM participants p WHERE p.conversation_id = page.id ORDER BY p.user_id),
       page.at_ms,
       COALESCE((SELECT d.seq FROM marks d
                 WHERE d.user_id = $1 AND d.conversation_id = page.id AND d.mark = 'delivered'), 0),
       COALESCE((SELECT r.seq FROM marks r
                 WHERE r.user_id = $1 AND r.conversation_id = page.id AND r.mark = 'read'), 0)
FROM page LEFT JOIN LATERAL (
    SELECT m.conversation_id, m.seq, m.position, m.created_ms, m.message_id, m.body, m.event, m.sender_id, m.key, m.data
    FROM messages m WHERE m.conversation_id = page.id AND m.seq = page.seq LIMIT 1
) m ON true
ORDER BY page.at_ms DESC, page.id DESC";

#[async_trait]
impl Overviews for PostgresStore {
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
            .fetch_all(&self.pool);
        rows.await.map_err(failed)?.iter().map(overview).collect()
    }
}

fn overview(row: &PgRow) -> Result<Overview, StoreError> {
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
