-- Work that was handed off and is due later, by the database's own clock. One event may make several parts of it.

CREATE TABLE jobs (
    id UUID PRIMARY KEY,
    role TEXT COLLATE "C" NOT NULL,
    partition INTEGER NOT NULL,
    position BIGINT NOT NULL,
    part INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due_ms BIGINT NOT NULL,
    task TEXT NOT NULL,
    UNIQUE (role, partition, position, part)
) WITH (fillfactor = 80);

CREATE INDEX jobs_by_time ON jobs (role, partition, due_ms);
