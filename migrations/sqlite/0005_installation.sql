-- Which log this store belongs to: the epoch of the first one that came. Two histories must never mix.

CREATE TABLE installation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
