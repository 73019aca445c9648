//! Log lines, and the registry of metrics.

use std::io::IsTerminal;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Starts writing log lines to standard error.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("log = {filter:?}: {error}"))?;
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colours);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let lines = lines.with_filter(filter).with_filter(filter_fn(is_discreet));
    let started = tracing_subscriber::registry().with(lines).try_init();
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

/// Our own lines never show a secret or what people write. Libraries promise no such thing: when they are talkative,
/// those for sockets show whole frames, with the tokens in their heads. So they are heard only when something happens.
fn is_discreet(line: &Metadata<'_>) -> bool {
    line.target().starts_with("everpost") || *line.level() <= Level::INFO
}

/// A registry that tells at least which version this is.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("everpost");
    let info: Family<Vec<(String, String)>, Gauge> = Family::default();
    info.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
    registry.register("build_info", "Which version is running", info);
    registry
}
