//! What is shown at the end, and what goes into docs/reliability.md.

use std::{collections::BTreeMap, fmt, fs, io::Write, path::Path, time::Duration};

use super::{
    harness::witness::violation,
    scenario::{Outcome, Scenario, share},
    table,
};

const BEGIN: &str = "<!-- results: written by cargo test --test faults -- --all -->";
const END: &str = "<!-- end of results -->";
const HEAD: &str = "| Rows | Scenario | Fault | Engine | Rounds | Events | Violations | Recovery p50 / max | Measured |
|---|---|---|---|---:|---:|---|---|---|";

pub(crate) enum Verdict {
    Played(Outcome),
    Pending(&'static str),
}

pub(crate) struct Line {
    pub(crate) scenario: &'static Scenario,
    pub(crate) seed: u64,
    pub(crate) verdict: Verdict,
}

impl Line {
    pub(crate) fn is_broken(&self) -> bool {
        matches!(&self.verdict, Verdict::Played(outcome) if !outcome.violations.is_empty())
    }

    /// As a row of the table.
    fn row(&self) -> String {
        let Scenario { rows, name, fault, engine, .. } = self.scenario;
        let engine = engine.name();
        match &self.verdict {
            Verdict::Pending(reason) => format!("| {rows} | {name} | {fault} | {engine} | | | PENDING | | {reason} |"),
            Verdict::Played(outcome) => {
                let Outcome { rounds, events, violations, notes, .. } = outcome;
                let (violations, recovery) = (violation::summary(violations), recovery(outcome));
                let notes = notes.join("; ");
                format!(
                    "| {rows} | {name} | {fault} | {engine} | {rounds} | {events} | {violations} | {recovery} | {notes} |"
                )
            }
        }
    }
}

fn recovery(outcome: &Outcome) -> String {
    let show = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    match (share(&outcome.recoveries, 0.5), share(&outcome.recoveries, 1.0)) {
        (Some(middle), Some(worst)) => format!("{} / {}", show(middle), show(worst)),
        _ => String::new(),
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, seed) = (self.scenario.name, self.seed);
        match &self.verdict {
            Verdict::Pending(reason) => write!(f, "PENDING  {name}: {reason}"),
            Verdict::Played(outcome) => {
                let word = if self.is_broken() { "BROKEN " } else { "ok     " };
                let Outcome { rounds, events, notes, violations, .. } = outcome;
                let (recovery, notes) = (recovery(outcome), notes.join("; "));
                write!(f, "{word}  {name} (seed {seed}): {rounds} rounds, {events} events, {recovery} {notes}")?;
                if self.is_broken() {
                    write!(f, "\n         {}, such as", violation::summary(violations))?;
                }
                let mut named: Vec<_> = violations.iter().collect();
                named.sort_by_key(|violation| violation.name());
                let mut shown = named.chunk_by(|a, b| a.name() == b.name()).flat_map(|same| same.iter().take(3));
                shown.try_for_each(|violation| write!(f, "\n         {}: {violation}", violation.name()))
            }
        }
    }
}

/// One line for each scenario there is.
pub(crate) fn list() {
    let mut out = std::io::stdout().lock();
    for Scenario { rows, name, engine, fault, expected, rounds, pending, .. } in table::SCENARIOS {
        let pending = pending.map_or(String::new(), |reason| format!(" [PENDING: {reason}]"));
        let (engine, short) = (engine.name(), if rounds.0 > 0 { "short" } else { "all" });
        let _ = writeln!(out, "{name} ({rows}; {engine}; {short}): {fault} → {expected}{pending}"); // a closed pipe has seen enough
    }
}

pub(crate) fn summarise(lines: &[Line]) {
    let count = |is: fn(&Line) -> bool| lines.iter().filter(|line| is(line)).count();
    let pending = count(|line| matches!(line.verdict, Verdict::Pending(_)));
    let broken: Vec<&str> = lines.iter().filter(|line| line.is_broken()).map(|line| line.scenario.name).collect();
    let kept = lines.len() - pending - broken.len();
    eprintln!("\nfaults: {kept} kept every promise, {} did not, {pending} pending", broken.len());
    if !broken.is_empty() {
        eprintln!("violations in: {}; logs in {}", broken.join(", "), super::stage::kept_logs().display());
    }
}

/// Puts the results into the documentation; scenarios that were not played keep their rows.
pub(crate) fn write(lines: &[Line]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let text = fs::read_to_string(&path).expect("docs/reliability.md is there");
    let (before, rest) = text.split_once(BEGIN).expect("it has a place for the results");
    let (old, after) = rest.split_once(END).expect("the place has an end");
    let name = |row: &str| row.split('|').nth(2).unwrap_or_default().trim().to_owned();
    let mut rows: BTreeMap<String, String> =
        old.lines().filter(|line| line.starts_with('|')).map(|row| (name(row), row.to_owned())).collect();
    rows.extend(lines.iter().map(|line| (line.scenario.name.to_owned(), line.row())));
    let table: Vec<String> = table::SCENARIOS.iter().filter_map(|scenario| rows.remove(scenario.name)).collect();
    let new = format!("{before}{BEGIN}\n\n{HEAD}\n{}\n\n{END}{after}", table.join("\n"));
    fs::write(&path, new).expect("docs/reliability.md is writable");
}
