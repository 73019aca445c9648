//! What the stores take by themselves: the rates no server built on them can exceed.

mod postgres;
mod redis;
mod sqlite;

pub(super) use self::{postgres::Postgres, redis::redis, sqlite::sqlite};

/// As large as the text of a benchmark message.
const PAYLOAD: [u8; 256] = [b'x'; 256];
