//! What a newcomer needs next: addresses, how durable this is, and commands that work when pasted.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
};

use everpost_core::{
    clock::now_ms,
    log::Durability,
    name::{ConversationId, UserId},
    store::NewConversation,
};

use super::token;
use crate::{app::App, config::Settings};

/// Where commands look when they are not told, as the default settings have it.
const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));
const DATA_DIR: &str = "./everpost-data";
const DEMO: &str = "demo";
const PEOPLE: [&str; 2] = ["alice", "bob"];
const DEMO_TTL_SECONDS: u64 = 7 * 24 * 3_600;

pub(super) async fn print(settings: &Settings, app: &App) -> anyhow::Result<()> {
    let Some(address) = app.address() else { return Ok(()) };
    create_demo(app).await?;
    let tokens = PEOPLE.map(|user| token::mint(settings, user, DEMO_TTL_SECONDS, None, None));
    let [alice, bob] = tokens;
    let (alice, bob) = (alice?, bob?);
    let s = if settings.tls_files()?.is_some() { "s" } else { "" };
    let link = |token: &str| format!("http{s}://{address}/#token={token}&conversation={DEMO}");
    let lines = [
        ("chat as alice", link(&alice)),
        ("chat as bob", link(&bob)),
        ("clients", format!("ws{s}://{address}/v1/ws and http{s}://{address}/v1")),
        ("metrics", app.admin_address().map_or_else(|| "closed".to_owned(), |admin| format!("http://{admin}/metrics"))),
        ("data", std::path::absolute(&settings.data_dir)?.display().to_string()),
        ("durability", durability(app).to_owned()),
        ("publish", publish(settings, address)),
        ("or with curl", curl(&format!("http{s}://{address}"), &alice)),
        ("a token", format!("{} token{} --user carol", program(), data_dir(settings))),
    ];
    println!("\n  Everpost {}: {}\n", env!("CARGO_PKG_VERSION"), app.engine());
    lines.iter().for_each(|(name, value)| println!("  {name:<14} {value}"));
    println!("\n  Open both chats, press \"Send 100\" in one, kill this process with");
    println!("    kill -9 {}", std::process::id());
    println!("  while it sends, and start it again: 0 lost, 0 twice.\n");
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

/// The program as it was called, so that it is found again from the same folder.
fn program() -> String {
    std::env::args().next().map_or_else(|| "everpost".to_owned(), |name| quoted(&name))
}

/// The flag for commands that need the secrets of this server, unless they find them by themselves.
fn data_dir(settings: &Settings) -> String {
    if settings.data_dir == Path::new(DATA_DIR) {
        return String::new();
    }
    let directory = std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone());
    format!(" --data-dir {}", quoted(&directory.display().to_string()))
}

fn publish(settings: &Settings, address: SocketAddr) -> String {
    let has_tls = settings.tls_files().is_ok_and(|files| files.is_some());
    let url = match (has_tls, address == LISTEN) {
        (false, true) => String::new(),
        (false, false) => format!(" --url http://{address}"),
        (true, _) => format!(" --url https://{address}"),
    };
    format!("{} publish{}{url} {DEMO} hello from the command line", program(), data_dir(settings))
}

/// The word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:=@%,".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn curl(url: &str, token: &str) -> String {
    format!(
        "curl {url}/v1/conversations/{DEMO}/messages -H 'Authorization: Bearer {token}' \
         -H 'Content-Type: application/json' -d '{{\"type\":\"text\",\"content\":{{\"text\":\"hello\"}}}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("target/release/everpost"), "target/release/everpost");
        assert_eq!(quoted("/tmp/my data"), "'/tmp/my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn what_commands_find_by_themselves_is_not_spelt_out() {
        let settings = Settings::load(None, &[]).expect("the defaults are sound");
        assert!(settings.listen == LISTEN && settings.data_dir == Path::new(DATA_DIR));
        assert_eq!(data_dir(&settings), "");
        assert!(publish(&settings, LISTEN).ends_with(" publish demo hello from the command line"));
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], 9000));
        assert!(publish(&settings, elsewhere).contains(" --url http://127.0.0.1:9000 demo"));
    }
}
