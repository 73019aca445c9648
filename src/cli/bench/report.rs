//! What a run reports: an aligned table for people, one JSON object a line for machines, progress on standard error.
#![expect(clippy::print_stdout, reason = "the report is what the command is run for")]

use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

/// One measured thing.
#[derive(Debug, Clone, PartialEq)]
enum Figure {
    Count(u64),
    Number(f64, usize),
    Text(String),
}

impl Figure {
    fn value(&self) -> Option<f64> {
        match self {
            Self::Count(count) => Some(*count as f64),
            Self::Number(number, _) => Some(*number),
            Self::Text(_) => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Count(count) => grouped(&count.to_string()),
            Self::Number(number, decimals) => grouped(&format!("{number:.decimals$}")),
            Self::Text(text) => text.clone(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Count(count) => Value::from(*count),
            Self::Number(number, decimals) => {
                let scale = 10_f64.powi(*decimals as i32);
                Value::from((number * scale).round() / scale)
            }
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

/// The figures of one target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    bench: &'static str,
    target: String,
    figures: Vec<(&'static str, Figure)>,
}

impl Report {
    pub(super) fn new(bench: &'static str, target: impl Into<String>) -> Self {
        Self { bench, target: target.into(), figures: Vec::new() }
    }

    /// Adds something counted.
    pub(super) fn count(self, name: &'static str, count: u64) -> Self {
        self.with(name, Figure::Count(count))
    }

    /// Adds something measured.
    pub(super) fn number(self, name: &'static str, number: f64, decimals: usize) -> Self {
        self.with(name, Figure::Number(number, decimals))
    }

    /// Adds words.
    pub(super) fn text(self, name: &'static str, text: impl Into<String>) -> Self {
        self.with(name, Figure::Text(text.into()))
    }

    /// Adds words if there are any.
    pub(super) fn note(self, name: &'static str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    fn with(mut self, name: &'static str, figure: Figure) -> Self {
        self.figures.push((name, figure));
        self
    }

    fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|(known, _)| *known == name).map(|(_, figure)| figure)
    }

    /// A measured value.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.figure(name)?.value()
    }

    /// This report's values as multiples of those of `other`.
    pub(super) fn ratio(&self, other: &Self, names: &[&'static str]) -> Self {
        let target = format!("{} / {}", self.target, other.target);
        names.iter().fold(Self::new(self.bench, target), |ratio, name| match (self.value(name), other.value(name)) {
            (Some(mine), Some(theirs)) if theirs > 0.0 => ratio.number(name, mine / theirs, 3),
            _ => ratio,
        })
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("bench".to_owned(), Value::from(self.bench));
        object.insert("target".to_owned(), Value::from(self.target.as_str()));
        object.extend(self.figures.iter().map(|(name, figure)| ((*name).to_owned(), figure.json())));
        Value::Object(object)
    }
}

/// Prints the reports.
pub(super) fn print(reports: &[Report], json: bool) {
    if json {
        reports.iter().for_each(|report| println!("{}", report.json()));
    } else {
        println!("{}", table(reports));
    }
}

/// One row a figure, one column a target.
fn table(reports: &[Report]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let bench = reports.first().map_or("", |report| report.bench);
    table.set_header(std::iter::once(bench).chain(reports.iter().map(|report| report.target.as_str())));
    for name in names(reports) {
        let cell = |report: &Report| report.figure(name).map(Figure::shown).unwrap_or_default();
        table.add_row(std::iter::once(name.replace('_', " ")).chain(reports.iter().map(cell)));
    }
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table.trim_fmt()
}

/// Every figure any of the reports has, in the order of their first appearance.
fn names(reports: &[Report]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (name, _) in reports.iter().flat_map(|report| &report.figures) {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

/// `1234567.8` as `1 234 567.8`.
fn grouped(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, ""), |(whole, fraction)| (whole, fraction));
    let mut text = String::with_capacity(number.len() + 4);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    if fraction.is_empty() { text } else { format!("{text}.{fraction}") }
}

/// A line on standard error that shows what is going on; nothing when that is not a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins with what is being measured.
    pub(super) fn new(what: impl Into<String>) -> Result<Self> {
        let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {prefix} {msg}")?);
        bar.set_prefix(what.into());
        bar.enable_steady_tick(Duration::from_millis(250));
        Ok(Self { bar })
    }

    /// Shows words.
    pub(super) fn say(&self, words: impl Into<String>) {
        self.bar.set_message(words.into());
    }

    /// Shows current rates.
    pub(super) fn rates(&self, deliveries: u64, acks: u64) {
        let (deliveries, acks) = (grouped(&deliveries.to_string()), grouped(&acks.to_string()));
        self.say(format!("{deliveries} deliveries/s, {acks} acks/s"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(target: &str, rate: f64) -> Report {
        Report::new("fanout", target).number("deliveries_per_second", rate, 0).count("lost", 0)
    }

    #[test]
    fn the_table_is_aligned() {
        let mine = sample("everpost", 1_234_567.4).text("durability", "fsynced");
        let reports =
            [sample("reference", 2_000.0), mine.clone(), mine.ratio(&sample("x", 1e6), &["deliveries_per_second"])];
        insta::assert_snapshot!(table(&reports), @r"
        fanout                 reference   everpost  everpost / x
        deliveries per second      2 000  1 234 567         1.235
        lost                           0          0
        durability                          fsynced
        ");
    }

    #[test]
    fn json_has_the_numbers_and_not_their_looks() {
        let json = sample("everpost", 1_234.56).json();
        assert_eq!(
            json.to_string(),
            r#"{"bench":"fanout","deliveries_per_second":1235.0,"lost":0,"target":"everpost"}"#
        );
    }

    #[test]
    fn a_ratio_leaves_out_what_cannot_be_divided() {
        let ratio = sample("a", 3.0).ratio(&sample("b", 2.0), &["deliveries_per_second", "lost", "absent"]);
        assert_eq!((ratio.value("deliveries_per_second"), ratio.value("lost")), (Some(1.5), None));
    }

    #[test]
    fn long_numbers_are_grouped() {
        let shown: Vec<_> = ["0", "999", "1000", "1234567.25"].map(grouped).into();
        assert_eq!(shown, ["0", "999", "1 000", "1 234 567.25"]);
    }
}
