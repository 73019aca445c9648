//! The scripts of the roster, and which keys they are about.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{Script, ScriptInvocation, pipe};

use crate::{
    log::{
        LogError,
        redis::{keys::Keys, link::Link},
    },
    name::{InstanceId, UserId},
    partition::{Partition, Partitions},
    roster::{Arrival, Departure, Entry, Leave, RETRY_AFTER, Removed},
};

/// Connections or users in one script call; Redis does nothing else meanwhile.
const MAX_BATCH: usize = 200;

/// What connections are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    User,
    Address,
}

#[derive(Clone)]
pub(super) struct Calls {
    link: Link,
    keys: Keys,
    partitions: Partitions,
    scripts: Arc<Scripts>,
}

struct Scripts {
    enter: Script,
    leave: Script,
    depart: Script,
    due: Script,
    settle: Script,
}

impl Calls {
    pub(super) fn new(link: Link, keys: Keys, partitions: Partitions) -> Self {
        let scripts = Arc::new(Scripts {
            enter: Script::new(include_str!("enter.lua")),
            leave: Script::new(include_str!("leave.lua")),
            depart: Script::new(include_str!("depart.lua")),
            due: Script::new(include_str!("due.lua")),
            settle: Script::new(include_str!("settle.lua")),
        });
        Self { link, keys, partitions, scripts }
    }

    /// Where the connections of one owner are.
    pub(super) fn of_owner(&self, owner: Owner, name: &str) -> String {
        let kind = if owner == Owner::User { "user" } else { "address" };
        self.keys.roster_of(self.partitions.of(name), &format!("{kind}:{name}"))
    }

    /// Where it is written down what a gateway has entered.
    pub(super) fn of_instance(&self, owner: Owner, partition: Partition, instance: &InstanceId) -> String {
        let kind = if owner == Owner::User { "users" } else { "addresses" };
        self.keys.roster_of(partition, &format!("{kind}:{instance}"))
    }

    fn departures(&self, partition: Partition) -> [String; 2] {
        ["due", "left"].map(|what| self.keys.roster_of(partition, what))
    }

    /// Enters a connection with one of its owners; nothing if there are too many.
    pub(super) async fn enter(&self, owner: Owner, entry: &Entry, most: usize) -> Result<Option<Arrival>, LogError> {
        let name = owner_of(owner, entry);
        let partition = self.partitions.of(&name);
        let kept = match owner {
            Owner::User => serde_json::to_string(entry).map_err(LogError::unavailable)?,
            Owner::Address => entry.instance_id.to_string(),
        };
        let (others, returned): (i64, bool) = self
            .link
            .script(&self.scripts.enter, |call| {
                call.key(self.of_owner(owner, &name)).key(self.of_instance(owner, partition, &entry.instance_id));
                if owner == Owner::User {
                    call.key(&self.departures(partition));
                }
                let most = i64::try_from(most).unwrap_or(i64::MAX);
                call.arg(entry.connection_id.to_string()).arg(kept).arg(&name).arg(most);
            })
            .await?;
        Ok(usize::try_from(others).ok().map(|others| Arrival { others, returned }))
    }

    /// Takes connections out from among those of their owners.
    pub(super) async fn leave_all(
        &self,
        owner: Owner,
        entries: &[Entry],
        leave: Leave,
    ) -> Result<Vec<Removed>, LogError> {
        let mut together: HashMap<(Partition, InstanceId), Vec<(String, String)>> = HashMap::new();
        for entry in entries {
            let name = owner_of(owner, entry);
            let place = (self.partitions.of(&name), entry.instance_id.clone());
            together.entry(place).or_default().push((entry.connection_id.to_string(), name));
        }
        let calls = together.iter().map(|((partition, instance), pairs)| async move {
            self.leave(owner, *partition, instance, pairs, leave).await
        });
        Ok(futures_util::future::try_join_all(calls).await?.into_iter().flatten().collect())
    }

    /// Takes connections of one partition and one gateway out; they come with their owners.
    pub(super) async fn leave(
        &self,
        owner: Owner,
        partition: Partition,
        instance: &InstanceId,
        connections: &[(String, String)],
        leave: Leave,
    ) -> Result<Vec<Removed>, LogError> {
        let grace = if owner == Owner::User { leave.grace.as_millis() as i64 } else { -1 };
        let mut removed = Vec::new();
        for connections in connections.chunks(MAX_BATCH) {
            let taken: Vec<(String, usize, u64)> = self
                .link
                .script(&self.scripts.leave, |call| {
                    call.key(self.of_instance(owner, partition, instance)).key(&self.departures(partition));
                    call.arg(leave.ago.as_millis() as u64).arg(grace);
                    for (connection, name) in connections {
                        call.key(self.of_owner(owner, name)).arg(connection).arg(name);
                    }
                })
                .await?;
            removed.extend(taken.into_iter().filter_map(|(entry, others, left_ms)| {
                Some(Removed { entry: serde_json::from_str(&entry).ok()?, others, left_ms })
            }));
        }
        Ok(removed)
    }

    pub(super) async fn depart(&self, left: &[(UserId, Duration)], grace: Duration) -> Result<(), LogError> {
        let mut together: HashMap<Partition, Vec<&(UserId, Duration)>> = HashMap::new();
        for one in left {
            together.entry(self.partitions.of(one.0.as_str())).or_default().push(one);
        }
        for (partition, left) in &together {
            for left in left.chunks(MAX_BATCH) {
                let call = |call: &mut ScriptInvocation<'_>| {
                    call.key(&self.departures(*partition)).arg(grace.as_millis() as u64);
                    for (user, ago) in left {
                        call.key(self.of_owner(Owner::User, user.as_str()));
                        call.arg(user.as_str()).arg(ago.as_millis() as u64);
                    }
                };
                self.link.script::<()>(&self.scripts.depart, call).await?;
            }
        }
        Ok(())
    }

    /// Looks first where somebody is departing at all: mostly nobody is.
    pub(super) async fn due(&self) -> Result<Vec<Departure>, LogError> {
        let mut read = pipe();
        for partition in self.partitions.iter() {
            read.zcard(&self.departures(partition)[0]);
        }
        let departing: Vec<usize> = self.link.pipeline(&read).await?;
        let some = self.partitions.iter().zip(departing).filter(|(_, departing)| *departing > 0);
        let calls = some.map(|(partition, _)| async move {
            self.link
                .script::<Vec<(String, u64)>>(&self.scripts.due, |call| {
                    call.key(&self.departures(partition)).arg(MAX_BATCH).arg(RETRY_AFTER.as_millis() as u64);
                })
                .await
        });
        let handed = futures_util::future::try_join_all(calls).await?.into_iter().flatten();
        let departure = |(user, left_ms)| Some(Departure { user_id: UserId::new(user).ok()?, left_ms });
        Ok(handed.filter_map(departure).collect())
    }

    pub(super) async fn settle(&self, departures: &[Departure]) -> Result<Vec<UserId>, LogError> {
        let mut together: HashMap<Partition, Vec<&Departure>> = HashMap::new();
        for departure in departures {
            together.entry(self.partitions.of(departure.user_id.as_str())).or_default().push(departure);
        }
        let mut back = Vec::new();
        for (partition, departures) in &together {
            for departures in departures.chunks(MAX_BATCH) {
                let call = |call: &mut ScriptInvocation<'_>| {
                    call.key(&self.departures(*partition));
                    for Departure { user_id, left_ms } in departures {
                        call.key(self.of_owner(Owner::User, user_id.as_str())).arg(user_id.as_str()).arg(*left_ms);
                    }
                };
                let users: Vec<String> = self.link.script(&self.scripts.settle, call).await?;
                back.extend(users.into_iter().filter_map(|user| UserId::new(user).ok()));
            }
        }
        Ok(back)
    }
}

fn owner_of(owner: Owner, entry: &Entry) -> String {
    match owner {
        Owner::User => entry.user_id.to_string(),
        Owner::Address => entry.network(),
    }
}
