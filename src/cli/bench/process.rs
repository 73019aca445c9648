//! What the kernel tells about the processes under load: processor time and resident memory.

use anyhow::{Context as _, Result};

/// Ticks per second in `/proc/PID/stat`; fixed in the kernel's interface on every platform we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds the processes have used so far, in user and kernel mode, their threads included.
pub(super) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| read(*pid, "stat").and_then(|text| cpu_of(&text).context("an odd /proc/PID/stat"))).sum()
}

/// Resident memory of the processes in KiB.
pub(super) fn resident_kib(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| read(*pid, "status").and_then(|text| resident_of(&text).context("no VmRSS"))).sum()
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// The 14th and 15th field; the second one, the name, may contain spaces and parentheses.
fn cpu_of(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some((user + kernel) as f64 / TICKS_PER_SECOND)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Processor seconds per million of something.
pub(super) fn per_million(cpu: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { cpu * 1e6 / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (odd) name) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 7 7 20 0 1 0 1 1 1";
        assert_eq!(cpu_of(stat), Some(3.0));
        assert_eq!(cpu_of("garbage"), None);
    }

    #[test]
    fn resident_memory_is_found_among_the_others() {
        assert_eq!(resident_of("VmPeak:\t  10 kB\nVmRSS:\t  1234 kB\nThreads:\t1\n"), Some(1234));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let me = [std::process::id()];
        assert!(cpu_seconds(&me).expect("readable") >= 0.0);
        assert!(resident_kib(&me).expect("readable") > 0);
    }

    #[test]
    fn nothing_delivered_costs_nothing() {
        assert_eq!(per_million(3.0, 0), 0.0);
        assert_eq!(per_million(3.0, 500_000), 6.0);
    }
}
