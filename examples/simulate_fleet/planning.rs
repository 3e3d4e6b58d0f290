//! Seconds and memory of one plan.

use std::time::{Duration, Instant};

use anyhow::Context;
use recaption_store::StoreSettings;

use crate::simulation::{Network, RateLimits, Setting, Work, plan};

/// Plans this many shards over an empty output, and returns what it took as text.
///
/// # Errors
/// When planning fails, or the memory of the process cannot be read.
pub(crate) fn measure(shards: usize) -> anyhow::Result<String> {
    let setting = Setting {
        work: Work { shards, shard_bytes: 1_000_000_000, shard_seconds: 60.0, spread: 0.0 },
        network: Network::REGIONAL,
        settings: StoreSettings::default(),
        lease: Duration::from_secs(20),
        lanes: 2,
        is_dealt: false,
        plan_window: Duration::ZERO,
    };
    let before = memory("VmRSS")?;
    let began = Instant::now();
    let planned = plan(setting, RateLimits::S3)?;
    let seconds = began.elapsed().as_secs_f64();
    let (after, peak) = (memory("VmRSS")?, memory("VmHWM")?);
    Ok(format!(
        "{} shards planned: {} pages of listings in {:.1} s of the store's time, {seconds:.1} s of CPU\n\
         memory: {:.0} MB before, {:.0} MB with the plan, {:.0} MB at most: {:.0} bytes per shard at most\n",
        planned.tasks,
        planned.pages,
        planned.seconds,
        before as f64 / 1e6,
        after as f64 / 1e6,
        peak as f64 / 1e6,
        (peak - before) as f64 / shards as f64,
    ))
}

/// Returns a line of this process's status, in bytes.
fn memory(name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status cannot be read")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("/proc/self/status has no {name}"))? * 1024)
}
