-- Work that was handed off and is due later, by the database's own clock. One event may make several parts of it.

CREATE TABLE jobs (
    id BLOB NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position INTEGER NOT NULL,
    part INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    task TEXT NOT NULL,
    UNIQUE (role, partition, position, part)
) STRICT;

CREATE INDEX jobs_by_time ON jobs (role, partition, due_ms);
