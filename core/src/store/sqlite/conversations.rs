//! Conversations and membership in SQLite.

use async_trait::async_trait;
use sqlx::{Row, Sqlite, Transaction, sqlite::SqliteRow};

use super::{SqliteStore, failed, list, revocations::note};
use crate::{
    name::{ConversationId, UserId},
    store::{
        Conversation, Conversations, Created, NewConversation, Revoked, Standing, StoreError, columns,
        revocations::parts_until,
    },
};

const CREATE: &str = "INSERT INTO conversations (id, title, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";

const JOIN: &str = "INSERT INTO participants (conversation_id, user_id) VALUES (?, ?) ON CONFLICT DO NOTHING";

const LEAVE: &str = "DELETE FROM participants WHERE conversation_id = ? AND user_id = ?";

const CONVERSATIONS: &str = "
SELECT c.id, c.title, c.created_ms,
       (SELECT json_group_array(p.user_id ORDER BY p.user_id) FROM participants p WHERE p.conversation_id = c.id)
FROM json_each(?) AS asked CROSS JOIN conversations c ON c.id = asked.value
ORDER BY asked.key";

const CONVERSATIONS_OF: &str = "
SELECT (SELECT json_group_array(p.conversation_id ORDER BY p.conversation_id)
        FROM participants p WHERE p.user_id = asked.value)
FROM json_each(?) AS asked
ORDER BY asked.key";

const SIZES: &str = "
SELECT (SELECT count(*) FROM (SELECT 1 FROM participants p WHERE p.conversation_id = asked.value LIMIT ?2))
FROM json_each(?1) AS asked
ORDER BY asked.key";

const STANDINGS: &str = "
SELECT EXISTS (SELECT 1 FROM conversations c WHERE c.id = asked.value ->> 0),
       EXISTS (SELECT 1 FROM participants p
               WHERE p.conversation_id = asked.value ->> 0 AND p.user_id = asked.value ->> 1)
FROM json_each(?) AS asked
ORDER BY asked.key";

#[async_trait]
impl Conversations for SqliteStore {
    async fn create(&self, conversation: &NewConversation) -> Result<Created, StoreError> {
        let mut open = self.begin().await?;
        let created = sqlx::query(CREATE)
            .bind(conversation.id.as_str())
            .bind(conversation.title.as_deref())
            .bind(columns::to_column(conversation.created_ms))
            .execute(&mut *open);
        if created.await.map_err(failed)?.rows_affected() == 0 {
            return Ok(Created::Exists);
        }
        for user in &conversation.participants {
            change(&mut open, JOIN, &conversation.id, user).await?;
        }
        self.commit(open).await?;
        Ok(Created::New)
    }

    async fn conversation(&self, id: &ConversationId) -> Result<Option<Conversation>, StoreError> {
        Ok(self.conversations(std::slice::from_ref(id)).await?.pop())
    }

    async fn conversations_of(&self, users: &[UserId]) -> Result<Vec<Vec<ConversationId>>, StoreError> {
        let lists = sqlx::query_scalar(CONVERSATIONS_OF).bind(list(users)?).fetch_all(&self.readers);
        let lists: Vec<String> = lists.await.map_err(failed)?;
        lists.iter().map(|ids| names(ids)).collect()
    }

    async fn conversations(&self, ids: &[ConversationId]) -> Result<Vec<Conversation>, StoreError> {
        let rows = sqlx::query(CONVERSATIONS).bind(list(ids)?).fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(|row| conversation(row, 0)).collect()
    }

    async fn sizes(&self, ids: &[ConversationId], most: usize) -> Result<Vec<usize>, StoreError> {
        let sizes = sqlx::query_scalar(SIZES).bind(list(ids)?).bind(columns::limit(most)).fetch_all(&self.readers);
        Ok(sizes.await.map_err(failed)?.into_iter().map(columns::count).collect())
    }

    async fn standings(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Standing>, StoreError> {
        let rows = sqlx::query_as(STANDINGS).bind(list(of)?).fetch_all(&self.readers);
        let rows: Vec<(bool, bool)> = rows.await.map_err(failed)?;
        Ok(rows.into_iter().map(columns::standing).collect())
    }

    async fn add_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        self.change(JOIN, id, user).await
    }

    async fn remove_participant(&self, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        self.change(LEAVE, id, user).await
    }
}

impl SqliteStore {
    async fn change(&self, sql: &'static str, id: &ConversationId, user: &UserId) -> Result<Option<bool>, StoreError> {
        let mut open = self.begin().await?;
        let known = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM conversations WHERE id = ?)").bind(id.as_str());
        if !known.fetch_one(&mut *open).await.map_err(failed)? {
            return Ok(None);
        }
        let changed = change(&mut open, sql, id, user).await?;
        if changed && sql == LEAVE {
            let what = Revoked::Part { conversation: id.clone(), user: user.clone() };
            note(&mut open, &what, parts_until()).await?;
        }
        self.commit(open).await?;
        Ok(Some(changed))
    }
}

async fn change(
    open: &mut Transaction<'static, Sqlite>,
    sql: &'static str,
    id: &ConversationId,
    user: &UserId,
) -> Result<bool, StoreError> {
    let changed = sqlx::query(sql).bind(id.as_str()).bind(user.as_str()).execute(&mut **open);
    Ok(changed.await.map_err(failed)?.rows_affected() > 0)
}

/// Reads id, title, time of creation and participants, from a column on.
pub(super) fn conversation(row: &SqliteRow, from: usize) -> Result<Conversation, StoreError> {
    Ok(Conversation {
        id: columns::conversation(row.try_get(from).map_err(failed)?)?,
        title: row.try_get(from + 1).map_err(failed)?,
        participants: names(row.try_get(from + 3).map_err(failed)?)?,
        created_ms: columns::from_column(row.try_get(from + 2).map_err(failed)?),
    })
}

/// The names in a JSON array that SQLite made.
fn names<T: serde::de::DeserializeOwned>(json: &str) -> Result<Vec<T>, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Damaged(error.to_string()))
}
