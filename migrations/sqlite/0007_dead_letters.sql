-- Events that were given up, and what became of them. header and data are the record as it was read; both go when
-- somebody deletes the letter. What the tombstone in messages says is not repeated here.

CREATE TABLE dead_letters (
    id BLOB NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    conversation_id TEXT,
    seq INTEGER,
    message_id BLOB,
    sender_id TEXT,
    key TEXT,
    event TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failed_ms INTEGER NOT NULL,
    last_failed_ms INTEGER NOT NULL,
    header BLOB,
    data BLOB,
    fate TEXT NOT NULL,
    decided_by TEXT,
    decided_why TEXT,
    decided_ms INTEGER,
    UNIQUE (role, partition, position)
) STRICT;

CREATE INDEX dead_letters_by_fate ON dead_letters (fate, id);

-- Who works under a lease, from the first record to the orderly end. An open one of somebody else is what a crash
-- leaves: position is what was unfinished then, crashes how often in a row, suspect what was worked on by itself.

CREATE TABLE tenures (
    role TEXT NOT NULL,
    partition INTEGER NOT NULL,
    token INTEGER NOT NULL,
    worker TEXT NOT NULL,
    open INTEGER NOT NULL,
    position INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    suspect INTEGER NOT NULL,
    PRIMARY KEY (role, partition)
) STRICT;
