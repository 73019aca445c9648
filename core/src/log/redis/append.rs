//! Appending: how a batch reaches `append.lua`, and how that script reaches the server.

use std::sync::atomic::{AtomicI64, AtomicU16, Ordering};

use redis::{Cmd, Script, Value, cmd};
use tokio::sync::OnceCell;

use super::{RedisLog, link::Link, wire};
use crate::{
    event::Draft,
    generation::Generation,
    identity::CLOCK_LEEWAY_MS,
    log::{Appended, Log, LogError},
    partition::Partition,
    position::Position,
};

/// Bytes of data up to which an append is small.
const SMALL_APPEND: usize = 1_024;

/// What this process knows of one partition, and its way to append there.
pub(super) struct Appender {
    /// Opened with the first large append.
    link: OnceCell<Link>,
    script: Script,
    code: String,
    pub(super) generation: AtomicU16,
    /// The last position seen accepted, as a column.
    pub(super) seen: AtomicI64,
}

impl Appender {
    pub(super) fn new(partition: Partition) -> Self {
        let code = format!("{}-- partition {}\n", include_str!("append.lua"), partition.0);
        let (generation, seen) = (AtomicU16::new(Generation::FIRST.number), AtomicI64::new(0));
        Self { link: OnceCell::new(), script: Script::new(&code), code, generation, seen }
    }
}

impl RedisLog {
    /// Appends, and introduces the script first to a server that was started anew, if the log is sound there.
    pub(super) async fn append_some(&self, partition: Partition, drafts: &[Draft]) -> Result<Vec<Appended>, LogError> {
        match self.try_append(partition, drafts).await {
            Err(LogError::Renewing) => {
                self.arm(partition).await?;
                self.try_append(partition, drafts).await
            }
            outcome => outcome,
        }
    }

    /// Small appends share a connection, and with it system calls; large ones would wait there for each other.
    async fn appender(&self, partition: Partition, drafts: &[Draft]) -> Result<&Link, LogError> {
        let bytes: usize = drafts.iter().map(|draft| draft.data.len()).sum();
        if bytes <= SMALL_APPEND {
            return Ok(&self.link);
        }
        self.appenders[partition.index()].link.get_or_try_init(|| self.link.another()).await
    }

    /// One try; [`LogError::Renewing`] also when the server does not know the script.
    async fn try_append(&self, partition: Partition, drafts: &[Draft]) -> Result<Vec<Appended>, LogError> {
        let (generation, link) = (self.generation(partition), self.appender(partition, drafts).await?);
        let mut call = self.append_call("EVALSHA", partition);
        append_arguments(&mut call, generation, self.seen_in(partition, generation), drafts);
        let reply: Vec<Value> = link.query(&call).await?;
        let answers = wire::answers(&reply, generation);
        let answers = answers.ok_or_else(|| LogError::Damaged("append gave an unreadable answer".into()))?;
        let places = answers.iter().filter_map(|answer| match answer {
            Appended::Accepted { position, .. } => Some(*position),
            _ => None,
        });
        self.saw(partition, places.max().unwrap_or_default());
        Ok(answers)
    }

    /// Introduces the script to a server that does not know it; refused if the log is not sound there.
    async fn arm(&self, partition: Partition) -> Result<(), LogError> {
        let sound: bool = self.link.query(self.append_call("EVAL", partition).arg("arm")).await?;
        if sound { Ok(()) } else { Err(LogError::Renewing) }
    }

    fn append_call(&self, how: &str, partition: Partition) -> Cmd {
        let (appender, keys) = (&self.appenders[partition.index()], &self.keys);
        let mut call = cmd(how);
        call.arg(if how == "EVAL" { &appender.code } else { appender.script.get_hash() }).arg(5);
        call.arg(keys.log(partition)).arg(keys.meta(partition)).arg(keys.tops(partition));
        call.arg(keys.new_identities(partition)).arg(keys.old_identities(partition));
        call
    }

    /// The last offset of a generation that this process has seen accepted. What it saw of an earlier one may be lost by
    /// right.
    pub(super) fn seen_in(&self, partition: Partition, generation: u16) -> u64 {
        let seen = self.seen(partition);
        if seen.generation() == generation { seen.offset() } else { 0 }
    }

    /// The last position that this process has seen accepted.
    pub(super) fn seen(&self, partition: Partition) -> Position {
        Position::from_column(self.appenders[partition.index()].seen.load(Ordering::Relaxed))
    }

    pub(super) fn saw(&self, partition: Partition, at: Position) {
        self.appenders[partition.index()].seen.fetch_max(at.to_column(), Ordering::Relaxed);
    }
}

fn append_arguments(call: &mut Cmd, generation: u16, seen: u64, drafts: &[Draft]) {
    let mut names: Vec<&str> = Vec::new();
    let conversations: Vec<u8> = drafts.iter().map(|draft| index_of(&mut names, draft)).collect();
    let minted: Vec<String> = drafts.iter().map(|draft| draft.minted_ms(generation).min(1 << 50).to_string()).collect();
    let mut events = Vec::with_capacity(drafts.iter().map(|draft| draft.data.len() + 256).sum());
    drafts.iter().for_each(|draft| wire::push_line(&mut events, &draft.header_tail(), &draft.data));
    let names_count = names.len();
    call.arg(generation).arg(seen).arg(CLOCK_LEEWAY_MS).arg(names_count).arg(names);
    call.arg(&conversations).arg(minted.join(" ")).arg(events);
    for draft in drafts {
        call.arg(&draft.identity().0[..]);
    }
    let mut places = vec![0_u16; names_count];
    for (index, (draft, conversation)) in (1_u16..).zip(drafts.iter().zip(&conversations)) {
        let place = &mut places[usize::from(*conversation) - 1];
        *place += 1;
        call.arg(wire::particulars(*place, index, draft));
    }
}

/// Where the draft's conversation stands in the list, counted from 1, added if it is new. A batch has no more than
/// [`Log::max_batch`] of them, so a byte holds it.
fn index_of<'a>(names: &mut Vec<&'a str>, draft: &'a Draft) -> u8 {
    let name = draft.conversation.as_str();
    let known = names.iter().position(|&known| known == name);
    let index = known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    (index + 1) as u8
}
