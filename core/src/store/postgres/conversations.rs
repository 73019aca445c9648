//! Conversations and membership in Postgres. Every method is one statement, but for leaving.

use async_trait::async_trait;
use sqlx::{Row, postgres::PgRow};

use super::{PostgresStore, failed, revocations::note};
use crate::{
    name::{ConversationId, UserId},
    store::{
        Conversation, Conversations, Created, NewConversation, Revoked, Standing, StoreError, columns,
        revocations::parts_until,
    },
};

const CREATE: &str = "
WITH created AS (
    INSERT INTO conversations (id, title, created_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id
), joined AS (
    INSERT INTO participants (conversation_id, user_id)
    SELECT DISTINCT created.id, member.id FROM created, UNNEST($4::text[]) AS member (id)
)
SELECT EXISTS (SELECT FROM created)";

const CONVERSATIONS: &str = "
SELECT c.id, c.title, c.created_ms,
       ARRAY(SELECT p.user_id FROM participants p WHERE p.conversation_id = c.id ORDER BY p.user_id)
FROM UNNEST($1::text[]) WITH ORDINALITY AS asked (id, n)
JOIN conversations c ON c.id = asked.id
ORDER BY asked.n";

const CONVERSATIONS_OF: &str = "
SELECT ARRAY(SELECT p.conversation_id FROM participants p WHERE p.user_id = asked.id
             ORDER BY p.conversation_id)
FROM UNNEST($1::text[]) WITH ORDINALITY AS asked (id, n)
ORDER BY asked.n";

const SIZES: &str = "
SELECT (SELECT count(*) FROM (SELECT FROM participants p WHERE p.conversation_id = asked.id LIMIT $2) AS counted)
FROM UNNEST($1::text[]) WITH ORDINALITY AS asked (id, n)
ORDER BY asked.n";

const STANDINGS: &str = "
SELECT EXISTS (SELECT FROM conversations c WHERE c.id = asked.conversation_id),
       EXISTS (SELECT FROM participants p
               WHERE p.conversation_id = asked.conversation_id AND p.user_id = asked.user_id)
FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS asked (conversation_id, user_id, n)
ORDER BY asked.n";

const ADD: &str = "
WITH known AS (
    SELECT id FROM conversations WHERE id = $1
), added AS (
    INSERT INTO participants (conversation_id, user_id) SELECT id, $2 FROM known ON CONFLICT DO NOTHING RETURNING 1
)
SELECT EXISTS (SELECT FROM known), EXISTS (SELECT FROM added)";

const REMOVE: &str = "
WITH removed AS (
    DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2 RETURNING 1
)
SELECT EXISTS (SELECT FROM conversations WHERE id = $1), EXISTS (SELECT FROM removed)";

#[async_trait]
impl Conversations for PostgresStore {
    async fn create(&self, conversation: &NewConversation) -> Result<Created, StoreError> {
        let participants: Vec<&str> = conversation.participants.iter().map(UserId::as_str).collect();
        let created = sqlx::query_scalar(CREATE)
            .bind(conversation.id.as_str())
            .bind(conversation.title.as_deref())
            .bind(columns::to_column(conversation.created_ms))
            .bind(participants)
            .fetch_one(&self.pool);
        Ok(if created.await.map_err(failed)? { Created::New } else { Created::Exists })
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, StoreError> {
        Ok(self.conversations(std::slice::from_ref(id)).await?.pop())
    }

    async fn conversations_of(&self, users: &[UserId]) -> Result<Vec<Vec<ConversationId>>, StoreError> {
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let lists = sqlx::query_scalar(CONVERSATIONS_OF).bind(users).fetch_all(&self.pool);
        let lists: Vec<Vec<String>> = lists.await.map_err(failed)?;
        lists.iter().map(|ids| ids.iter().map(|id| columns::conversation(id)).collect()).collect()
    }

    async fn conversations(&self, ids: &[ConversationId]) -> Result<Vec<Conversation>, StoreError> {
        let ids: Vec<&str> = ids.iter().map(ConversationId::as_str).collect();
        let rows = sqlx::query(CONVERSATIONS).bind(ids).fetch_all(&self.pool).await.map_err(failed)?;
        rows.iter().map(|row| conversation(row, 0)).collect()
    }

    async fn sizes(&self, ids: &[ConversationId], most: usize) -> Result<Vec<usize>, StoreError> {
        let ids: Vec<&str> = ids.iter().map(ConversationId::as_str).collect();
        let sizes = sqlx::query_scalar(SIZES).bind(ids).bind(columns::limit(most)).fetch_all(&self.pool);
        Ok(sizes.await.map_err(failed)?.into_iter().map(columns::count).collect())
    }

    async fn standings(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Standing>, StoreError> {
        let (ids, users): (Vec<&str>, Vec<&str>) = of.iter().map(|(id, user)| (id.as_str(), user.as_str())).unzip();
        let rows = sqlx::query_as(STANDINGS).bind(ids).bind(users).fetch_all(&self.pool);
        let rows: Vec<(bool, bool)> = rows.await.map_err(failed)?;
        Ok(rows.into_iter().map(columns::standing).collect())
    }

    async fn add_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        let added = sqlx::query_as(ADD).bind(id.as_str()).bind(user.as_str()).fetch_one(&self.pool);
        let (known, added): (bool, bool) = added.await.map_err(failed)?;
        Ok(known.then_some(added))
    }

    async fn remove_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        let mut open = self.pool.begin().await.map_err(failed)?;
        let removed = sqlx::query_as(REMOVE).bind(id.as_str()).bind(user.as_str()).fetch_one(&mut *open);
        let (known, removed): (bool, bool) = removed.await.map_err(failed)?;
        if removed {
            let what = Revoked::Part { conversation: id.clone(), user: user.clone() };
            note(&mut open, &what, parts_until()).await?;
        }
        open.commit().await.map_err(failed)?;
        Ok(known.then_some(removed))
    }
}

/// Reads id, title, time of creation and participants, from a column on.
pub(super) fn conversation(row: &PgRow, from: usize) -> Result<Conversation, StoreError> {
    let participants: Vec<String> = row.try_get(from + 3).map_err(failed)?;
    Ok(Conversation {
        id: columns::conversation(row.try_get(from).map_err(failed)?)?,
        title: row.try_get(from + 1).map_err(failed)?,
        participants: participants.iter().map(|user| columns::user(user)).collect::<Result<_, _>>()?,
        created_ms: columns::from_column(row.try_get(from + 2).map_err(failed)?),
    })
}
