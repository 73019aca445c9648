CREATE TABLE marks (
    user_id TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    mark TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (user_id, conversation_id, mark)
) WITH (fillfactor = 70); -- rows are overwritten all the time; room in the page spares the index

CREATE TABLE cursors (
    user_id TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    cursor TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 70);
