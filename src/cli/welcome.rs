//! What a newcomer needs next: addresses, how durable this is, and commands that work when pasted.

use std::net::SocketAddr;

use everpost_core::{
    clock::now_ms,
    log::Durability,
    name::{ConversationId, UserId},
    store::NewConversation,
};

use super::token;
use crate::{app::App, config::Settings};

const DEMO: &str = "demo";
const PEOPLE: [&str; 2] = ["alice", "bob"];
const DEMO_TTL_SECONDS: u64 = 7 * 24 * 3_600;

pub(super) async fn print(settings: &Settings, app: &App, admin: Option<SocketAddr>) -> anyhow::Result<()> {
    let Some(address) = app.address() else { return Ok(()) };
    create_demo(app).await?;
    let secret = settings.token_secret()?;
    let tokens = PEOPLE.map(|user| token::mint(&secret, user, DEMO_TTL_SECONDS, None, None));
    let [alice, bob] = tokens;
    let (alice, bob) = (alice?, bob?);
    let link = |token: &str| format!("http://{address}/#token={token}&conversation={DEMO}");
    let lines = [
        ("chat as alice", link(&alice)),
        ("chat as bob", link(&bob)),
        ("clients", format!("ws://{address}/v1/ws and http://{address}/v1")),
        ("metrics", admin.map_or_else(|| "closed".to_owned(), |admin| format!("http://{admin}/metrics"))),
        ("data", std::path::absolute(&settings.data_dir)?.display().to_string()),
        ("durability", durability(app).to_owned()),
        ("publish", format!("everpost publish {DEMO} hello from the command line")),
        ("or with curl", curl(address, &alice)),
        ("a token", "everpost token --user carol".to_owned()),
    ];
    println!("\n  Everpost {}: {}\n", env!("CARGO_PKG_VERSION"), app.engine());
    lines.iter().for_each(|(name, value)| println!("  {name:<14} {value}"));
    println!("\n  Open both chats, press \"Send 100\" in one, kill this process, start it again: 0 lost, 0 twice.\n");
    Ok(())
}

async fn create_demo(app: &App) -> anyhow::Result<()> {
    let participants = PEOPLE.map(UserId::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    let (id, title) = (ConversationId::new(DEMO)?, Some("Demo".to_owned()));
    let demo = NewConversation { id, title, participants, created_ms: now_ms() };
    app.ports().store.create(&demo).await?;
    Ok(())
}

fn durability(app: &App) -> &'static str {
    match app.ports().log.durability() {
        Durability::Memory => "memory: a crash may lose what was acknowledged",
        Durability::Fsync | Durability::Stored => "fsync: what was acknowledged is on disk",
    }
}

fn curl(address: SocketAddr, token: &str) -> String {
    format!(
        "curl http://{address}/v1/conversations/{DEMO}/messages -H 'Authorization: Bearer {token}' \
         -H 'Content-Type: application/json' -d '{{\"type\":\"text\",\"content\":{{\"text\":\"hello\"}}}}'"
    )
}
