//! `everpost tail`: what happens, as it happens.

use anyhow::Context;
use clap::Args;
use futures_util::StreamExt;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::{client::ServerArgs, flags::Flags, token};

#[derive(Debug, Args)]
#[command(
    override_usage = "everpost tail [OPTIONS] CONVERSATION\n       everpost tail [OPTIONS] --user ID [CONVERSATION]"
)]
pub(super) struct TailArgs {
    /// Which conversation; without one, everything of --user
    conversation: Option<String>,
    /// Whose conversations to follow
    #[arg(long, value_name = "ID", required_unless_present = "conversation")]
    user: Option<String>,
    /// Begin after this sequence number of the conversation
    #[arg(long, value_name = "SEQ", requires = "conversation")]
    after: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

const TTL_SECONDS: u64 = 24 * 3_600;

pub(super) async fn run(flags: &Flags, args: TailArgs) -> anyhow::Result<()> {
    let server = args.server.server(flags)?;
    let mut url = match &args.conversation {
        Some(conversation) => server.websocket(&format!("/v1/ws/{conversation}"))?,
        None => server.websocket("/v1/ws")?,
    };
    if let Some(after) = args.after {
        url.query_pairs_mut().append_pair("after", &after.to_string());
    }
    let bearer = match &args.user {
        Some(user) => {
            format!("Bearer {}", token::mint(&flags.settings()?, user, TTL_SECONDS, None, None)?)
        }
        None => server.bearer(),
    };
    let mut request = url.as_str().into_client_request()?;
    request.headers_mut().insert("authorization", bearer.parse()?);
    let (mut socket, _) = connect_async(request).await.with_context(|| format!("no server answers at {url}"))?;
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => println!("{text}"),
            Message::Close(Some(frame)) => anyhow::bail!("closed: {} ({})", frame.reason, frame.code),
            _ => {}
        }
    }
    Ok(())
}
