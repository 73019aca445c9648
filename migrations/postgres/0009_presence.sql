CREATE TABLE presence (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    last_seen_ms BIGINT NOT NULL
) WITH (fillfactor = 70); -- rows are overwritten all the time; room in the page spares the index
