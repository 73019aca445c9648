-- The newest lease that has written here, and how far it came. Whoever holds an older token may no longer write.

CREATE TABLE progress (
    role TEXT NOT NULL,
    partition INTEGER NOT NULL,
    token INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (role, partition)
) STRICT, WITHOUT ROWID;
