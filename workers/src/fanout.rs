//! Hands events to the gateways that have listeners: work by instance, not by member.
//!
//! What was handed over is acknowledged a little later and for many steps at once: handing something over again is
//! harmless, and each acknowledgement would cost the log a flush.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use everpost_core::{
    event::Record,
    lease::Lease,
    log::{Batch, Follower, LogError},
    name::{ConversationId, InstanceId},
    partition::Partition,
    position::Position,
    relay::{Parcel, Topic},
    role::Role,
};

use crate::{Held, Ports, Step, StepError, Worker};

/// Records in one step, about.
const WINDOW: usize = 512;
/// How long a step waits for something to do.
const WAIT: Duration = Duration::from_secs(1);
/// How long a step waits when there is something to acknowledge.
const ACK_AFTER: Duration = Duration::from_millis(50);
/// Handed over and not acknowledged, at most about this many records.
const MAX_UNACKED: usize = 4_096;

/// The `fanout` role.
pub struct Fanout {
    follower: Box<dyn Follower>,
    held: Held,
    ports: Ports,
    /// Read and not handed over yet.
    window: Vec<Batch>,
    /// Handed over and not acknowledged yet.
    done: HashMap<Lease, Position>,
    unacked: usize,
    acked: Instant,
}

impl Fanout {
    /// A worker that hands over what the follower reads.
    pub fn new(follower: Box<dyn Follower>, held: Held, ports: Ports) -> Self {
        let (window, done) = (Vec::new(), HashMap::new());
        Self { follower, held, ports, window, done, unacked: 0, acked: Instant::now() }
    }

    /// Where each conversation of the window is listened to. Asked after the window was read: whoever registers later
    /// reads the log and finds these events there.
    async fn listeners(&self) -> Result<HashMap<ConversationId, Vec<InstanceId>>, StepError> {
        let names: HashSet<&str> = self
            .window
            .iter()
            .flat_map(|batch| &batch.records)
            .filter_map(|record| record.conversation().ok())
            .collect();
        let conversations: Vec<ConversationId> =
            names.into_iter().filter_map(|name| ConversationId::new(name).ok()).collect();
        let topics: Vec<Topic> = conversations.iter().cloned().map(Topic::Conversation).collect();
        let instances = self.ports.relay.listeners(&topics).await?;
        Ok(conversations.into_iter().zip(instances).collect())
    }

    async fn hand_over(&self) -> Result<(), StepError> {
        let listeners = self.listeners().await?;
        let mut parcels = Vec::new();
        for batch in &self.window {
            let addressed = address(&batch.records, &listeners);
            parcels.extend(addressed.into_iter().map(|(to, records)| parcel(to, batch.lease.partition, records)));
        }
        Ok(self.ports.relay.send(parcels).await?)
    }
}

impl Fanout {
    async fn acknowledge(&mut self, idle: bool) -> Result<(), StepError> {
        let due = idle || self.unacked >= MAX_UNACKED || self.acked.elapsed() >= ACK_AFTER;
        if self.done.is_empty() || !due {
            return Ok(());
        }
        let done: Vec<(Lease, Position)> = self.done.iter().map(|(&lease, &position)| (lease, position)).collect();
        match self.follower.ack(&done).await {
            // Handed over is handed over; a new owner does it again and gateways drop what they have seen.
            Ok(()) | Err(LogError::Fenced) => {}
            Err(error) => return Err(error.into()),
        }
        self.done.clear();
        self.unacked = 0;
        self.acked = Instant::now();
        Ok(())
    }
}

fn parcel(to: &InstanceId, partition: Partition, records: Vec<Record>) -> (InstanceId, Parcel) {
    (to.clone(), Parcel::Records { partition, records })
}

/// The records for each instance, in order.
fn address<'a>(
    records: &[Record],
    listeners: &'a HashMap<ConversationId, Vec<InstanceId>>,
) -> HashMap<&'a InstanceId, Vec<Record>> {
    let mut addressed: HashMap<&InstanceId, Vec<Record>> = HashMap::new();
    for record in records {
        let instances = record.conversation().ok().and_then(|conversation| listeners.get(conversation));
        for instance in instances.into_iter().flatten() {
            addressed.entry(instance).or_default().push(record.clone());
        }
    }
    addressed
}

#[async_trait]
impl Worker for Fanout {
    const ROLE: Role = Role::Fanout;

    async fn step(&mut self) -> Result<Step, StepError> {
        let leases = self.held.leases();
        if self.window.is_empty() {
            let wait = if self.done.is_empty() { WAIT } else { ACK_AFTER };
            self.window = self.follower.read(&leases, WINDOW, wait).await?;
        }
        self.window.retain(|batch| leases.contains(&batch.lease));
        let records: usize = self.window.iter().map(|batch| batch.records.len()).sum();
        if records > 0 {
            self.hand_over().await?;
            let end = |batch: &Batch| batch.records.last().map(|last| (batch.lease, last.position));
            self.done.extend(self.window.iter().filter_map(end));
            self.window.clear();
            self.unacked += records;
        }
        self.acknowledge(records == 0).await?;
        Ok(if records > 0 { Step::Worked(records) } else { Step::Idle })
    }
}
