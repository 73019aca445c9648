-- Names compare byte by byte everywhere: it is what SQLite does, and cheaper than any language's rules.

CREATE TABLE conversations (
    id TEXT COLLATE "C" PRIMARY KEY,
    title TEXT,
    created_ms BIGINT NOT NULL
);

CREATE TABLE participants (
    conversation_id TEXT COLLATE "C" NOT NULL REFERENCES conversations ON DELETE CASCADE,
    user_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
);

CREATE UNIQUE INDEX participants_by_user ON participants (user_id, conversation_id);
