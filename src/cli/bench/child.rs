//! The reference server in a process of its own, so that its processor time can be told from the generator's.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{
    Settings,
    report::Report,
    target::{Socket, Target},
};

/// A running reference server; it ends with this value, or with the generator.
pub(super) struct Reference {
    child: Child,
    target: Target,
}

impl Reference {
    /// Starts this very executable again as a reference server.
    pub(super) async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "reference-server"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting the reference server")?;
        let output = child.stdout.take().context("the reference server has no output")?;
        let address = BufReader::new(output).lines().next_line().await?.context("the reference server ended")?;
        let target = Target {
            name: "reference",
            urls: vec![address.parse()?],
            api_key: None,
            token_secret: None,
            socket: Socket::Conversation,
        };
        Ok(Self { child, target })
    }

    /// The settings of a run, turned on this server.
    pub(super) fn settings(&self, settings: &Settings) -> Settings {
        Settings { target: self.target.clone(), pids: self.child.id().into_iter().collect(), seconds: settings.seconds }
    }
}

/// Runs a bench on the servers, before that on the reference if it is wanted, and compares the two.
pub(super) async fn compare(
    settings: &Settings,
    wanted: bool,
    compared: &[&'static str],
    bench: impl AsyncFn(&Settings) -> Result<Report>,
) -> Result<Vec<Report>> {
    if !wanted {
        return Ok(vec![bench(settings).await?]);
    }
    let ceiling = {
        let server = Reference::start().await?;
        bench(&server.settings(settings)).await?
    };
    let mine = bench(settings).await?;
    let ratio = mine.ratio(&ceiling, compared);
    Ok(vec![ceiling, mine, ratio])
}
