//! A load: conversations with listeners and publishers, measured in its steady part and checked to the last message.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    client::Client,
    member::{Course, Member},
    outcome::Outcome,
    process,
    report::Progress,
    room::Room,
    tally::lock,
    target::{self, Conversation, Socket, Target},
    voice::{Pace, Voice},
    witness::{Faults, Witness},
};

/// How many connections are opened at once.
pub(super) const CONNECTING: usize = 64;
/// Load before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long after the last publish everything must have arrived.
const DRAIN: Duration = Duration::from_secs(10);

/// What a load looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Conversations.
    pub(super) rooms: usize,
    /// Members of each that only listen.
    pub(super) listeners: usize,
    /// Members of each that publish.
    pub(super) publishers: usize,
    /// Whether the publishers listen as well, and so get what they sent.
    pub(super) echo: bool,
    /// Messages of a room on their way to the slowest listener.
    pub(super) window: usize,
    /// Unanswered messages of a publisher.
    pub(super) depth: usize,
    /// Messages a second over all publishers; as fast as the window allows without.
    pub(super) rate: Option<f64>,
}

impl Shape {
    fn pace(&self, publisher: usize) -> Option<Pace> {
        let publishers = (self.rooms * self.publishers) as f64;
        let interval = publishers * 1e9 / self.rate.filter(|rate| *rate > 0.0)?;
        let phase = interval * publisher as f64 / publishers;
        Some(Pace { interval: interval as u64, phase: phase as u64 })
    }
}

/// A load whose members are connected.
pub(super) struct Load {
    course: Arc<Course>,
    rooms: Vec<Arc<Room>>,
    witnesses: Vec<(usize, Arc<Mutex<Witness>>)>,
    tasks: JoinSet<()>,
    connecting: Duration,
}

impl Load {
    /// Creates the conversations and connects every member.
    pub(super) async fn open(target: &Target, shape: &Shape) -> Result<Self> {
        target.check()?;
        let members = shape.listeners + shape.publishers;
        let conversations = target::conversations(shape.rooms, members);
        target.create(&conversations).await?;
        let course = Arc::new(Course::new()?);
        let started = Instant::now();
        let clients = connect(target, &course, &conversations).await?;
        let connecting = started.elapsed();
        let mut load = Self { course, rooms: Vec::new(), witnesses: Vec::new(), tasks: JoinSet::new(), connecting };
        let mut clients = clients.into_iter();
        for (index, conversation) in conversations.into_iter().enumerate() {
            load.fill(target, shape, index, conversation, clients.by_ref().take(members));
        }
        Ok(load)
    }

    /// Starts the members of one room; the first ones are its publishers.
    fn fill(
        &mut self,
        target: &Target,
        shape: &Shape,
        index: usize,
        conversation: Conversation,
        clients: impl Iterator<Item = Client>,
    ) {
        let room = Arc::new(Room::new(conversation.id, shape.listeners as u32, shape.window as u64));
        let wakes: Vec<_> = (0..shape.publishers).map(|_| Arc::new(Notify::new())).collect();
        room.wakes(wakes.clone());
        for (place, mut client) in clients.enumerate() {
            if !shape.echo && place < shape.publishers && target.socket == Socket::User {
                client.push(format!(r#"{{"type":"unsubscribe","conversation_id":"{}"}}"#, room.id).as_bytes());
            }
            let pace = || shape.pace(index * shape.publishers + place);
            let voice =
                |wake: &Arc<Notify>| (Voice::new(&room.id, target.socket, shape.depth, pace()), Arc::clone(wake));
            self.start(index, client, &room, wakes.get(place).map(voice));
        }
        self.rooms.push(room);
    }

    fn start(&mut self, room_index: usize, client: Client, room: &Arc<Room>, voice: Option<(Voice, Arc<Notify>)>) {
        let witness = Arc::new(Mutex::new(Witness::default()));
        self.witnesses.push((room_index, Arc::clone(&witness)));
        let member = Member {
            index: self.witnesses.len(),
            client,
            witness,
            room: Arc::clone(room),
            voice,
            course: Arc::clone(&self.course),
        };
        self.tasks.spawn(member.run());
    }

    /// How many clients are connected, and how long that took.
    pub(super) fn connected(&self) -> (usize, Duration) {
        (self.witnesses.len(), self.connecting)
    }

    /// The conversations under load.
    pub(super) fn rooms(&self) -> &[Arc<Room>] {
        &self.rooms
    }

    /// Lets the publishers publish.
    pub(super) fn begin(&self) {
        self.course.publishing.store(true, Relaxed);
        self.rooms.iter().for_each(|room| room.wake());
    }

    /// Ends publishing and waits until everything acknowledged has arrived everywhere, or too much time has passed.
    pub(super) async fn finish(&self) {
        self.course.publishing.store(false, Relaxed);
        // What is late or never comes is counted as lost or unanswered afterwards.
        let _ = timeout(DRAIN, async {
            while !self.is_settled() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    fn is_settled(&self) -> bool {
        let arrived = |(room, witness): &(usize, Arc<Mutex<Witness>>)| {
            let (witness, range) = (lock(witness), self.rooms[*room].acked_range());
            witness.received == 0 || range.is_none_or(|(_, last)| witness.last() >= last)
        };
        self.rooms.iter().all(|room| room.unsettled() == 0) && self.witnesses.iter().all(arrived)
    }

    /// Warms up, measures for `seconds`, ends the load and checks it.
    pub(super) async fn measure(mut self, seconds: u64, pids: &[u32], progress: &Progress) -> Result<Outcome> {
        self.begin();
        sleep(WARM_UP).await;
        let tally = &self.course.tally;
        tally.forget_latencies();
        let myself = [std::process::id()];
        let (started, before) = (Instant::now(), tally.counts());
        let (cpu, own) = (process::cpu_seconds(pids)?, process::cpu_seconds(&myself)?);
        self.watch(seconds, progress).await;
        let (elapsed, after) = (started.elapsed(), tally.counts());
        let (cpu, own) = (process::cpu_seconds(pids)? - cpu, process::cpu_seconds(&myself)? - own);
        let total = tally.total()?;
        self.finish().await;
        self.tasks.shutdown().await;
        let end = self.course.tally.total()?;
        Ok(Outcome {
            seconds: elapsed.as_secs_f64(),
            deliveries: after.0 - before.0,
            acks: after.1 - before.1,
            cpu_seconds: (!pids.is_empty()).then_some(cpu),
            generator_cores: own / elapsed.as_secs_f64(),
            latencies: total,
            end,
            faults: self.faults(),
            unanswered: self.rooms.iter().map(|room| room.unsettled()).sum(),
        })
    }

    async fn watch(&self, seconds: u64, progress: &Progress) {
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut last = self.course.tally.counts();
        while Instant::now() < until {
            sleep(Duration::from_millis(500).min(until.saturating_duration_since(Instant::now()))).await;
            let now = self.course.tally.counts();
            progress.rates((now.0 - last.0) * 2, (now.1 - last.1) * 2);
            last = now;
        }
    }

    /// A publisher that never received anything is on a server that does not echo; that is no loss.
    fn faults(&self) -> Faults {
        let publishers = self.rooms.first().map_or(0, |room| room.publishers());
        let members = self.witnesses.len() / self.rooms.len().max(1);
        let mut faults = Faults::default();
        for (place, (room, witness)) in self.witnesses.iter().enumerate() {
            let witness = lock(witness);
            let silent = witness.received == 0 && place % members < publishers;
            if let Some((from, to)) = self.rooms[*room].acked_range().filter(|_| !silent) {
                faults += witness.faults(from, to);
            }
        }
        faults
    }
}

async fn connect(target: &Target, course: &Course, conversations: &[Conversation]) -> Result<Vec<Client>> {
    let seats = conversations.iter().flat_map(|room| room.users.iter().map(|user| (user, room.id.as_str())));
    let connecting = seats.enumerate().map(|(index, (user, room))| {
        let endpoint = target.endpoint(index, user, room, None);
        async move { Client::connect(&endpoint?, &course.scanner).await }
    });
    stream::iter(connecting).buffered(CONNECTING).try_collect().await
}
