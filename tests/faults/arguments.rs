//! What was asked for on the command line.

use super::scenario::{Plan, Scenario};

const USAGE: &str = "cargo test --test faults -- [--all] [--only NAME]… [--rounds N] [--seed S] [--jobs N] [--pending] [--write] [--list]

Without --all or --only: the short selection. --only takes a name or a part of one, and runs it although it is pending.
--all runs the long form of everything and writes the results into docs/reliability.md; --write does so for any choice.
--jobs plays so many at the same time: 2, or 1 with --all, which measures.
--pending runs what this version is known not to pass yet, too.";

/// Scenarios wait most of their time.
const JOBS: usize = 2;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Run,
    List,
}

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) task: Task,
    /// The long form of everything.
    all: bool,
    /// Names, or parts of them.
    only: Vec<String>,
    rounds: Option<usize>,
    seed: Option<u64>,
    jobs: Option<usize>,
    pending: bool,
    /// Whether the results go into the documentation.
    pub(crate) writes: bool,
}

impl Arguments {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (task, only) = (Task::Run, Vec::new());
        let (all, pending, writes) = (false, false, false);
        let mut read = Self { task, all, only, rounds: None, seed: None, jobs: None, pending, writes };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} takes a value\n\n{USAGE}"));
            match word.as_str() {
                "--all" => (read.all, read.writes) = (true, true),
                "--list" => read.task = Task::List,
                "--only" => read.only.push(value()?),
                "--rounds" => read.rounds = Some(number(&value()?)?),
                "--seed" => read.seed = Some(number(&value()?)?),
                "--jobs" => read.jobs = Some(number(&value()?)?),
                "--pending" => read.pending = true,
                "--write" => read.writes = true,
                "--test-threads" => drop(value()?), // what cargo test hands to every executable
                "--nocapture" | "--no-capture" | "--quiet" | "-q" | "--exact" => {}
                name if !name.starts_with('-') => read.only.push(name.to_owned()),
                _ => return Err(format!("what does {word} mean?\n\n{USAGE}")),
            }
        }
        Ok(read)
    }

    pub(crate) fn wants(&self, scenario: &Scenario) -> bool {
        if !self.only.is_empty() {
            return self.names(scenario);
        }
        self.all || scenario.rounds.0 > 0
    }

    fn names(&self, scenario: &Scenario) -> bool {
        self.only.iter().any(|part| scenario.name.contains(part.as_str()))
    }

    /// How many scenarios are played at the same time.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs.unwrap_or(if self.all { 1 } else { JOBS }).max(1)
    }

    pub(crate) fn includes_pending(&self, scenario: &Scenario) -> bool {
        self.pending || self.names(scenario)
    }

    pub(crate) fn plan(&self, scenario: &Scenario) -> Plan {
        let rounds = if self.all { scenario.rounds.1 } else { scenario.rounds.0.max(1) };
        let seed = self.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64 % 1_000_000);
        Plan::new(seed, self.rounds.unwrap_or(rounds), self.all)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is not a number\n\n{USAGE}"))
}
