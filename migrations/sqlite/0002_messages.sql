-- No reference to conversations: an event was accepted, so it is stored, whatever became of its conversation. No
-- further index: every one of them is paid for with each event, and seq is dense, which answers most questions.
-- With row ids, unlike the other tables: its rows are long, and appending them where the file ends while only short
-- index entries go to their conversations stores two to three times as many in a second.

CREATE TABLE messages (
    conversation_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    message_id BLOB NOT NULL,
    body BLOB NOT NULL,
    event TEXT NOT NULL,
    sender_id TEXT NOT NULL,
    key TEXT,
    data TEXT NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) STRICT;

CREATE UNIQUE INDEX messages_by_key ON messages (conversation_id, sender_id, key) WHERE key IS NOT NULL;
