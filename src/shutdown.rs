//! Stopping: the first signal drains, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the token at the first SIGTERM or SIGINT and exits with 1 at the second.
pub fn on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for drained in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if drained {
                std::process::exit(1);
            }
            tracing::info!("draining; once more to stop at once");
            stop.cancel();
        }
    });
    Ok(())
}

/// Hears of each SIGHUP, which asks to read files again; without this one would end the process.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
