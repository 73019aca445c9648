//! The receiving end: a blocking reader of one stream, which it trims behind itself.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Value, aio::MultiplexedConnection, cmd};

use crate::{
    event::Record,
    log::{
        LogError,
        redis::{
            link::{Link, failed},
            wire,
        },
    },
    partition::Partition,
    relay::{Inbox, Parcel},
};

const COUNT: usize = 64;
const SLACK: Duration = Duration::from_secs(5);
/// Trimming each time would cost a command for each parcel of a quiet service.
const TRIM_EVERY: usize = 128;

pub(super) struct RedisInbox {
    link: Link,
    key: String,
    last: String,
    connection: Option<MultiplexedConnection>,
    untrimmed: usize,
}

impl RedisInbox {
    pub(super) fn new(link: Link, key: String, start: String) -> Self {
        Self { link, key, last: start, connection: None, untrimmed: 0 }
    }

    async fn read(&mut self, wait: Duration) -> Result<Value, LogError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.link.dedicated().await?,
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(COUNT).arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        read.arg("STREAMS").arg(&self.key).arg(&self.last);
        let answer = tokio::time::timeout(wait + SLACK, read.query_async(&mut connection)).await;
        let reply = answer.map_err(LogError::unavailable)?.map_err(failed)?;
        self.connection = Some(connection);
        Ok(reply)
    }

    /// Keeps the last entry: the stream has to exist for senders.
    async fn trim(&mut self) -> Result<(), LogError> {
        self.untrimmed = 0;
        self.link.query(cmd("XTRIM").arg(&self.key).arg("MINID").arg("~").arg(&self.last)).await
    }
}

#[async_trait]
impl Inbox for RedisInbox {
    async fn receive(&mut self, wait: Duration) -> Result<Vec<Parcel>, LogError> {
        let Value::Array(mut streams) = self.read(wait).await? else { return Ok(Vec::new()) };
        let Some(Value::Array(stream)) = streams.pop() else { return Ok(Vec::new()) };
        let mut parcels = Vec::new();
        for (id, fields) in stream.into_iter().next_back().into_iter().flat_map(wire::raw_entries) {
            parcels.extend(parcel(fields));
            self.last = id;
            self.untrimmed += 1;
        }
        if self.untrimmed >= TRIM_EVERY {
            self.trim().await?;
        }
        Ok(parcels)
    }
}

/// A parcel of an unknown kind is from a newer sender; the log still has what it was about.
fn parcel(fields: Vec<Vec<u8>>) -> Option<Parcel> {
    let mut fields = fields.into_iter();
    match (fields.next()?.as_slice(), fields.next()?) {
        (b"records", partition) => {
            let partition = Partition(std::str::from_utf8(&partition).ok()?.parse().ok()?);
            let mut records = Vec::with_capacity(fields.len() / 2);
            while let (Some(header), Some(data)) = (fields.next(), fields.next()) {
                records.push(record(header.into(), data.into())?);
            }
            Some(Parcel::Records { partition, records })
        }
        (b"signal", signal) => serde_json::from_slice(&signal).ok().map(Parcel::Signal),
        _ => None,
    }
}

fn record(mut header: Bytes, data: Bytes) -> Option<Record> {
    let space = header.iter().position(|&byte| byte == b' ')?;
    let id = header.split_to(space);
    let position = wire::position(std::str::from_utf8(&id).ok()?)?;
    Some(Record { position, header: header.slice(1..), data })
}
