//! This process as Linux knows it: memory, CPU time, and the time.

use std::{fs, time::SystemTime};

/// Kernel clock ticks per second, as user space sees them on every Linux architecture that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;
/// Positions in `/proc/self/stat` after the command's name: user time, system time, start.
const STAT_FIELDS: [usize; 3] = [11, 12, 19];

/// Returns a time as Prometheus counts it, seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// What the process uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ProcessUsage {
    pub(super) resident_bytes: u64,
    /// User and system time.
    pub(super) cpu_seconds: f64,
    /// Start, seconds since 1970.
    pub(super) start_seconds: f64,
}

impl ProcessUsage {
    /// Returns what the process uses now; `None` where `/proc` is missing.
    pub(super) fn now() -> Option<Self> {
        let [stat, status, uptime] = ["/proc/self/stat", "/proc/self/status", "/proc/uptime"]
            .map(|path| fs::read_to_string(path).ok());
        let uptime: f64 = uptime?.split_whitespace().next()?.parse().ok()?;
        Self::parse(&stat?, &status?, unix_seconds(SystemTime::now()) - uptime)
    }

    /// `boot_seconds` is the time at which the machine was started, seconds since 1970.
    fn parse(stat: &str, status: &str, boot_seconds: f64) -> Option<Self> {
        // The name may hold spaces and brackets.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        let [user, system, start] = STAT_FIELDS.map(seconds);
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            resident_bytes: kib * 1024,
            cpu_seconds: user? + system?,
            start_seconds: boot_seconds + start?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_names_may_hold_brackets() {
        let stat = "7 (re) cap) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 1200 1 1";
        let usage = ProcessUsage::parse(stat, "Name:\tx\nVmRSS:\t    2048 kB\n", 1000.0).expect("a process");
        let expected = ProcessUsage { resident_bytes: 2 << 20, cpu_seconds: 3.0, start_seconds: 1012.0 };
        assert_eq!(usage, expected);
        assert_eq!(ProcessUsage::parse("nonsense", "", 0.0), None);
    }
}
