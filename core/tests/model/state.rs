//! What there is, and what each step does to it.

/// Whose events they are.
pub(crate) const SENDER: [usize; 3] = [0, 1, 0];
/// How often a lease changes hands.
pub(crate) const LEASES: u8 = 2;

/// The guard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// The store does not compare tokens.
    Fence,
    /// A new generation does not raise the token in the store.
    Raise,
    /// The log does not compare generations.
    Generation,
    /// Whoever tells senders that an event is stored does not ask whether it survived.
    Survival,
    /// Persist acknowledges before it has stored.
    CommitFirst,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) generation: u8,
    pub(crate) offset: u8,
    pub(crate) seq: u8,
}

impl Place {
    pub(crate) fn position(self) -> (u8, u8) {
        (self.generation, self.offset)
    }
}

pub(crate) type Entry = (Place, usize);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    pub(crate) last: u8,
    pub(crate) generation: u8,
    /// It was restarted, and nobody has looked after it yet.
    pub(crate) frozen: bool,
    pub(crate) top: Option<u8>,
    pub(crate) keys: [Option<Place>; 3],
    /// Keys older than its memory may be in the store.
    pub(crate) forgetful: bool,
    pub(crate) token: u8,
    pub(crate) acked: (u8, u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) rows: Vec<Entry>,
    pub(crate) stored: (u8, u8),
    pub(crate) token: u8,
    /// Number and base.
    pub(crate) generations: Vec<(u8, u8)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Publisher {
    /// What it believes.
    pub(crate) generation: u8,
    pub(crate) history: Vec<(u8, u8)>,
    /// The top it was told by the store, and in which generation it asked.
    pub(crate) asked: Option<(u8, u8)>,
    /// The event the store does not know, and in which generation it asked.
    pub(crate) verified: Option<(usize, u8)>,
    /// An answer of the log on its way.
    pub(crate) flight: Option<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Worker {
    pub(crate) token: Option<u8>,
    pub(crate) window: Vec<Entry>,
    pub(crate) stored: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Survey {
    pub(crate) present: u8,
    pub(crate) end: u8,
    pub(crate) intact: bool,
    pub(crate) witness: (u8, u8, u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Recovery {
    Idle,
    Surveyed(Survey),
    Begun { survey: Survey, number: u8, base: u8, stored: u8, rescued: bool },
}

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Harm {
    pub(crate) fork: bool,
    pub(crate) hole: bool,
    pub(crate) stale_write: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) publishers: [Publisher; 2],
    pub(crate) workers: [Worker; 2],
    pub(crate) recovery: Recovery,
    /// What the sender of each event was told, and whether it was told that it is stored.
    pub(crate) acks: [Option<Place>; 3],
    pub(crate) confirmed: [bool; 3],
    /// Everything that was accepted in the log's generation.
    pub(crate) accepted: Vec<Entry>,
    /// Whether something that was accepted is gone.
    pub(crate) lost: bool,
    pub(crate) newest_used: u8,
    pub(crate) losses: u8,
    pub(crate) leases: u8,
    pub(crate) harm: Harm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Learn(usize),
    Ask(usize),
    Hydrate(usize),
    Verify(usize),
    Send(usize),
    Arrive(usize),
    Drop(usize),
    Acquire(usize),
    Read(usize),
    Persist(usize),
    Ack(usize),
    Lose { keep: u8, intact: bool },
    Survey,
    Begin,
    Rescue,
    Renew,
    Abandon,
}

/// The tokens of a generation are above this.
pub(crate) fn fence(generation: u8) -> u8 {
    (generation - 1) * 16
}

pub(crate) fn survives(history: &[(u8, u8)], place: Place) -> bool {
    history.iter().filter(|(number, _)| *number > place.generation).all(|(_, base)| place.offset <= *base)
}

impl State {
    pub(crate) fn start() -> Self {
        let publisher = Publisher { generation: 1, history: vec![(1, 0)], asked: None, verified: None, flight: None };
        Self {
            log: Log { generation: 1, acked: (1, 0), ..Log::default() },
            store: Store { rows: Vec::new(), stored: (1, 0), token: 0, generations: vec![(1, 0)] },
            publishers: [publisher.clone(), publisher],
            workers: Default::default(),
            recovery: Recovery::Idle,
            acks: [None; 3],
            confirmed: [false; 3],
            accepted: Vec::new(),
            lost: false,
            newest_used: 0,
            losses: 1,
            leases: LEASES,
            harm: Harm::default(),
        }
    }

    pub(crate) fn present(&self) -> u8 {
        self.store.generations.last().map_or(1, |(number, _)| *number)
    }

    pub(crate) fn row_of(&self, event: usize) -> Option<Place> {
        self.store.rows.iter().find(|row| row.1 == event).map(|row| row.0)
    }

    /// `recovery.rs` as a gateway uses it: what is known to be lost is taken back from its sender.
    pub(crate) fn learn(&mut self, p: usize) {
        let publisher = &mut self.publishers[p];
        publisher.generation = self.log.generation;
        publisher.history = self.store.generations.clone();
        for event in (0..3).filter(|&event| SENDER[event] == p && !self.confirmed[event]) {
            if self.acks[event].is_some_and(|place| !survives(&publisher.history, place)) {
                self.acks[event] = None;
            }
        }
    }

    /// `hydrate.lua`
    pub(crate) fn hydrate(&mut self, p: usize, without: Without) {
        let Some((generation, top)) = self.publishers[p].asked.take() else { return };
        if self.log.frozen || generation != self.log.generation && without != Without::Generation {
            return;
        }
        self.log.top = Some(self.log.top.unwrap_or(0).max(top));
    }

    /// What a gateway asks the store about a key that the log cannot judge.
    pub(crate) fn verify(&mut self, event: usize) {
        let p = SENDER[event];
        match self.row_of(event) {
            Some(place) => self.publishers[p].flight = Some((place, event)),
            None => self.publishers[p].verified = Some((event, self.publishers[p].generation)),
        }
    }

    /// `append.lua`
    pub(crate) fn append(&mut self, event: usize, without: Without) {
        let (log, publisher) = (&mut self.log, &mut self.publishers[SENDER[event]]);
        if log.frozen || publisher.generation != log.generation && without != Without::Generation {
            return;
        }
        if let Some(prior) = log.keys[event] {
            publisher.flight = Some((prior, event));
            return;
        }
        let Some(top) = log.top else { return };
        if log.forgetful && publisher.verified != Some((event, log.generation)) {
            return;
        }
        let place = Place { generation: log.generation, offset: log.last + 1, seq: top + 1 };
        (log.last, log.top, log.keys[event]) = (place.offset, Some(place.seq), Some(place));
        log.entries.push((place, event));
        publisher.flight = Some((place, event));
        self.accepted.push((place, event));
        self.accepted.sort_unstable();
    }

    pub(crate) fn arrive(&mut self, p: usize) {
        if let Some((place, event)) = self.publishers[p].flight.take() {
            self.acks[event] = Some(place);
        }
    }

    /// `stored.rs`
    pub(crate) fn confirm(&mut self, event: usize, without: Without) {
        let (Some(place), publisher) = (self.acks[event], &self.publishers[SENDER[event]]) else { return };
        let known = publisher.history.last().map_or(1, |(number, _)| *number);
        let sure = self.log.acked.0 <= known && survives(&publisher.history, place);
        self.confirmed[event] |= place.position() <= self.log.acked && (sure || without == Without::Survival);
    }

    /// The transaction of the store.
    pub(crate) fn persist(&mut self, token: u8, window: &[Entry], without: Without) -> bool {
        if token < self.store.token && without != Without::Fence {
            return false;
        }
        self.harm.stale_write |= token < self.newest_used;
        self.newest_used = self.newest_used.max(token);
        self.store.token = self.store.token.max(token);
        for &(place, event) in window {
            match self.store.rows.get(usize::from(place.seq) - 1) {
                Some(row) => self.harm.fork |= row.1 != event,
                None => {
                    self.harm.hole |= usize::from(place.seq) != self.store.rows.len() + 1;
                    self.store.rows.push((place, event));
                }
            }
            self.store.stored = self.store.stored.max(place.position());
        }
        true
    }

    /// A replica that was behind becomes the log, or a key of it is deleted.
    pub(crate) fn lose(&mut self, keep: u8, intact: bool) {
        self.lost = self.log.entries.iter().any(|entry| entry.0.offset > keep && self.row_of(entry.1).is_none());
        let log = &mut self.log;
        log.entries.retain(|entry| entry.0.offset <= keep);
        log.last = keep;
        log.top = log.top.filter(|_| intact).map(|_| log.entries.last().map_or(0, |entry| entry.0.seq));
        log.keys = log.keys.map(|place| place.filter(|place| intact && place.offset <= keep));
        log.acked = (log.acked.0, log.acked.1.min(keep));
        (log.frozen, log.token) = (true, 0);
        self.losses -= 1;
    }

    pub(crate) fn survey(&mut self) {
        let log = &self.log;
        let witness = (self.losses, log.generation, log.last);
        let survey = Survey { present: self.present(), end: log.last, intact: log.top.is_some(), witness };
        self.recovery = Recovery::Surveyed(survey);
    }

    pub(crate) fn begin(&mut self, survey: Survey, without: Without) {
        if survey.present != self.present() {
            self.recovery = Recovery::Idle;
            return;
        }
        let (number, stored) = (survey.present + 1, self.store.stored.1);
        let base = survey.end.max(stored);
        self.store.generations.push((number, base));
        if without != Without::Raise {
            self.store.token = self.store.token.max(fence(number));
            self.newest_used = self.newest_used.max(fence(number));
        }
        let rescued = survey.intact || survey.end <= stored;
        self.recovery = Recovery::Begun { survey, number, base, stored, rescued };
    }

    pub(crate) fn rescue(&mut self, without: Without) {
        let Recovery::Begun { number, stored, rescued, .. } = &mut self.recovery else { return };
        let (number, stored) = (*number, *stored);
        *rescued = true;
        let left: Vec<Entry> = self.log.entries.iter().filter(|entry| entry.0.offset > stored).copied().collect();
        if !self.persist(fence(number), &left, without) {
            self.recovery = Recovery::Idle;
        }
    }

    /// `renew.lua`
    pub(crate) fn renew(&mut self, survey: &Survey, number: u8, base: u8, stored: u8) {
        self.recovery = Recovery::Idle;
        if (self.losses, self.log.generation, self.log.last) != survey.witness {
            return;
        }
        self.accepted.clear();
        let log = &mut self.log;
        if !survey.intact || survey.end < stored {
            (log.top, log.keys, log.forgetful) = (None, [None; 3], true);
        }
        (log.generation, log.last, log.frozen) = (number, base, false);
        log.token = log.token.max(fence(number));
    }

    pub(crate) fn acquire(&mut self, w: usize) {
        self.leases -= 1;
        self.log.token += 1;
        self.workers[w] = Worker { token: Some(self.log.token), ..Worker::default() };
    }

    pub(crate) fn store_window(&mut self, w: usize, without: Without) {
        let (token, window) = (self.workers[w].token.unwrap_or(0), self.workers[w].window.clone());
        if self.persist(token, &window, without) {
            self.workers[w].stored = true;
        } else {
            self.workers[w] = Worker::default();
        }
    }

    /// `ack.lua`
    pub(crate) fn acknowledge(&mut self, w: usize) {
        let worker = std::mem::take(&mut self.workers[w]);
        let Some((last, _)) = worker.window.last().filter(|_| worker.token == Some(self.log.token)) else { return };
        if last.offset >= self.log.acked.1 {
            self.log.acked = last.position();
        }
        self.workers[w].token = worker.token;
    }
}
