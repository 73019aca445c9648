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
/// Large parcels are not left lying that long.
const MAX_UNTRIMMED_BYTES: usize = 256 * 1_024;

pub(super) struct RedisInbox {
    link: Link,
    key: String,
    last: String,
    connection: Option<MultiplexedConnection>,
    untrimmed: usize,
    untrimmed_bytes: usize,
}

impl RedisInbox {
    pub(super) fn new(link: Link, key: String, start: String) -> Self {
        Self { link, key, last: start, connection: None, untrimmed: 0, untrimmed_bytes: 0 }
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
        (self.untrimmed, self.untrimmed_bytes) = (0, 0);
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
            self.untrimmed_bytes += fields.iter().map(Vec::len).sum::<usize>();
            parcels.extend(parcel(fields));
            self.last = id;
            self.untrimmed += 1;
        }
        if self.untrimmed >= TRIM_EVERY || self.untrimmed_bytes >= MAX_UNTRIMMED_BYTES {
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
            Some(Parcel::Records { partition, records: unpack(&fields.next()?, fields.next()?.into())? })
        }
        (b"signal", signal) => serde_json::from_slice(&signal).ok().map(Parcel::Signal),
        _ => None,
    }
}

/// What an entry with a parcel says.
pub(super) fn fields(parcel: &Parcel) -> Result<Vec<Vec<u8>>, LogError> {
    Ok(match parcel {
        Parcel::Records { partition, records } => {
            let (positions, lines) = pack(records);
            vec![b"records".to_vec(), partition.0.to_string().into(), positions.into(), lines]
        }
        Parcel::Signal(signal) => {
            vec![b"signal".to_vec(), serde_json::to_vec(signal).map_err(LogError::unavailable)?]
        }
    })
}

/// The positions of records, and the records as lines.
fn pack(records: &[Record]) -> (String, Vec<u8>) {
    let positions: Vec<String> = records.iter().map(|record| wire::id(record.position)).collect();
    let mut lines = Vec::with_capacity(records.iter().map(|record| record.header.len() + record.data.len() + 2).sum());
    for record in records {
        lines.extend_from_slice(&record.header);
        lines.push(b'\t');
        lines.extend_from_slice(&record.data);
        lines.push(b'\n');
    }
    (positions.join(" "), lines)
}

fn unpack(positions: &[u8], lines: Bytes) -> Option<Vec<Record>> {
    let positions = std::str::from_utf8(positions).ok()?.split(' ').map(wire::position);
    let placed = positions.zip(wire::lines(lines));
    placed.map(|(position, (header, data))| Some(Record { position: position?, header, data })).collect()
}
