-- When a log may have lost something, its partition begins a new generation after the last offset that survived. Here
-- is the truth about it; the log holds a copy. Generation 1 has no row.

CREATE TABLE generations (
    partition INTEGER NOT NULL,
    number INTEGER NOT NULL,
    base BIGINT NOT NULL,
    reason TEXT NOT NULL,
    begun_ms BIGINT NOT NULL,
    PRIMARY KEY (partition, number)
);

-- A log that comes back empty is set up again as it was.
ALTER TABLE installation ADD COLUMN partitions INTEGER;
