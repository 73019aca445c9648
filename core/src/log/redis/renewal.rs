//! Looking for signs that a partition is not what it was, and letting it go on in a new generation.
//!
//! Nobody tries to prove that a server which was restarted lost nothing: a dead process may have been the only witness.
//! Its run id differs, that is enough, and a new generation costs nothing where nothing was lost.

use std::sync::atomic::Ordering;

use super::{RedisLog, wire};
use crate::{
    log::{Condition, Fault, LogError, Renewal},
    partition::Partition,
    role::Role,
};

/// What `survey.lua` found.
struct Found {
    run: String,
    generation: Option<u16>,
    frozen: Option<u16>,
    /// The run under which the log was last declared sound.
    sound_run: String,
    last: Option<u64>,
    base: u64,
    /// The newest entry when the generation began, and now.
    newest_then: String,
    newest: String,
    tops: bool,
    groups: bool,
}

impl Found {
    fn read(reply: Vec<String>) -> Option<Self> {
        let mut fields = reply.into_iter();
        let mut next = || fields.next();
        let (run, generation, frozen, sound_run) = (next()?, next()?, next()?, next()?);
        let (last, base, newest_then, newest, tops) = (next()?, next()?, next()?, next()?, next()? == "1");
        let groups = fields.all(|there| there == "1");
        let (generation, frozen) = (generation.parse().ok(), frozen.parse().ok());
        let (last, base) = (last.parse().ok(), base.parse().unwrap_or(0));
        Some(Self { run, generation, frozen, sound_run, last, base, newest_then, newest, tops, groups })
    }

    /// The last offset that is left. A generation may stand on what only the store has.
    fn end(&self) -> u64 {
        if self.last == Some(self.base) && self.newest == self.newest_then {
            return self.base;
        }
        wire::position(&self.newest).map_or(0, |position| position.offset())
    }

    fn fault(&self) -> Option<Fault> {
        match self {
            Self { generation: None, frozen: None, .. } | Self { last: None, .. } => Some(Fault::Emptied),
            Self { run, sound_run, .. } if run != sound_run => Some(Fault::Restarted),
            Self { last: Some(last), .. } if self.end() != *last => Some(Fault::Incomplete),
            Self { tops: false, .. } | Self { generation: None, .. } => Some(Fault::Incomplete),
            Self { groups: false, .. } => Some(Fault::Ungrouped),
            _ => None,
        }
    }
}

impl RedisLog {
    pub(super) async fn survey_one(&self, partition: Partition) -> Result<Condition, LogError> {
        let (keys, script) = (self.keys(), &self.scripts.survey);
        let seen = self.seen(partition); // before the survey, or what is accepted meanwhile would look lost
        let reply: Vec<String> = self
            .link()
            .script(script, |call| {
                call.key(keys.log(partition)).key(keys.meta(partition)).key(keys.tops(partition));
                for role in Role::ALL {
                    call.key(keys.lease(role, partition));
                }
                call.arg(Role::ALL.map(Role::as_str).as_slice());
            })
            .await?;
        let unreadable = || LogError::Damaged("a survey gave an unreadable answer".into());
        let found = Found::read(reply).ok_or_else(unreadable)?;
        let appender = &self.appenders[partition.index()];
        if let Some(generation) = found.generation {
            appender.generation.store(generation, Ordering::Release);
        }
        let believed = found.generation.or(found.frozen);
        let shown = believed.map_or_else(String::new, |generation| generation.to_string());
        let seen = match believed {
            Some(generation) if generation != seen.generation() => 0, // that was another one; somebody renewed it
            _ => seen.offset(),
        };
        let set_back = (believed.is_some() && seen > found.end()).then_some(Fault::Older);
        Ok(Condition {
            partition,
            generation: believed.unwrap_or(0),
            fault: found.fault().or(set_back),
            end: found.end(),
            intact: believed.is_some() && found.tops && found.last == Some(found.end()),
            seen,
            witness: [found.run.as_str(), &shown, &found.newest].join(" "),
        })
    }

    pub(super) async fn freeze_one(&self, partition: Partition, generation: u16) -> Result<(), LogError> {
        let meta = self.keys().meta(partition);
        let call = |call: &mut redis::ScriptInvocation<'_>| {
            call.key(meta).arg(generation);
        };
        self.link().script(&self.scripts.freeze, call).await
    }

    pub(super) async fn renew_one(&self, condition: &Condition, renewal: &Renewal) -> Result<bool, LogError> {
        let (keys, partition) = (self.keys(), condition.partition);
        let Renewal { generation, intact, stored } = *renewal;
        let renewed: bool = self
            .link()
            .script(&self.scripts.renew, |call| {
                call.key(keys.log(partition)).key(keys.meta(partition)).key(keys.tops(partition));
                call.key(keys.new_identities(partition)).key(keys.old_identities(partition));
                for role in Role::ALL {
                    call.key(keys.lease(role, partition));
                }
                call.arg(condition.witness.split(' ').collect::<Vec<_>>());
                call.arg(generation.number).arg(generation.base).arg(generation.fence());
                call.arg(u8::from(intact)).arg(wire::id(stored));
                call.arg(Role::ALL.map(Role::as_str).as_slice());
            })
            .await?;
        if renewed {
            let appender = &self.appenders[partition.index()];
            appender.generation.store(generation.number, Ordering::Release);
        }
        Ok(renewed)
    }
}
