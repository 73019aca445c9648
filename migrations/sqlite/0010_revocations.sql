-- Rights that were taken back: a token by its id, every token of a user issued before an instant, or a part in a
-- conversation. Gateways read what is new once a second.

CREATE TABLE revocations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    token_id TEXT,
    user_id TEXT,
    conversation_id TEXT,
    issued_before INTEGER,
    until_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX revocations_by_end ON revocations (until_ms);
