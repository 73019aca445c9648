CREATE TABLE marks (
    user_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    mark TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (user_id, conversation_id, mark)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    cursor TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;
