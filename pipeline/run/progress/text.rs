//! Progress as text: the two lines beside a bar.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Progress,
    stages::{Stage, StageReport, bottleneck},
};

/// Formats the line beside the bar, most important first: a narrow terminal truncates it.
pub(super) fn headline(p: &Progress, rates: &[StageReport; 4]) -> String {
    let eta = p.remaining_seconds().map_or_else(|| "?".to_owned(), format_seconds);
    let busiest = bottleneck(rates)
        .map(|worst| format!(" | {} {:.0} % busy", worst.stage.worker(), 100.0 * worst.busy))
        .unwrap_or_default();
    let failed = match p.failed.load(Relaxed) {
        0 => String::new(),
        n => format!(" ({n} failed)"),
    };
    let devices = match device_rates(p) {
        rates if rates.is_empty() => rates,
        rates => format!(" | {rates}"),
    };
    format!(
        "ETA {eta}, {:.1}/s{busiest} | shards {}/{}{failed} | {} images, {} rejected{devices}",
        rates[Stage::Write as usize].samples_per_second,
        p.committed.load(Relaxed),
        p.shards.load(Relaxed),
        p.outcomes.finished(),
        p.outcomes.rejected(),
    )
}

/// Formats the stages' rates and, in brackets, the queues between them: `read 35 MB/s [64/64] decode 812/s [9/32] ...`.
pub(super) fn stage_line(p: &Progress, rates: &[StageReport; 4]) -> String {
    let rate = |stage: Stage| format_rate(rates[stage as usize].samples_per_second);
    format!(
        "read {} [{}] decode {} [{}] caption {} [{}] write {}",
        format_bytes(rates[Stage::Read as usize].bytes_per_second),
        p.decode_queue,
        rate(Stage::Decode),
        p.caption_queue,
        rate(Stage::Caption),
        p.write_queue,
        rate(Stage::Write),
    )
}

/// Images per second of every GPU, where there are several.
pub(super) fn device_rates(p: &Progress) -> String {
    p.devices.as_ref().map(|devices| devices.rates()).unwrap_or_default()
}

fn format_rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}/s") } else { format!("{per_second:.0}/s") }
}

fn format_bytes(per_second: f64) -> String {
    let (value, unit) = match per_second {
        b if b >= 1e9 => (b / 1e9, "GB/s"),
        b if b >= 1e6 => (b / 1e6, "MB/s"),
        b => (b / 1e3, "kB/s"),
    };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

fn format_seconds(seconds: f64) -> String {
    let s = seconds.round() as u64;
    if s >= 3600 {
        format!("{}h{:02}m", s / 3600, s % 3600 / 60)
    } else if s >= 60 {
        format!("{}m{:02}s", s / 60, s % 60)
    } else {
        format!("{s}s")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::run::progress::stages::{Reading, StageReading};

    #[test]
    fn durations_and_rates_are_short() {
        assert_eq!([5.0, 65.0, 7260.0].map(format_seconds), ["5s", "1m05s", "2h01m"]);
        assert_eq!([0.25, 9.94, 1234.5].map(format_rate), ["0.2/s", "9.9/s", "1234/s"]);
        assert_eq!([800.0, 35.4e6, 1.25e9].map(format_bytes), ["0.8 kB/s", "35 MB/s", "1.2 GB/s"]);
    }

    #[test]
    fn lines_name_the_bottleneck_first_and_fit_a_terminal() {
        let progress = Progress { shards: 9.into(), ..Progress::default() };
        for (queue, capacity) in
            [(&progress.decode_queue, 64), (&progress.caption_queue, 256), (&progress.write_queue, 256)]
        {
            queue.set_capacity(capacity);
            queue.set(capacity);
        }
        let start = Instant::now();
        let done = Reading {
            at: start + Duration::from_secs(10),
            stages: [1.0, 5.0, 9.7, 0.3].map(|busy_seconds| StageReading {
                samples: 8120,
                bytes: 350_000_000,
                busy_seconds,
            }),
        };
        let rates = done.since(&Reading::zero(start));
        let line = headline(&progress, &rates);
        assert!(line.starts_with("ETA ?, 812.0/s | captioner 97 % busy | shards 0/9 | "), "{line}");
        let stages = stage_line(&progress, &rates);
        assert_eq!(stages, "read 35 MB/s [64/64] decode 812/s [256/256] caption 812/s [256/256] write 812/s");
        assert!(stages.len() <= 80, "{stages}");
    }
}
