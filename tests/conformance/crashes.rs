//! Random work, cut short at random places, against a model of what must come of it.
//!
//! A process can end between any two calls to its backends, and a call that was on its way may have been carried out or
//! not. Here the future of a step is dropped after a number of polls, which is the same. The worker that replaces a
//! crashed one finds what it left; an old owner goes on although it lost its lease; publishers send again whatever they
//! have no answer to. In the end everything has to be in its place, once, and meanwhile nothing may leave the log that a
//! role still needs.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use everpost_core::{
    event::Draft,
    identity::Digest,
    lease::Lease,
    log::{Appended, LogError},
    partition::Partition,
    position::Position,
    recovery::Recovery,
    relay::local::LocalRelay,
    role::Role,
    roster::local::LocalRoster,
    store::{Messages, sqlite::SqliteStore},
};
use everpost_workers::{Fanout, Ownership, Persist, Ports, Worker};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::log::{
    drafts::{conversation, keyed, rest},
    stage::Stage,
};

const ROOMS: [&str; 3] = ["red", "green", "blue"];
/// Longer than any step that has something to do.
const IDLE: Duration = Duration::from_millis(400);

/// One thing that happens; a cut is the number of polls after which it is dropped.
#[derive(Debug, Clone)]
enum Deed {
    /// A sender sends, perhaps not for the first time, under a key of its own.
    Publish {
        room: usize,
        key: u8,
        cut: Option<u8>,
    },
    Persist {
        cut: Option<u8>,
    },
    Fanout {
        cut: Option<u8>,
    },
    /// A new worker takes over, and the old one does not know it yet.
    Depose,
    /// The worker that was deposed goes on with what it has.
    Zombie {
        cut: Option<u8>,
    },
    Trim,
    /// The process ends, and the next one finds its files.
    Restart,
}

fn cut() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![2 => Just(None), 3 => (1_u8..40).prop_map(Some)]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (0..ROOMS.len(), 0_u8..12, cut()).prop_map(|(room, key, cut)| Deed::Publish { room, key, cut }),
        4 => cut().prop_map(|cut| Deed::Persist { cut }),
        2 => cut().prop_map(|cut| Deed::Fanout { cut }),
        2 => Just(Deed::Depose),
        2 => cut().prop_map(|cut| Deed::Zombie { cut }),
        2 => Just(Deed::Trim),
        1 => Just(Deed::Restart),
    ]
}

/// What a future gives, unless it is dropped before.
async fn until_cut<T>(cut: Option<u8>, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut left) = (pin!(work), cut);
    let polls = poll_fn(|context| {
        if left == Some(0) {
            return Poll::Ready(None);
        }
        left = left.map(|left| left - 1);
        work.as_mut().poll(context).map(Some)
    });
    tokio::time::timeout(IDLE, polls).await.ok().flatten()
}

type Letter = (usize, u8);

/// The engine, who works on it, and what senders know.
struct World {
    stage: Option<Stage>,
    is_file: bool,
    ports: Option<Ports>,
    store: Arc<SqliteStore>,
    worker: Option<(Ownership, Persist)>,
    zombie: Option<(Ownership, Persist)>,
    /// The answer each letter got; none while there was none.
    letters: BTreeMap<Letter, Option<(u64, Uuid)>>,
    folder: TempDir,
}

impl World {
    async fn new(stage: Stage, is_file: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db")).await.expect("it opens"));
        let ports = Some(open(&stage, &store).await);
        let (worker, zombie, letters) = (None, None, BTreeMap::new());
        Self { stage: Some(stage), is_file, ports, store, worker, zombie, letters, folder }
    }

    fn ports(&self) -> &Ports {
        self.ports.as_ref().expect("it runs")
    }

    async fn happens(&mut self, deed: &Deed) {
        match *deed {
            Deed::Publish { room, key, cut } => {
                self.letters.entry((room, key)).or_default();
                let answer = until_cut(cut, self.publish((room, key))).await;
                self.answered((room, key), answer.and_then(Result::ok));
            }
            Deed::Persist { cut } => {
                let (ownership, mut persist) = self.worker().await;
                // A worker that was cut short is dead; the next one starts with what it left.
                let lives = until_cut(cut, persist.step()).await.is_some();
                self.worker = lives.then_some((ownership, persist));
            }
            Deed::Fanout { cut } => {
                let (_ownership, mut fanout) = self.fanout().await;
                let _ = until_cut(cut, async { fanout.step().await.is_ok() && fanout.step().await.is_ok() }).await;
            }
            Deed::Depose => self.zombie = self.worker.take().or(self.zombie.take()),
            Deed::Zombie { cut } => {
                if let Some((_, persist)) = &mut self.zombie {
                    let _ = until_cut(cut, persist.step()).await;
                }
            }
            Deed::Trim => self.trim().await,
            Deed::Restart => self.restart().await,
        }
    }

    /// The present owner, or a new one that takes over at once instead of waiting until nobody beats.
    async fn worker(&mut self) -> (Ownership, Persist) {
        if let Some(worker) = self.worker.take() {
            return worker;
        }
        let (ownership, held) = self.seize(Role::Persist).await;
        let follower = self.ports().log.follow(Role::Persist).await.expect("the log answers");
        (ownership, Persist::new(follower, held, self.ports().clone()))
    }

    async fn fanout(&self) -> (Ownership, Fanout) {
        let (ownership, held) = self.seize(Role::Fanout).await;
        let follower = self.ports().log.follow(Role::Fanout).await.expect("the log answers");
        (ownership, Fanout::new(follower, held, self.ports().clone()))
    }

    async fn seize(&self, role: Role) -> (Ownership, everpost_workers::Held) {
        let workers = self.ports().leases.announce(role, "nobody").await.expect("the log answers");
        for (worker, _) in workers {
            self.ports().leases.retire(role, &worker).await.expect("the log answers");
        }
        for (view, partition) in self.leases(role).await {
            let lease = Lease { role, partition, token: view };
            self.ports().leases.release(&lease).await.expect("the log answers");
        }
        let (mut ownership, held) = Ownership::new(role, self.ports().leases.clone(), self.ports().log.partitions());
        ownership.step().await.expect("the log answers");
        (ownership, held)
    }

    /// The newest token of each partition.
    async fn leases(&self, role: Role) -> Vec<(u64, Partition)> {
        let views = self.ports().leases.view(role).await.expect("the log answers");
        views.iter().map(|view| view.token).zip(self.ports().log.partitions().iter()).collect()
    }

    /// Publishes as a gateway does.
    async fn publish(&self, (room, key): Letter) -> Result<(u64, Uuid), LogError> {
        let body = Digest::of_body(&[ROOMS[room], &key.to_string()]);
        let mut draft = Draft { body, ..keyed(ROOMS[room], "alice", &format!("key-{key}")) };
        let partition = self.ports().log.partitions().of(ROOMS[room]);
        for _ in 0..10 {
            let generation = self.ports().log.generation(partition);
            match self.ports().log.append(partition, std::slice::from_ref(&draft)).await?.remove(0) {
                Appended::Accepted { seq, .. } => return Ok((seq, draft.message_id)),
                Appended::Duplicate(prior) => return Ok(same(&draft, prior.seq, prior.message_id, prior.body)),
                Appended::Unhydrated => {
                    let tops = self.store.tops(&[conversation(ROOMS[room])]).await.expect("readable");
                    self.ports().log.hydrate(partition, generation, &tops).await?;
                }
                Appended::Unverified => {
                    let ask = (draft.conversation.clone(), draft.sender.clone(), draft.key.clone().expect("a key"));
                    match self.store.priors(&[ask]).await.expect("readable").remove(0) {
                        Some(prior) => return Ok(same(&draft, prior.seq, prior.message_id, prior.body)),
                        None => draft.verified = Some(generation),
                    }
                }
            }
        }
        panic!("the log does not decide");
    }

    /// I4 and I5: whoever asks again is told the same.
    fn answered(&mut self, letter: Letter, answer: Option<(u64, Uuid)>) {
        let Some(answer) = answer else { return };
        let known = self.letters.entry(letter).or_default();
        assert!(known.is_none_or(|known| known == answer), "{letter:?} was {known:?} and is {answer:?}");
        *known = Some(answer);
        let mut others = self.letters.iter().filter(|(other, _)| other.0 == letter.0 && **other != letter);
        assert!(others.all(|(_, other)| other.is_none_or(|other| other.0 != answer.0)), "two events have {answer:?}");
    }

    /// Nothing may go that a role has not acknowledged, and the store has what has gone.
    async fn trim(&mut self) {
        for (token, partition) in self.leases(Role::Persist).await {
            let lease = Lease { role: Role::Persist, partition, token };
            match self.ports().log.trim(&lease, 1).await {
                Ok(_) | Err(LogError::Fenced) => {}
                Err(error) => panic!("{error}"),
            }
            let (persisted, fanned) = (self.at(Role::Persist, partition).await, self.at(Role::Fanout, partition).await);
            let stored = self.store.stored(self.ports().log.partitions().count()).await.expect("readable");
            assert!(persisted <= stored[partition.index()], "acknowledged before it was stored");
            let (low, end) =
                (persisted.min(fanned), self.ports().log.ends().await.expect("readable")[partition.index()]);
            let left = rest(&*self.ports().log, partition, low).await;
            assert_eq!(left.len() as u64, end.offset() - low.offset(), "something that is still needed is gone");
        }
    }

    async fn at(&self, role: Role, partition: Partition) -> Position {
        self.ports().log.progress(role).await.expect("readable")[partition.index()]
    }

    async fn restart(&mut self) {
        (self.worker, self.zombie) = (None, None);
        // The log is closed only when nobody has it any more.
        let (Some(stage), Some(ports)) = (self.stage.take(), self.ports.take()) else { panic!("it runs") };
        drop(ports);
        let stage = if self.is_file { stage.crash().await } else { stage.reopen().await };
        self.store = Arc::new(SqliteStore::open(&self.folder.path().join("store.db")).await.expect("it opens"));
        self.ports = Some(open(&stage, &self.store).await);
        self.stage = Some(stage);
    }

    /// Lets everybody finish, and looks at what has become of it.
    async fn end(mut self) {
        let letters: Vec<Letter> = self.letters.keys().copied().collect();
        for letter in letters {
            let answer = self.publish(letter).await.expect("nothing is wrong any more");
            self.answered(letter, Some(answer));
        }
        let ends = self.ports().log.ends().await.expect("readable");
        for _ in 0..50 {
            if self.store.stored(ends.len()).await.expect("readable") == ends {
                break;
            }
            self.happens(&Deed::Persist { cut: None }).await;
        }
        self.trim().await;
        for (room, name) in ROOMS.iter().enumerate() {
            let want = everpost_core::store::Want { conversation: conversation(name), after: 0 };
            let rows = self.store.after(&[want], 1_000).await.expect("readable").remove(0);
            let rows: Vec<(u64, Uuid)> = rows
                .iter()
                .map(|row| row.event().map(|event| (event.seq, event.message_id)).expect("readable"))
                .collect();
            let mut told: Vec<(u64, Uuid)> =
                self.letters.iter().filter(|(letter, _)| letter.0 == room).filter_map(|(_, answer)| *answer).collect();
            told.sort_unstable();
            assert_eq!(rows, told, "{name}: what is stored is what senders were told (I1, I4, I5)");
            assert!(rows.iter().map(|row| row.0).eq(1..=rows.len() as u64), "{name} is not dense (I2): {rows:?}");
        }
    }
}

fn same(draft: &Draft, seq: u64, message_id: Uuid, body: Digest) -> (u64, Uuid) {
    assert_eq!(draft.body, body, "another event was found under the key");
    (seq, message_id)
}

async fn open(stage: &Stage, store: &Arc<SqliteStore>) -> Ports {
    let log = stage.share();
    let recovery = Recovery::open(log.clone(), store.clone()).await.expect("nothing to mend");
    let (relay, roster) = (Arc::new(LocalRelay::new()), Arc::new(LocalRoster::new()));
    Ports { log: log.clone(), leases: log, relay, roster, store: store.clone(), recovery }
}

fn try_many(cases: u32, play: impl Fn(Vec<Deed>) + Copy) {
    for _ in 0..cases {
        let seed = Uuid::new_v4();
        let bytes: Vec<u8> = seed.as_bytes().iter().chain(seed.as_bytes()).copied().collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 40, ..Config::default() };
        let deeds = prop::collection::vec(deed(), 10..60);
        let outcome = TestRunner::new_with_rng(config, rng).run(&deeds, |deeds| {
            play(deeds);
            Ok(())
        });
        assert!(outcome.is_ok(), "seed {seed}: {}", outcome.err().map(|error| error.to_string()).unwrap_or_default());
    }
}

fn play(deeds: &[Deed], is_file: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stage = if is_file { Stage::sqlite().await } else { on_redis().await };
        let mut world = World::new(stage, is_file).await;
        for deed in deeds {
            world.happens(deed).await;
        }
        world.end().await;
    });
}

/// A server that trims whole nodes, as every one, but small ones: else a few events would never be trimmed.
async fn on_redis() -> Stage {
    let stage = Stage::redis().await;
    let client = redis::Client::open(stage.server().url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis runs");
    let small = redis::cmd("CONFIG").arg("SET").arg("stream-node-max-entries").arg(1).to_owned();
    small.exec_async(&mut connection).await.expect("Redis obeys");
    stage
}

#[test]
fn whatever_is_cut_short_on_sqlite_comes_right() {
    try_many(12, |deeds| play(&deeds, true));
}

#[test]
fn whatever_is_cut_short_on_redis_comes_right() {
    try_many(6, |deeds| play(&deeds, false));
}
