//! The protocol of leases, fences and generations, checked in every order its steps can happen in.
//!
//! One partition with one conversation. Two publishers with outboxes have three events between them, two workers store
//! them, and a process that recovers the log may stop anywhere. Once, the log is set back to an earlier state of itself
//! or loses what it knew about conversations and keys. The steps are those of `append.lua`, `hydrate.lua`, `ack.lua`,
//! `acquire.lua`, `renew.lua`, `recovery.rs`, `persist.rs` and `stored.rs`; each is atomic where theirs is, and any of
//! them may come arbitrarily late.
//!
//! A model that cannot fail proves nothing: each guard of the protocol can be taken away, and then the checker must find
//! the harm.

mod state;

use stateright::{Checker, HasDiscoveries, Model, Property};

use self::state::{Entry, LEASES, Recovery, SENDER, State, Step, Without, Worker};

#[derive(Clone, Copy)]
struct Protocol {
    without: Without,
    events: usize,
    /// Whether answers of the log to one publisher can be late or lost.
    late: bool,
}

impl Protocol {
    fn publishing(&self, state: &State, steps: &mut Vec<Step>) {
        for p in 0..2 {
            let publisher = &state.publishers[p];
            let is_old = publisher.generation != state.log.generation;
            let asks = p == 1 && state.log.top.is_none() && publisher.asked.is_none(); // one of them is enough
            let possible = [
                (p == 1 && is_old && !state.log.frozen).then_some(Step::Learn(p)),
                asks.then_some(Step::Ask(p)),
                publisher.asked.map(|_| Step::Hydrate(p)),
                publisher.flight.map(|_| Step::Arrive(p)),
                publisher.flight.filter(|_| self.late).map(|_| Step::Drop(p)),
            ];
            steps.extend(possible.into_iter().flatten());
        }
        for event in (0..self.events).filter(|&event| !state.confirmed[event]) {
            let publisher = &state.publishers[SENDER[event]];
            let earlier = (0..event).find(|&earlier| SENDER[earlier] == SENDER[event]);
            if earlier.is_some_and(|earlier| state.acks[earlier].is_none()) {
                continue; // one after the other
            }
            match state.acks[event] {
                Some(_) => {}
                None if publisher.flight.is_none() => {
                    steps.push(Step::Send(event));
                    if state.log.forgetful && publisher.verified != Some((event, publisher.generation)) {
                        steps.push(Step::Verify(event));
                    }
                }
                None => {}
            }
        }
    }

    fn storing(&self, state: &State, steps: &mut Vec<Step>) {
        for (w, worker) in state.workers.iter().enumerate() {
            if usize::from(LEASES - state.leases) == w {
                steps.push(Step::Acquire(w));
            }
            let early = self.without == Without::CommitFirst;
            match (worker.token, worker.window.is_empty(), worker.stored) {
                (None, ..) => {}
                (Some(token), true, _) if token == state.log.token => steps.push(Step::Read(w)),
                (_, true, _) => {}
                (_, false, false) => steps.extend([Step::Persist(w)].into_iter().chain(early.then_some(Step::Ack(w)))),
                (_, false, true) => steps.push(Step::Ack(w)),
            }
        }
    }

    fn recovering(state: &State, steps: &mut Vec<Step>) {
        if state.losses > 0 {
            let kept = (0..=state.log.last).map(|keep| Step::Lose { keep, intact: true });
            steps.extend(kept.chain([Step::Lose { keep: state.log.last, intact: false }]));
        }
        match &state.recovery {
            Recovery::Idle if state.log.frozen || state.log.generation < state.present() => steps.push(Step::Survey),
            Recovery::Idle => {}
            Recovery::Surveyed(_) => steps.push(Step::Begin),
            Recovery::Begun { rescued, .. } => {
                steps.push(if *rescued { Step::Renew } else { Step::Rescue });
                if state.present() < 3 {
                    steps.push(Step::Abandon); // once is enough
                }
            }
        }
    }
}

impl Protocol {
    fn is_done(&self, state: &State) -> bool {
        state.confirmed[..self.events].iter().all(|confirmed| *confirmed)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::start()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.publishing(state, steps);
        self.storing(state, steps);
        Self::recovering(state, steps);
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let (mut state, without) = (before.clone(), self.without);
        match step {
            Step::Learn(p) => state.learn(p),
            Step::Ask(p) => {
                let top = state.store.rows.len() as u8;
                state.publishers[p].asked = Some((state.publishers[p].generation, top));
            }
            Step::Hydrate(p) => state.hydrate(p, without),
            Step::Verify(event) => state.verify(event),
            Step::Send(event) => state.append(event, without),
            Step::Arrive(p) => state.arrive(p),
            Step::Drop(p) => state.publishers[p].flight = None,
            Step::Acquire(w) => state.acquire(w),
            Step::Read(w) => {
                let acked = state.log.acked.1;
                state.workers[w].window =
                    state.log.entries.iter().filter(|entry| entry.0.offset > acked).copied().collect();
            }
            Step::Persist(w) => state.store_window(w, without),
            Step::Ack(w) => state.acknowledge(w),
            Step::Lose { keep, intact } => state.lose(keep, intact),
            Step::Survey => state.survey(),
            Step::Begin => {
                let Recovery::Surveyed(survey) = state.recovery.clone() else { return None };
                state.begin(survey, without);
            }
            Step::Rescue => state.rescue(without),
            Step::Renew => {
                let Recovery::Begun { survey, number, base, stored, .. } = state.recovery.clone() else { return None };
                state.renew(&survey, number, base, stored);
            }
            Step::Abandon => state.recovery = Recovery::Idle,
        }
        state.arrive(0);
        if !self.late {
            state.arrive(1);
        }
        if !state.log.frozen {
            state.learn(0);
        }
        // At once: what holds then holds later as well.
        (0..self.events).for_each(|event| state.confirm(event, without));
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1 what a sender was told is stored is stored", |_, state: &State| {
                (0..3).all(|event| !state.confirmed[event] || state.row_of(event).is_some())
            }),
            Property::always("I1 what the log may forget is stored", |_, state: &State| {
                let acked = state.log.entries.iter().filter(|entry| entry.0.offset <= state.log.acked.1);
                { acked }.all(|entry| state.row_of(entry.1).is_some())
            }),
            Property::always("I2 dense", |_, state: &State| !state.harm.hole),
            Property::always("I4 once", |_, state: &State| {
                (0..3).all(|event| state.store.rows.iter().filter(|row| row.1 == event).count() <= 1)
            }),
            Property::always("I5 no fork", |_, state: &State| !state.harm.fork),
            Property::always("I5 no fork within a generation", |_, state: &State| {
                let place = |entry: &Entry| (entry.0.generation, entry.0.seq);
                state.accepted.windows(2).all(|pair| place(&pair[0]) != place(&pair[1]))
            }),
            Property::always("I9 no write by an older token", |_, state: &State| !state.harm.stale_write),
            Property::sometimes("everything is stored without a loss", |model: &Self, state: &State| {
                state.losses == 1 && model.is_done(state)
            }),
            Property::sometimes("everything is stored although something was lost", |model: &Self, state: &State| {
                state.lost && model.is_done(state)
            }),
            Property::sometimes("a worker is about to be fenced", |_, state: &State| {
                let late = |worker: &Worker| worker.token.is_some_and(|token| token < state.store.token);
                state.workers.iter().any(|worker| late(worker) && !worker.window.is_empty() && !worker.stored)
            }),
            Property::sometimes("an answer of the store comes too late", |_, state: &State| {
                let late =
                    |asked: (u8, u8)| asked.0 < state.log.generation && usize::from(asked.1) < state.store.rows.len();
                state.publishers.iter().any(|publisher| publisher.asked.is_some_and(late))
            }),
            Property::sometimes("the log has something to rescue", |_, state: &State| {
                matches!(state.recovery, Recovery::Begun { rescued: false, .. })
            }),
        ]
    }
}

const MANY: Protocol = Protocol { without: Without::Nothing, events: 3, late: false };
const LATE: Protocol = Protocol { without: Without::Nothing, events: 2, late: true };

fn check(protocol: Protocol, until: HasDiscoveries) -> impl Checker<Protocol> {
    let began = std::time::Instant::now();
    let checker = protocol.checker().threads(2).finish_when(until).spawn_bfs().join();
    let (all, different) = (checker.state_count(), checker.unique_state_count());
    eprintln!("{:?}: {all} states, {different} of them different, {:?}", protocol.without, began.elapsed());
    checker
}

/// Whether harm of that name is found when a guard is missing.
fn finds(name: &'static str, without: Without) -> bool {
    let until = HasDiscoveries::AllOf([name].into());
    check(Protocol { without, ..LATE }, until).discovery(name).is_some()
}

#[test]
fn the_protocol_holds_in_every_order_of_its_steps() {
    check(MANY, HasDiscoveries::All).assert_properties();
}

#[test]
fn it_holds_when_answers_are_late_or_lost() {
    check(LATE, HasDiscoveries::All).assert_properties();
}

#[test]
fn without_the_fence_an_older_owner_writes() {
    assert!(finds("I9 no write by an older token", Without::Fence));
}

#[test]
fn without_a_raised_token_what_was_lost_comes_back_and_forks() {
    assert!(finds("I5 no fork", Without::Raise));
}

#[test]
fn without_the_generation_an_old_answer_makes_a_fork() {
    assert!(finds("I5 no fork", Without::Generation));
}

#[test]
fn without_asking_whether_it_survived_a_lost_event_counts_as_stored() {
    assert!(finds("I1 what a sender was told is stored is stored", Without::Survival));
}

#[test]
fn without_the_commit_first_something_is_forgotten_that_is_not_stored() {
    assert!(finds("I1 what the log may forget is stored", Without::CommitFirst));
}
