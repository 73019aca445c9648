//! Everpost.

use clap::Parser as _;

#[derive(clap::Parser)]
#[command(name = "everpost", version)]
enum Command {
    /// Puts load on running servers and reports what they take.
    Bench(everpost::cli::bench::BenchArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command::Bench(args) = Command::parse();
    everpost::cli::bench::run(args).await
}
