//! Progress: counters that stages touch, a bar on a terminal, and lines in the log otherwise.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use recaption_input::shards::ShardRef;
use recaption_messages::ReadCounters;

use super::{devices::Devices, plan::Plan};
use crate::terminal::BARS;

/// How often the bar is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a line is logged where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Counters of a run, written by all stages and read by the reporter.
#[derive(Debug, Default)]
pub struct Progress {
    /// Shards to be done.
    pub shards: usize,
    /// Bytes to be read.
    pub bytes: u64,
    /// Bytes and samples that the readers have read.
    pub read: ReadCounters,
    /// Samples that became rows or rejects.
    pub finished: AtomicU64,
    /// Rejects among them.
    pub rejected: AtomicU64,
    /// Shards committed.
    pub committed: AtomicUsize,
    /// Shards that failed.
    pub failed: AtomicUsize,
    /// Samples waiting to be decoded.
    pub decode_queue: AtomicUsize,
    /// Images waiting for a model.
    pub caption_queue: AtomicUsize,
    /// Outcomes waiting to be written.
    pub write_queue: AtomicUsize,
    /// What computes.
    pub devices: Option<Arc<Devices>>,
}

impl Progress {
    /// Of a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { shards: plan.todo.len(), bytes: plan.bytes(), ..Self::default() }
    }

    /// With rates per device.
    #[must_use]
    pub fn on(self, devices: &Arc<Devices>) -> Self {
        Self { devices: Some(Arc::clone(devices)), ..self }
    }

    /// Images per second of every GPU, where there are several.
    fn device_rates(&self) -> String {
        self.devices.as_ref().map(|devices| devices.rates()).unwrap_or_default()
    }

    /// Of shards that are all to be read.
    #[must_use]
    pub fn of_shards(shards: &[ShardRef]) -> Self {
        Self { shards: shards.len(), bytes: shards.iter().map(ShardRef::size).sum(), ..Self::default() }
    }

    /// Estimates the fraction of the bytes whose samples have ended, 0 to 1, for the ETA.
    fn fraction(&self) -> f64 {
        let (read, finished) = (self.read.samples.load(Relaxed), self.finished.load(Relaxed));
        let bytes = self.read.bytes.load(Relaxed) as f64 / (self.bytes.max(1)) as f64;
        if read == 0 { 0.0 } else { bytes * finished as f64 / read as f64 }
    }
}

/// Chooses how progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    /// A bar on a terminal, log lines otherwise.
    Auto,
    /// Nothing.
    Silent,
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub struct ProgressHandle {
    task: Option<tokio::task::JoinHandle<()>>,
    bar: Option<ProgressBar>,
}

impl Drop for ProgressHandle {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Reporter {
    /// Starts to show `progress`.
    #[must_use]
    pub fn start(self, progress: &Arc<Progress>) -> ProgressHandle {
        if self == Self::Silent {
            return ProgressHandle { task: None, bar: None };
        }
        let progress = Arc::clone(progress);
        if std::io::stderr().is_terminal() {
            let bar = new_bar();
            let task = tokio::spawn(redraw(progress, bar.clone()));
            return ProgressHandle { task: Some(task), bar: Some(bar) };
        }
        ProgressHandle { task: Some(tokio::spawn(log_lines(progress))), bar: None }
    }
}

/// Thousandths of the work: bytes would be too coarse for small shards and samples are not known before reading.
const BAR_LENGTH: u64 = 1000;

fn new_bar() -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(BAR_LENGTH));
    // The bar fills the line. The carriage return keeps the terminal's echo of Ctrl-C from wrapping into the next one, where a
    // stale bar would stay.
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:20}] {percent:>3}% {wide_msg}\r")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

async fn redraw(progress: Arc<Progress>, bar: ProgressBar) {
    let started = Instant::now();
    let mut speed = Speed::new(started);
    loop {
        tokio::time::sleep(REDRAW).await;
        let p = &progress;
        let finished = p.finished.load(Relaxed);
        let rate = speed.update(Instant::now(), finished);
        let fraction = p.fraction();
        let elapsed = started.elapsed().as_secs_f64();
        let eta =
            if fraction > 0.0 { format_seconds(elapsed * (1.0 - fraction) / fraction) } else { "?".into() };
        bar.set_position((fraction * BAR_LENGTH as f64) as u64);
        bar.set_message(message(p, finished, rate, &eta));
    }
}

/// Formats the message after the bar, most important first: a narrow terminal truncates it.
fn message(p: &Progress, finished: u64, rate: f64, eta: &str) -> String {
    let failed = match p.failed.load(Relaxed) {
        0 => String::new(),
        n => format!(" ({n} failed)"),
    };
    let devices = match p.device_rates() {
        rates if rates.is_empty() => rates,
        rates => format!(" | {rates}"),
    };
    format!(
        "ETA {eta}, {rate:.1}/s, {finished} images, {} rejected | shards {}/{}{failed}{devices} | queues: decode {}, caption {}, write {}",
        p.rejected.load(Relaxed),
        p.committed.load(Relaxed),
        p.shards,
        p.decode_queue.load(Relaxed),
        p.caption_queue.load(Relaxed),
        p.write_queue.load(Relaxed),
    )
}

async fn log_lines(progress: Arc<Progress>) {
    let started = Instant::now();
    let mut speed = Speed::new(started);
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        let p = &progress;
        let finished = p.finished.load(Relaxed);
        let (fraction, elapsed) = (p.fraction(), started.elapsed().as_secs_f64());
        tracing::info!(
            images = finished,
            images_per_second = format!("{:.1}", speed.update(Instant::now(), finished)).as_str(),
            rejected = p.rejected.load(Relaxed),
            shards_done = p.committed.load(Relaxed),
            shards_failed = p.failed.load(Relaxed),
            shards = p.shards,
            decode_queue = p.decode_queue.load(Relaxed),
            caption_queue = p.caption_queue.load(Relaxed),
            write_queue = p.write_queue.load(Relaxed),
            devices = p.device_rates(),
            eta_seconds = if fraction > 0.0 { (elapsed * (1.0 - fraction) / fraction) as u64 } else { 0 },
            "progress"
        );
    }
}

/// Images per second over the last ten seconds or so.
struct Speed {
    samples: std::collections::VecDeque<(Instant, u64)>,
}

impl Speed {
    const WINDOW: Duration = Duration::from_secs(10);

    fn new(now: Instant) -> Self {
        Self { samples: [(now, 0)].into() }
    }

    fn update(&mut self, now: Instant, count: u64) -> f64 {
        self.samples.push_back((now, count));
        while self.samples.len() > 2 && now.duration_since(self.samples[0].0) > Self::WINDOW {
            self.samples.pop_front();
        }
        let (then, before) = self.samples[0];
        let seconds = now.duration_since(then).as_secs_f64();
        if seconds > 0.0 { (count - before) as f64 / seconds } else { 0.0 }
    }
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
    use super::*;

    #[test]
    fn speed_looks_at_the_last_seconds() {
        let start = Instant::now();
        let mut speed = Speed::new(start);
        for second in 1..=30 {
            let rate = speed.update(start + Duration::from_secs(second), second * second);
            assert!(rate > 0.0);
        }
        let rate = speed.update(start + Duration::from_secs(31), 31 * 31);
        assert!((rate - (31.0 * 31.0 - 21.0 * 21.0) / 10.0).abs() < 5.0, "{rate}");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([5.0, 65.0, 7260.0].map(format_seconds), ["5s", "1m05s", "2h01m"]);
    }
}
