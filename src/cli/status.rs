//! `everpost status`: what is running, and how far behind it is.

use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use secrecy::ExposeSecret;
use url::Url;

use super::{flags::Flags, run::ADMIN};
use crate::admin::status::{PartitionStatus, PressureStatus, Status};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The admin listener of a running process [default: http:// and the setting `admin_listen`, or 127.0.0.1:8081]
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(flags: &Flags, args: StatusArgs) -> anyhow::Result<()> {
    let settings = flags.settings()?;
    let listener = settings.admin_listen.unwrap_or(ADMIN);
    let url = args.url.map_or_else(|| Url::parse(&format!("http://{listener}")), Ok)?.join("/v1/admin/status")?;
    let request = reqwest::Client::new().get(url.clone()).bearer_auth(settings.admin_key()?.expose_secret());
    let answer = request.send().await;
    let answer = answer.with_context(|| format!("no admin listener answers at {url}; is a server running?"))?;
    let (code, text) = (answer.status(), answer.text().await.context("reading the answer")?);
    anyhow::ensure!(code.is_success(), "the server answers {code}: {}", text.trim());
    if args.json {
        println!("{text}");
        return Ok(());
    }
    let status: Status = serde_json::from_str(&text).context("the answer is that of another version; try --json")?;
    println!("{}", shown(&status));
    Ok(())
}

fn shown(status: &Status) -> String {
    let Status { version, engine, durability, pressure, dead_letters, instances, partitions } = status;
    let mut lines = vec![
        format!("everpost {version}, {engine}, {durability}"),
        format!("pressure  {}", pressed(pressure)),
        format!("gateways  {}", instances.len()),
        format!("dead      {}", dead_letters.map_or("not known".to_owned(), |letters| format!("{letters} letters"))),
    ];
    lines.extend(pressure.faults.iter().map(|fault| format!("FIX       {fault}")));
    format!("{}\n\n{}", lines.join("\n"), table(partitions))
}

fn pressed(pressure: &PressureStatus) -> String {
    let PressureStatus { level, backlog, oldest_unstored_seconds: oldest, memory_used, memory_limit, .. } = pressure;
    let mib = |bytes: &u64| bytes >> 20;
    let memory = match (memory_used, memory_limit) {
        (Some(used), Some(limit)) => format!(", {} of {} MiB", mib(used), mib(limit)),
        (Some(used), None) => format!(", {} MiB without a limit", mib(used)),
        (None, _) => String::new(),
    };
    format!("{level}: {backlog} events not stored, the oldest for {oldest:.0} s{memory}")
}

/// A row for each partition that is behind, and one for all others with the same owners.
fn table(partitions: &[PartitionStatus]) -> Table {
    let mut rows: Vec<Vec<&PartitionStatus>> = Vec::new();
    for partition in partitions {
        let alike =
            rows.iter_mut().find(|row| is_quiet(row[0]) && is_quiet(partition) && row[0].roles == partition.roles);
        match alike {
            Some(row) => row.push(partition),
            None => rows.push(vec![partition]),
        }
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let roles: Vec<&String> = partitions.first().map(|first| first.roles.keys().collect()).unwrap_or_default();
    let owned = roles.iter().flat_map(|role| [(*role).clone(), "lag".to_owned()]);
    table.set_header(["partitions", "accepted"].map(str::to_owned).into_iter().chain(owned));
    for row in &rows {
        let accepted: u64 = row.iter().map(|partition| partition.accepted).sum();
        let owned = row[0].roles.values().flat_map(|role| {
            let owner = role.owner.as_deref().map_or("nobody", |owner| owner.get(..8).unwrap_or(owner));
            [owner.to_owned(), role.lag.to_string()]
        });
        table.add_row([ranges(row), accepted.to_string()].into_iter().chain(owned));
    }
    let numbers = (1..2 + 2 * roles.len()).filter(|column| column % 2 == 1);
    numbers.for_each(|column| {
        table.column_mut(column).into_iter().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    });
    table
}

fn is_quiet(partition: &PartitionStatus) -> bool {
    partition.roles.values().all(|role| role.lag == 0)
}

/// `0-3, 7`.
fn ranges(row: &[&PartitionStatus]) -> String {
    let runs = row.chunk_by(|a, b| a.partition + 1 == b.partition);
    let run = |run: &[&PartitionStatus]| match run {
        [one] => one.partition.to_string(),
        run => format!("{}-{}", run[0].partition, run[run.len() - 1].partition),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use crate::admin::status::RoleStatus;

    use super::*;

    fn partition(partition: u16, owner: &str, lag: u64) -> PartitionStatus {
        let role = |lag| RoleStatus { owner: Some(owner.to_owned()), lag };
        let roles = [("fanout".to_owned(), role(0)), ("persist".to_owned(), role(lag))].into();
        PartitionStatus { partition, accepted: 10, roles }
    }

    #[test]
    fn partitions_that_are_not_behind_share_a_row() {
        let (a, b) = ("aaaaaaaaaaaa", "bbbbbbbbbbbb");
        let partitions =
            [partition(0, a, 0), partition(1, a, 0), partition(2, b, 0), partition(3, a, 5), partition(4, a, 0)];
        let shown = table(&partitions).to_string();
        let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["partitions", "accepted", "fanout", "lag", "persist", "lag"]);
        assert_eq!(rows[1], ["0-1,", "4", "30", "aaaaaaaa", "0", "aaaaaaaa", "0"]);
        assert_eq!(rows[2], ["2", "10", "bbbbbbbb", "0", "bbbbbbbb", "0"]);
        assert_eq!(rows[3], ["3", "10", "aaaaaaaa", "0", "aaaaaaaa", "5"]);
    }
}
