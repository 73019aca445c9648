//! Many small conversations.

use anyhow::Result;
use clap::Args;

use super::{Settings, fanout, load::Shape, report::Report, voice::DEEPEST};

#[derive(Debug, Args)]
pub(super) struct RoomsArgs {
    /// Conversations.
    #[arg(long, default_value_t = 1_000)]
    rooms: usize,
    /// Members of each; one of them publishes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    members: u16,
    /// Messages under way over all conversations, without `--rate`.
    #[arg(long, default_value_t = 2_048)]
    window: usize,
    /// Messages a second over all conversations, instead of as many as possible.
    #[arg(long)]
    rate: Option<f64>,
    /// Puts the same load on the built-in in-memory server first.
    #[arg(long)]
    reference: bool,
}

pub(super) async fn run(settings: &Settings, args: &RoomsArgs) -> Result<Vec<Report>> {
    let shape = Shape {
        echo: true,
        rooms: args.rooms,
        listeners: usize::from(args.members) - 1,
        publishers: 1,
        window: (args.window / args.rooms.max(1)).max(1),
        depth: DEEPEST,
        rate: args.rate,
    };
    fanout::compare("rooms", settings, &shape, args.reference).await
}
