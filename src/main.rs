//! Everpost.

mod cli;

use clap::Parser;

#[derive(Parser)]
#[command(name = "everpost", version)]
enum Command {
    /// Puts load on running servers and reports what they take.
    Bench(cli::bench::BenchArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command::Bench(args) = Command::parse();
    cli::bench::run(args).await
}
