CREATE TABLE conversations (
    id TEXT NOT NULL PRIMARY KEY,
    title TEXT,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE participants (
    conversation_id TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    user_id TEXT NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX participants_by_user ON participants (user_id, conversation_id);
