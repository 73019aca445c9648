//! Watches the log for one process: how much is on its way through it, and how hard it is to take more.
//!
//! One [`Watcher`] looks once a second; everybody else asks [`Pressure`], which costs nothing. Where the log cannot be
//! looked at, what was seen last stands: whoever uses the log finds out by himself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use everpost_core::{
    log::{Log, LogError, Vitals},
    pressure::{Ages, Level, Readings},
    role::Role,
};
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Label, Ratio};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Settings that were fine at the start may be changed by anybody with access to the server.
const SETTINGS_EVERY: Duration = Duration::from_secs(10);
/// At most one line in this time about settings that stay wrong.
const QUIET: Duration = Duration::from_secs(60);

/// What was seen last.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    /// What follows from it.
    pub level: Level,
    /// Where the log ended, and how far each role had come.
    pub vitals: Vitals,
    /// For how long the oldest event that is not stored had been waiting.
    pub age: Duration,
    /// What in the settings of the log made a promise false.
    pub faults: Vec<String>,
}

/// What a process knows of the pressure on its log. Clones know the same.
#[derive(Debug, Clone)]
pub struct Pressure {
    seen: watch::Receiver<Outlook>,
}

impl Pressure {
    /// For whoever works without a watcher: all is well, always.
    pub fn none() -> Self {
        Self { seen: watch::channel(Outlook::default()).1 }
    }

    /// The present level.
    pub fn level(&self) -> Level {
        self.seen.borrow().level
    }

    /// Everything that was seen last.
    pub fn outlook(&self) -> Outlook {
        self.seen.borrow().clone()
    }
}

/// What a process shows of the log it works with; clones show the same.
#[derive(Debug, Clone, Default)]
pub struct PressureMetrics {
    level: Gauge,
    backlog: Family<Label, Gauge>,
    age: Ratio,
    memory: Ratio,
    faults: Gauge,
}

impl PressureMetrics {
    /// Makes the gauges visible.
    pub fn register(&self, registry: &mut Registry) {
        let levels = "Pressure on the event log: 0 green, 1 yellow, 2 orange, 3 red";
        registry.register("pressure_level", levels, self.level.clone());
        registry.register("log_backlog", "Events a role has still before it", self.backlog.clone());
        let age = "For how long the oldest event that is not stored has been waiting";
        registry.register("log_oldest_unstored_seconds", age, self.age.clone());
        let memory = "Share of its memory limit that the event log uses; 0 where there is no limit";
        registry.register("log_memory_ratio", memory, self.memory.clone());
        let faults = "Settings of the event log that make a promise false";
        registry.register("log_setting_faults", faults, self.faults.clone());
    }

    fn show(&self, outlook: &Outlook) {
        let Outlook { level, vitals, age, faults } = outlook;
        self.level.set(*level as i64);
        for role in Role::ALL {
            let before: u64 = vitals.backlog(role).sum();
            self.backlog.get_or_create(&Label::of(role)).set(i64::try_from(before).unwrap_or(i64::MAX));
        }
        self.age.set(age.as_secs_f64());
        self.memory.set(vitals.memory.and_then(|memory| memory.share()).unwrap_or(0.0));
        self.faults.set(faults.len() as i64);
    }
}

/// Looks at the log, again and again.
pub struct Watcher {
    log: Arc<dyn Log>,
    /// How many unstored events are too many.
    budget: u64,
    metrics: PressureMetrics,
    seen: watch::Sender<Outlook>,
    ages: Vec<Ages>,
    started: Instant,
    settings_due: Instant,
    complained: Option<Instant>,
}

impl Watcher {
    /// A watcher that has seen nothing yet, and what it will let others know.
    pub fn new(log: Arc<dyn Log>, budget: u64, metrics: PressureMetrics) -> (Self, Pressure) {
        let (sender, seen) = watch::channel(Outlook::default());
        let (ages, now) = (vec![Ages::default(); log.partitions().count()], Instant::now());
        let watcher =
            Self { log, budget, metrics, seen: sender, ages, started: now, settings_due: now, complained: None };
        (watcher, Pressure { seen })
    }

    /// Looks every second until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the event log could not be looked at");
            }
            let _ = tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await; // whichever comes first
        }
    }

    /// Looks once.
    pub async fn look(&mut self) -> Result<(), LogError> {
        let vitals = self.log.vitals().await?;
        let faults = self.faults().await?;
        let now = self.started.elapsed();
        let stored = vitals.progress_of(Role::Persist).iter();
        let waits = self.ages.iter_mut().zip(vitals.ends.iter().zip(stored));
        let age = waits.map(|(ages, (end, stored))| ages.note(*end, *stored, now)).max().unwrap_or_default();
        let readings = Readings {
            memory: vitals.memory.and_then(|memory| memory.share()),
            backlog: vitals.backlog(Role::Persist).sum::<u64>() as f64 / self.budget.max(1) as f64,
            age,
            unsuitable: !faults.is_empty(),
        };
        let before = self.seen.borrow().level;
        let level = before.after(&readings);
        tell(before, level, &readings);
        let outlook = Outlook { level, vitals, age, faults };
        self.metrics.show(&outlook);
        self.seen.send_replace(outlook);
        Ok(())
    }

    /// The faults in the settings, as of a few seconds ago at most.
    async fn faults(&mut self) -> Result<Vec<String>, LogError> {
        let before = self.seen.borrow().faults.clone();
        if Instant::now() < self.settings_due {
            return Ok(before);
        }
        let faults = match self.log.faults().await {
            Err(LogError::Unsuitable(why)) => vec![why],
            faults => faults?,
        };
        self.settings_due = Instant::now() + SETTINGS_EVERY;
        if faults.is_empty() && !before.is_empty() {
            tracing::info!("the settings of the event log are sound again; publishes are taken");
            self.complained = None;
        } else if !faults.is_empty() && self.complained.is_none_or(|last| last.elapsed() >= QUIET) {
            tracing::error!(faults = faults.join("; "), "the event log cannot keep its promise; publishes are refused");
            self.complained = Some(Instant::now());
        }
        Ok(faults)
    }
}

/// Says once that the level has changed, and why.
fn tell(before: Level, level: Level, readings: &Readings) {
    let Readings { memory, backlog, age, .. } = readings;
    let (memory, backlog) = (memory.map(percent), percent(*backlog));
    let seconds = age.as_secs();
    if level > before {
        tracing::warn!(%level, %before, memory, backlog, seconds, "the pressure on the event log has risen");
    } else if level < before {
        tracing::info!(%level, %before, memory, backlog, seconds, "the pressure on the event log has fallen");
    }
}

fn percent(share: f64) -> u64 {
    (share * 100.0).round() as u64
}
