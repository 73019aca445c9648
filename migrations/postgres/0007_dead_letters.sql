-- Events that were given up, and what became of them. header and data are the record as it was read; both go when
-- somebody deletes the letter. What the tombstone in messages says is not repeated here.

CREATE TABLE dead_letters (
    id UUID PRIMARY KEY,
    role TEXT COLLATE "C" NOT NULL,
    partition INTEGER NOT NULL,
    position BIGINT NOT NULL,
    conversation_id TEXT COLLATE "C",
    seq BIGINT,
    message_id UUID,
    sender_id TEXT COLLATE "C",
    key TEXT COLLATE "C",
    event TEXT COLLATE "C",
    reason TEXT COLLATE "C" NOT NULL,
    detail TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failed_ms BIGINT NOT NULL,
    last_failed_ms BIGINT NOT NULL,
    header BYTEA,
    data BYTEA,
    fate TEXT COLLATE "C" NOT NULL,
    decided_by TEXT,
    decided_why TEXT,
    decided_ms BIGINT,
    UNIQUE (role, partition, position)
);

CREATE INDEX dead_letters_by_fate ON dead_letters (fate, id);

-- Who works under a lease, from the first record to the orderly end. An open one of somebody else is what a crash
-- leaves: position is what was unfinished then, crashes how often in a row, suspect what was worked on by itself.

CREATE TABLE tenures (
    role TEXT COLLATE "C" NOT NULL,
    partition INTEGER NOT NULL,
    token BIGINT NOT NULL,
    worker TEXT COLLATE "C" NOT NULL,
    open BOOLEAN NOT NULL,
    position BIGINT NOT NULL,
    crashes INTEGER NOT NULL,
    suspect BIGINT NOT NULL,
    PRIMARY KEY (role, partition)
);
