//! Shows progress while a run works: a bar on a terminal, and lines in the log otherwise.

use std::{
    io::IsTerminal,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Progress,
    stages::{RecentRates, Stage, StageReport, bottleneck},
    text::{device_rates, headline, stage_line},
};
use crate::terminal::BARS;

/// How often the bar is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a line is logged where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

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
    bars: Option<[ProgressBar; 2]>,
}

impl Drop for ProgressHandle {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        for bar in self.bars.take().into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

impl Reporter {
    /// Starts to show `progress`.
    #[must_use]
    pub fn start(self, progress: &Arc<Progress>) -> ProgressHandle {
        if self == Self::Silent {
            return ProgressHandle { task: None, bars: None };
        }
        let progress = Arc::clone(progress);
        if std::io::stderr().is_terminal() {
            let bars = new_bars();
            let task = tokio::spawn(redraw(progress, bars.clone()));
            return ProgressHandle { task: Some(task), bars: Some(bars) };
        }
        ProgressHandle { task: Some(tokio::spawn(log_lines(progress))), bars: None }
    }
}

/// Thousandths of the work: bytes would be too coarse for small shards and samples are not known before reading.
const BAR_LENGTH: u64 = 1000;
/// The bar with what matters most, and a line of the stages below it. They fill their lines: the first one must, since the next
/// begins where it ends. The carriage return after the last keeps the terminal's echo of Ctrl-C from wrapping into the line below,
/// where a stale bar would stay.
const TEMPLATES: [&str; 2] = ["{elapsed_precise} [{bar:12}] {percent:>3}% {wide_msg}", "{wide_msg}\r"];

fn new_bars() -> [ProgressBar; 2] {
    TEMPLATES.map(|template| {
        let bar = BARS.add(ProgressBar::new(BAR_LENGTH));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    })
}

async fn redraw(progress: Arc<Progress>, [bar, stages]: [ProgressBar; 2]) {
    let mut recent = RecentRates::new(Instant::now());
    loop {
        tokio::time::sleep(REDRAW).await;
        let rates = recent.update(progress.reading());
        bar.set_position((progress.fraction() * BAR_LENGTH as f64) as u64);
        bar.set_message(headline(&progress, &rates));
        stages.set_message(stage_line(&progress, &rates));
    }
}

async fn log_lines(progress: Arc<Progress>) {
    let mut recent = RecentRates::new(Instant::now());
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        log_line(&progress, &recent.update(progress.reading()));
    }
}

/// Logs one line. Rates and shares are rounded, since nobody reads more digits.
fn log_line(p: &Progress, rates: &[StageReport; 4]) {
    let per_second = |stage: Stage| (10.0 * rates[stage as usize].samples_per_second).round() / 10.0;
    let busy = |stage: Stage| (100.0 * rates[stage as usize].busy).round() / 100.0;
    tracing::info!(
        images = p.outcomes.finished(),
        images_per_second = per_second(Stage::Write),
        rejected = p.outcomes.rejected(),
        shards_done = p.committed.load(Relaxed),
        shards_failed = p.failed.load(Relaxed),
        shards = p.shards.load(Relaxed),
        bottleneck = bottleneck(rates).map(|worst| worst.stage.worker()),
        read_per_second = per_second(Stage::Read),
        read_bytes_per_second = rates[Stage::Read as usize].bytes_per_second.round(),
        read_busy = busy(Stage::Read),
        decode_queue = %p.decode_queue,
        decode_per_second = per_second(Stage::Decode),
        decode_busy = busy(Stage::Decode),
        caption_queue = %p.caption_queue,
        caption_per_second = per_second(Stage::Caption),
        caption_busy = busy(Stage::Caption),
        write_queue = %p.write_queue,
        write_busy = busy(Stage::Write),
        devices = device_rates(p),
        eta_seconds = p.remaining_seconds().map_or(0, |seconds| seconds as u64),
        "progress"
    );
}
