//! `everpost publish`: one message from the command line.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{client::ServerArgs, flags::Flags};

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// Which conversation
    conversation: String,
    /// What to say
    #[arg(required = true)]
    text: Vec<String>,
    /// On whose behalf
    #[arg(long, value_name = "ID", default_value = "system")]
    user: String,
    /// Publish once for this key, however often the command is repeated
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(flags: &Flags, args: PublishArgs) -> anyhow::Result<()> {
    let server = args.server.server(flags)?;
    let url = server.http(&format!("/v1/conversations/{}/messages", args.conversation))?;
    let key = args.idempotency_key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let message = json!({"type": "text", "content": {"text": args.text.join(" ")}, "sender_id": args.user});
    let request = reqwest::Client::new()
        .post(url.clone())
        .header("authorization", server.bearer())
        .header("idempotency-key", key)
        .json(&message);
    let response = request.send().await.with_context(|| format!("no server answers at {url}; is it running?"))?;
    let accepted = response.status().is_success();
    let answer: Value = response.json().await.context("the server's answer is not JSON")?;
    if !accepted {
        anyhow::bail!("refused: {}", answer["detail"].as_str().unwrap_or("no reason given"));
    }
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}
