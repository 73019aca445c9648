//! How the whole installation is doing, as one of its processes sees it.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use everpost_core::{
    lease::LeaseView,
    log::{LogError, Vitals},
    partition::Partition,
    role::Role,
    store::{Fate, Sieve},
};
use everpost_workers::Outlook;
use serde::{Deserialize, Serialize};

use super::{Admin, Shared};

/// The status of everything else must not wait for the database longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// What `/v1/admin/status` answers, and what `everpost status` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the process that answers.
    pub version: String,
    /// Where events live.
    pub engine: String,
    /// What an acknowledgement promises.
    pub durability: String,
    /// How hard it is for the log to take more.
    pub pressure: PressureStatus,
    /// Events that were given up and wait for somebody; not known while the database does not answer.
    pub dead_letters: Option<u64>,
    /// The gateways that are known.
    pub instances: Vec<InstanceStatus>,
    /// Each partition, in order.
    pub partitions: Vec<PartitionStatus>,
}

/// The level, and what it follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PressureStatus {
    /// `green`, `yellow`, `orange` or `red`.
    pub level: String,
    /// Events accepted and not stored.
    pub backlog: u64,
    /// For how long the oldest of them has been waiting.
    pub oldest_unstored_seconds: f64,
    /// Bytes the log takes, where they are known.
    pub memory_used: Option<u64>,
    /// Bytes at which it takes no more, where there is a limit.
    pub memory_limit: Option<u64>,
    /// What in its settings makes a promise false.
    pub faults: Vec<String>,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its name, which it got when it started.
    pub instance_id: String,
}

/// One partition of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: u16,
    /// How many events it has accepted, ever.
    pub accepted: u64,
    /// How far each role is.
    pub roles: BTreeMap<String, RoleStatus>,
}

/// How far a role is in one partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleStatus {
    /// The worker that owns the partition, if one does.
    pub owner: Option<String>,
    /// Events it has still before it.
    pub lag: u64,
}

pub(super) async fn get_status(State(admin): State<Shared>) -> Response {
    match admin.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

impl Admin {
    async fn status(&self) -> Result<Status, LogError> {
        let Outlook { level, vitals, age, faults } = self.pressure.outlook();
        let mut instances: Vec<String> = self.ports.relay.instances().await?.iter().map(ToString::to_string).collect();
        instances.sort();
        let mut owners = Vec::new();
        for role in Role::ALL {
            owners.push((role, self.ports.leases.view(role).await?));
        }
        let dead = Sieve { fate: Some(Fate::Dead), ..Sieve::default() };
        let counted = tokio::time::timeout(PATIENCE, self.ports.store.count_dead_letters(&dead)).await;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: self.engine.clone(),
            durability: self.ports.log.durability().to_string(),
            pressure: PressureStatus {
                level: level.to_string(),
                backlog: vitals.backlog(Role::Persist).sum(),
                oldest_unstored_seconds: age.as_secs_f64(),
                memory_used: vitals.memory.map(|memory| memory.used),
                memory_limit: vitals.memory.and_then(|memory| memory.limit),
                faults,
            },
            dead_letters: counted.ok().and_then(Result::ok),
            instances: instances.into_iter().map(|instance_id| InstanceStatus { instance_id }).collect(),
            partitions: self.ports.log.partitions().iter().map(|at| partition(at, &vitals, &owners)).collect(),
        })
    }
}

fn partition(at: Partition, vitals: &Vitals, owners: &[(Role, Vec<LeaseView>)]) -> PartitionStatus {
    let role = |(role, leases): &(Role, Vec<LeaseView>)| {
        let owner = leases.get(at.index()).and_then(|lease| lease.owner.clone());
        let lag = vitals.backlog(*role).nth(at.index()).unwrap_or(0);
        (role.to_string(), RoleStatus { owner, lag })
    };
    PartitionStatus {
        partition: at.0,
        accepted: vitals.ends.get(at.index()).map_or(0, |end| end.offset()),
        roles: owners.iter().map(role).collect(),
    }
}
