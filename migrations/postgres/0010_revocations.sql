-- Rights that were taken back: a token by its id, every token of a user issued before an instant, or a part in a
-- conversation. Gateways read what is new once a second, so numbers are given in the order of commits (see the adapter).

CREATE TABLE revocations (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token_id TEXT COLLATE "C",
    user_id TEXT COLLATE "C",
    conversation_id TEXT COLLATE "C",
    issued_before BIGINT,
    until_ms BIGINT NOT NULL
);

CREATE INDEX revocations_by_end ON revocations (until_ms);
