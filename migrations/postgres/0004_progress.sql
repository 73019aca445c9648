-- The newest lease that has written here, and how far it came. Whoever holds an older token may no longer write.

CREATE TABLE progress (
    role TEXT COLLATE "C" NOT NULL,
    partition INTEGER NOT NULL,
    token BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (role, partition)
) WITH (fillfactor = 10); -- a few rows, overwritten by every batch
