//! Marks and cursors in Postgres.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{PostgresStore, failed};
use crate::{
    name::{ConversationId, DeviceId, UserId},
    store::{Mark, Marks, Reach, StoreError, columns},
};

/// Sorted, so that two of these never wait for each other.
const ADVANCE: &str = "
WITH asked AS (
    SELECT * FROM UNNEST($2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY AS a (conversation_id, user_id, seq, n)
), moved AS (
    INSERT INTO marks AS m (conversation_id, user_id, mark, seq)
    SELECT conversation_id, user_id, $1, seq FROM asked
    WHERE seq > 0
      AND EXISTS (SELECT FROM participants p
                  WHERE p.conversation_id = asked.conversation_id AND p.user_id = asked.user_id)
      AND NOT EXISTS (SELECT FROM marks r
                      WHERE r.user_id = asked.user_id AND r.conversation_id = asked.conversation_id
                        AND r.mark = 'read' AND r.seq >= asked.seq)
    ORDER BY user_id, conversation_id
    ON CONFLICT (user_id, conversation_id, mark) DO UPDATE SET seq = EXCLUDED.seq WHERE m.seq < EXCLUDED.seq
    RETURNING conversation_id, user_id
)
SELECT EXISTS (SELECT FROM moved WHERE (moved.conversation_id, moved.user_id) = (asked.conversation_id, asked.user_id))
FROM asked ORDER BY asked.n";

const REACHES: &str = "
SELECT COALESCE((SELECT m.seq FROM marks m WHERE m.user_id = asked.user_id
                 AND m.conversation_id = asked.conversation_id AND m.mark = 'delivered'), 0),
       COALESCE((SELECT m.seq FROM marks m WHERE m.user_id = asked.user_id
                 AND m.conversation_id = asked.conversation_id AND m.mark = 'read'), 0)
FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS asked (conversation_id, user_id, n)
ORDER BY asked.n";

const SAVE_CURSORS: &str = "
INSERT INTO cursors (user_id, device_id, cursor)
SELECT DISTINCT ON (user_id, device_id) user_id, device_id, cursor
FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS saved (user_id, device_id, cursor, n)
ORDER BY user_id, device_id, n DESC
ON CONFLICT (user_id, device_id) DO UPDATE SET cursor = EXCLUDED.cursor";

type Advance = (ConversationId, UserId, u64);

#[async_trait]
impl Marks for PostgresStore {
    async fn advance(&self, mark: Mark, to: &[Advance]) -> Result<Vec<bool>, StoreError> {
        let mut moved = vec![false; to.len()];
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        for round in rounds(to) {
            let asked: Vec<&Advance> = round.iter().map(|&index| &to[index]).collect();
            let answers = sqlx::query_scalar(ADVANCE)
                .bind(mark.as_str())
                .bind(asked.iter().map(|(id, _, _)| id.as_str()).collect::<Vec<_>>())
                .bind(asked.iter().map(|(_, user, _)| user.as_str()).collect::<Vec<_>>())
                .bind(asked.iter().map(|(_, _, seq)| columns::to_column(*seq)).collect::<Vec<_>>())
                .fetch_all(&mut *transaction);
            let answers: Vec<bool> = answers.await.map_err(failed)?;
            round.iter().zip(answers).for_each(|(&index, answer)| moved[index] = answer);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(moved)
    }

    async fn reaches(&self, of: &[(ConversationId, UserId)]) -> Result<Vec<Reach>, StoreError> {
        let (ids, users): (Vec<&str>, Vec<&str>) = of.iter().map(|(id, user)| (id.as_str(), user.as_str())).unzip();
        let rows = sqlx::query_as(REACHES).bind(ids).bind(users).fetch_all(&self.pool);
        let rows: Vec<(i64, i64)> = rows.await.map_err(failed)?;
        Ok(rows.into_iter().map(|(delivered, read)| columns::reach(delivered, read)).collect())
    }

    async fn save_cursors(&self, cursors: &[(UserId, DeviceId, String)]) -> Result<(), StoreError> {
        let save = sqlx::query(SAVE_CURSORS)
            .bind(cursors.iter().map(|(user, _, _)| user.as_str()).collect::<Vec<_>>())
            .bind(cursors.iter().map(|(_, device, _)| device.as_str()).collect::<Vec<_>>())
            .bind(cursors.iter().map(|(_, _, cursor)| cursor.as_str()).collect::<Vec<_>>())
            .execute(&self.pool);
        save.await.map(drop).map_err(failed)
    }

    async fn cursor(&self, user: &UserId, device: &DeviceId) -> Result<Option<String>, StoreError> {
        let saved = sqlx::query_scalar("SELECT cursor FROM cursors WHERE user_id = $1 AND device_id = $2")
            .bind(user.as_str())
            .bind(device.as_str())
            .fetch_optional(&self.pool);
        saved.await.map_err(failed)
    }
}

/// Splits marks so that none is moved twice by one statement, which Postgres refuses; nearly always that is one round.
fn rounds(to: &[Advance]) -> Vec<Vec<usize>> {
    let (mut rounds, mut seen) = (Vec::<Vec<usize>>::new(), HashMap::new());
    for (index, (id, user, _)) in to.iter().enumerate() {
        let turn = seen.entry((id, user)).and_modify(|turn| *turn += 1).or_insert(0_usize);
        if *turn == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[*turn].push(index);
    }
    rounds
}
