//! `everpost dead-letters`: the events that were given up, and what is to become of them.

use std::{num::NonZeroU32, time::Duration};

use anyhow::bail;
use clap::{Args, Subcommand};
use comfy_table::Table;
use everpost_core::{name::ConversationId, role::Role, store::Fate};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::{
    client::{AdminArgs, AdminServer},
    flags::Flags,
};
use crate::admin::dead_letters::{Letter, Letters, Outcome};

const ROUTE: &str = "/v1/admin/dead-letters";
/// Letters in one page when all of them are wanted.
const PAGE: usize = 200;

#[derive(Debug, Args)]
pub(super) struct DeadLetterArgs {
    #[command(subcommand)]
    what: What,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show which there are, oldest first, without their payloads
    List {
        #[command(flatten)]
        which: Which,
        /// In which state: dead, redriven, deleted
        #[arg(long, value_name = "STATE", default_value = "dead")]
        state: Fate,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show everything about one
    Show {
        /// Which one
        id: Uuid,
        /// Also what was in it
        #[arg(long)]
        payload: bool,
    },
    /// Put events back where their tombstones are; twice is harmless
    Redrive {
        #[command(flatten)]
        chosen: Chosen,
        /// At most so many a second
        #[arg(long, value_name = "N", default_value = "100")]
        rate: NonZeroU32,
        #[command(flatten)]
        decision: DecisionArgs,
    },
    /// Give payloads up for good; the tombstones stay
    Delete {
        /// Which ones
        #[arg(required = true, value_name = "ID")]
        ids: Vec<Uuid>,
        #[command(flatten)]
        decision: DecisionArgs,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Only of this conversation
    #[arg(long, value_name = "ID", value_parser = |text: &str| ConversationId::new(text))]
    conversation: Option<ConversationId>,
    /// Only of this role
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
}

impl Which {
    fn query(&self, state: Fate) -> Vec<(&'static str, String)> {
        let role = self.role.map(|role| ("role", role.to_string()));
        let conversation = self.conversation.as_ref().map(|id| ("conversation_id", id.to_string()));
        [Some(("state", state.to_string())), role, conversation].into_iter().flatten().collect()
    }
}

#[derive(Debug, Args)]
struct Chosen {
    /// Which ones
    #[arg(value_name = "ID", required_unless_present_any = ["all", "conversation", "role"])]
    ids: Vec<Uuid>,
    /// All that are dead
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct DecisionArgs {
    /// Who decides this, for the record
    #[arg(long, value_name = "NAME", default_value = "operator")]
    by: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

pub(super) async fn run(flags: &Flags, args: DeadLetterArgs) -> anyhow::Result<()> {
    let (server, json) = (args.server.server(flags)?, args.json);
    match args.what {
        What::List { which, state, limit } => list(&server, &which, state, limit, json).await,
        What::Show { id, payload } => show(&server, id, payload, json).await,
        What::Redrive { chosen, rate, decision } => {
            let ids = if chosen.ids.is_empty() { all(&server, &chosen.which).await? } else { chosen.ids };
            decide(&server, &ids, Some(rate), json, async |id| redrive(&server, id, &decision).await).await
        }
        What::Delete { ids, decision } => {
            decide(&server, &ids, None, json, async |id| delete(&server, id, &decision).await).await
        }
    }
}

async fn page(
    server: &AdminServer,
    which: &Which,
    state: Fate,
    after: Option<Uuid>,
    limit: usize,
) -> anyhow::Result<Letters> {
    let mut query = which.query(state);
    query.push(("limit", limit.to_string()));
    query.extend(after.map(|after| ("after", after.to_string())));
    Ok(serde_json::from_value(server.ask(Method::GET, ROUTE, &query, None).await?)?)
}

async fn list(server: &AdminServer, which: &Which, state: Fate, limit: usize, json: bool) -> anyhow::Result<()> {
    let letters = page(server, which, state, None, limit).await?;
    if json {
        println!("{}", serde_json::to_string(&letters)?);
        return Ok(());
    }
    println!("{}", table(&letters.dead_letters));
    let shown = letters.dead_letters.len() as u64;
    match letters.total {
        0 => println!("none"),
        total if total > shown => println!("{shown} of {total}; --limit shows more"),
        total => println!("{total} in all"),
    }
    Ok(())
}

fn table(letters: &[Letter]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["id", "since", "reason", "role", "conversation", "seq", "event", "sender"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for letter in letters.iter().cloned() {
        let seq = letter.seq.map(|seq| seq.to_string());
        let known = [letter.conversation_id, seq, letter.event, letter.sender_id].map(or_dash);
        let head = [letter.id.to_string(), letter.first_failed_at, letter.reason, letter.role];
        table.add_row(head.into_iter().chain(known));
    }
    table.trim_fmt()
}

async fn show(server: &AdminServer, id: Uuid, payload: bool, json: bool) -> anyhow::Result<()> {
    let query = [("payload", payload.to_string())];
    let letter = server.ask(Method::GET, &format!("{ROUTE}/{id}"), &query, None).await?;
    if json {
        println!("{letter}");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for (name, value) in letter.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.add_row([name.replace('_', " "), text]);
    }
    println!("{}", table.trim_fmt());
    Ok(())
}

/// Every dead one, page by page; those that come meanwhile are left for the next time.
async fn all(server: &AdminServer, which: &Which) -> anyhow::Result<Vec<Uuid>> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let letters = page(server, which, Fate::Dead, after, PAGE).await?;
        ids.extend(letters.dead_letters.iter().map(|letter| letter.id));
        after = letters.next;
        if after.is_none() {
            return Ok(ids);
        }
    }
}

async fn redrive(server: &AdminServer, id: Uuid, decision: &DecisionArgs) -> anyhow::Result<Outcome> {
    let wish = json!({"by": decision.by, "why": decision.why});
    let answer = server.ask(Method::POST, &format!("{ROUTE}/{id}/redrive"), &[], Some(wish)).await?;
    Ok(serde_json::from_value(answer)?)
}

async fn delete(server: &AdminServer, id: Uuid, decision: &DecisionArgs) -> anyhow::Result<Outcome> {
    let wish = [("by", decision.by.clone()), ("why", decision.why.clone())];
    Ok(serde_json::from_value(server.ask(Method::DELETE, &format!("{ROUTE}/{id}"), &wish, None).await?)?)
}

/// Does something to each letter, in the order they came, so that events of a conversation come back in theirs.
async fn decide(
    server: &AdminServer,
    ids: &[Uuid],
    rate: Option<NonZeroU32>,
    json: bool,
    act: impl AsyncFn(Uuid) -> anyhow::Result<Outcome>,
) -> anyhow::Result<()> {
    let bar =
        ProgressBar::new(ids.len() as u64).with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta}")?);
    let mut pace = rate.map(|rate| interval(Duration::from_secs(1) / rate.get()));
    pace.iter_mut().for_each(|pace| pace.set_missed_tick_behavior(MissedTickBehavior::Delay));
    let (mut changed, mut refused) = (0, Vec::new());
    for &id in ids {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        match act(id).await {
            Ok(outcome) => changed += usize::from(outcome.changed),
            Err(error) if server.is_gone(&error) => return Err(error),
            Err(error) => refused.push((id, error.to_string())),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    tell(ids.len(), changed, &refused, json)
}

fn tell(asked: usize, changed: usize, refused: &[(Uuid, String)], json: bool) -> anyhow::Result<()> {
    let unchanged = asked - changed - refused.len();
    if json {
        let refused: Vec<Value> = refused.iter().map(|(id, why)| json!({"id": id, "detail": why})).collect();
        println!("{}", json!({"changed": changed, "unchanged": unchanged, "refused": refused}));
    } else {
        println!("{changed} done, {unchanged} were so already, {} refused", refused.len());
        refused.iter().for_each(|(id, why)| println!("{id}  {why}"));
    }
    if refused.is_empty() { Ok(()) } else { bail!("{} of {asked} could not be done", refused.len()) }
}
