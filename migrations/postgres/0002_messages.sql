-- No reference to conversations: an event was accepted, so it is stored, whatever became of its conversation. No
-- further index: every one of them is paid for with each event, and seq is dense, which answers most questions.

CREATE TABLE messages (
    conversation_id TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    position BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    message_id UUID NOT NULL,
    body BYTEA NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    sender_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C",
    data TEXT NOT NULL,
    PRIMARY KEY (conversation_id, seq)
);

CREATE UNIQUE INDEX messages_by_key ON messages (conversation_id, sender_id, key) WHERE key IS NOT NULL;
