//! Replay: from where a client was to where it can go on live, in order and without a gap.
//!
//! For each partition there are two stages. Up to the position where the store was complete when it was asked, pages
//! come from the store, of all the user's conversations in the partition, merged by position. After it, records come
//! from the log. The watermark is asked before the store, and the log keeps everything behind the watermark until it is
//! stored, so nothing falls between the two; if the log was trimmed meanwhile, the store is asked again. The stage ends
//! at the end of the log as it was after the rooms were registered: everything later arrives live.
//!
//! ```text
//! client's position ──▶ store, page by page ──▶ watermark ──▶ log ──▶ end at registration ──▶ live
//! ```

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use everpost_core::{
    event::Record,
    log::Tail,
    name::ConversationId,
    partition::{Partition, Partitions},
    position::Position,
};

use super::{
    error::ApiError,
    reads::{PAGE, Reads},
};

/// Before the store is asked again for what the log no longer has.
const TRIMMED_PAUSE: Duration = Duration::from_millis(20);

/// What a page may weigh, unless a single record weighs more: every client that catches up holds one.
const PAGE_BYTES: usize = 512 * 1024;

/// Where a conversation is to be replayed from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    /// A position of its partition.
    Position(Position),
    /// A number of its own.
    Seq(u64),
}

/// Records of one partition, in order, and the position everything is covered up to after them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) partition: Partition,
    pub(crate) records: Vec<Record>,
    pub(crate) upto: Position,
}

enum Stage {
    Begin,
    Stored { watermark: Position },
    Log,
}

/// One partition that has to catch up.
struct Course {
    partition: Partition,
    at: Position,
    end: Position,
    /// The last number handed out of each conversation, 0 when only the position is known.
    after: HashMap<ConversationId, u64>,
    /// Whether the numbers are known.
    placed: bool,
    stage: Stage,
}

/// What is left to be replayed.
#[derive(Default)]
pub(crate) struct Replay {
    courses: VecDeque<Course>,
}

impl Replay {
    /// A replay of conversations, each from its own point, to the given ends of the log.
    pub(crate) fn new(
        partitions: Partitions,
        ends: &[Position],
        from: impl IntoIterator<Item = (ConversationId, From)>,
    ) -> Self {
        let mut courses: HashMap<Partition, Course> = HashMap::new();
        for (conversation, from) in from {
            let partition = partitions.of(conversation.as_str());
            let end = ends.get(partition.index()).copied().unwrap_or_default();
            let (at, after, placed) = match from {
                From::Position(at) => (at, 0, false),
                From::Seq(seq) => (Position::ZERO, seq, true),
            };
            let anew = || Course { partition, at, end, after: HashMap::new(), placed, stage: Stage::Begin };
            courses.entry(partition).or_insert_with(anew).after.insert(conversation, after);
        }
        Self { courses: courses.into_values().filter(|course| course.placed || course.at < course.end).collect() }
    }

    /// The next page, `None` at the end. May be cancelled: the same page comes again.
    pub(crate) async fn next(&mut self, reads: &Reads) -> Result<Option<Page>, ApiError> {
        while let Some(course) = self.courses.front_mut() {
            let page = match course.stage {
                Stage::Begin => {
                    course.begin(reads).await?;
                    continue;
                }
                Stage::Stored { watermark } => course.stored(reads, watermark).await?,
                Stage::Log => course.log(reads).await?,
            };
            if matches!(course.stage, Stage::Log) && course.at >= course.end {
                self.courses.pop_front();
            }
            if page.is_some() {
                return Ok(page);
            }
        }
        Ok(None)
    }
}

impl Course {
    async fn begin(&mut self, reads: &Reads) -> Result<(), ApiError> {
        let watermark = reads.stored().await?.get(self.partition.index()).copied().unwrap_or_default();
        if self.at < watermark && !self.placed {
            let places = self.after.keys().map(|name| reads.place(name.clone(), self.at));
            let places = futures_util::future::try_join_all(places).await?;
            self.after.values_mut().zip(places).for_each(|(after, place)| *after = place);
            self.placed = true;
        }
        self.stage = if self.at < watermark { Stage::Stored { watermark } } else { Stage::Log };
        Ok(())
    }

    /// One page of each conversation, merged by position as far as all of them reach.
    async fn stored(&mut self, reads: &Reads, watermark: Position) -> Result<Option<Page>, ApiError> {
        let pages = self.after.iter().map(|(name, &after)| reads.page(name.clone(), after));
        let pages = futures_util::future::try_join_all(pages).await?;
        let full = pages.iter().filter(|page| page.len() == PAGE);
        let reach = full.filter_map(|page| page.last()).map(|last| last.position).min();
        let upto = reach.unwrap_or(watermark).min(watermark);
        let within = |record: &&Record| record.position <= upto && record.position > self.at;
        let mut records: Vec<Record> = pages.iter().flat_map(|page| page.iter()).filter(within).cloned().collect();
        records.sort_by_key(|record| record.position);
        let upto = shorten(&mut records).unwrap_or(upto);
        self.hand_out(&records);
        self.at = self.at.max(upto);
        if upto == watermark {
            self.stage = Stage::Log;
        }
        Ok(self.page(records))
    }

    async fn log(&mut self, reads: &Reads) -> Result<Option<Page>, ApiError> {
        let tail = reads.tail(self.partition, self.at).await?;
        let Tail::Records(found) = &*tail else {
            self.stage = Stage::Begin;
            tokio::time::sleep(TRIMMED_PAUSE).await; // where the store has not come that far yet, it is about to
            return Ok(None);
        };
        let Some(last) = found.last() else {
            self.at = self.end;
            return Ok(None);
        };
        let mut records: Vec<Record> = found.iter().filter(|record| self.wants(record)).cloned().collect();
        self.at = shorten(&mut records).unwrap_or(last.position);
        self.hand_out(&records);
        Ok(self.page(records))
    }

    fn wants(&self, record: &Record) -> bool {
        let Ok(event) = record.event() else { return false };
        self.after.get(event.conversation).is_some_and(|&after| event.seq > after)
    }

    fn hand_out(&mut self, records: &[Record]) {
        for event in records.iter().filter_map(|record| record.event().ok()) {
            if let Some(after) = self.after.get_mut(event.conversation) {
                *after = event.seq;
            }
        }
    }

    fn page(&self, records: Vec<Record>) -> Option<Page> {
        (!records.is_empty()).then_some(Page { partition: self.partition, records, upto: self.at })
    }
}

/// Cuts off what would make a page too heavy; it is read again. Returns up to where the page reaches then.
fn shorten(records: &mut Vec<Record>) -> Option<Position> {
    let mut bytes = 0;
    let fits = records.iter().take_while(|record| {
        bytes += record.header.len() + record.data.len();
        bytes <= PAGE_BYTES
    });
    let count = fits.count().max(1);
    if count >= records.len() {
        return None;
    }
    records.truncate(count);
    records.last().map(|last| last.position)
}

/// The records of one conversation after a number, at most `limit`, stored or not yet.
pub(crate) async fn after(
    reads: &Reads,
    partitions: Partitions,
    conversation: &ConversationId,
    after: u64,
    limit: usize,
) -> Result<Vec<Record>, ApiError> {
    let ends = reads.ends().await?;
    let mut replay = Replay::new(partitions, &ends, [(conversation.clone(), From::Seq(after))]);
    let mut records = Vec::new();
    while records.len() < limit
        && let Some(page) = replay.next(reads).await?
    {
        records.extend(page.records);
    }
    records.truncate(limit);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: u64, bytes: usize) -> Record {
        let (header, data) = (bytes::Bytes::new(), vec![b'x'; bytes].into());
        Record { position: Position::new(1, offset), header, data }
    }

    #[test]
    fn a_page_is_cut_before_it_is_too_heavy() {
        let mut records: Vec<Record> = (1..=3).map(|offset| record(offset, PAGE_BYTES / 2)).collect();
        assert_eq!(shorten(&mut records), Some(Position::new(1, 2)));
        assert_eq!((records.len(), shorten(&mut records)), (2, None));
        let mut large = vec![record(1, 2 * PAGE_BYTES), record(2, 1)];
        assert_eq!(shorten(&mut large), Some(Position::new(1, 1)), "one is handed out whatever it weighs");
        assert_eq!(shorten(&mut Vec::new()), None);
    }
}
