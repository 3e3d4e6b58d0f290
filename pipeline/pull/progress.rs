//! Progress of a download: a bar on a terminal, and a line per file in the log otherwise.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use recaption_store::PullProgress;

use crate::terminal::BARS;

/// Files below this size have no bar and no line, in bytes.
const MIN_SHOWN_BYTES: u64 = 1 << 20;

/// The bar of the file that is being downloaded.
#[derive(Default)]
pub(super) struct PullBars {
    current: Mutex<Option<(String, ProgressBar)>>,
}

impl PullBars {
    /// Shows how far a file is.
    pub(super) fn update(&self, at: PullProgress<'_>) {
        if at.size < MIN_SHOWN_BYTES {
            return;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(file, _)| file != at.file) {
            tracing::info!(file = at.file, bytes = at.size, "downloading");
            let bar = BARS.add(ProgressBar::new(at.size));
            if let Ok(style) =
                ProgressStyle::with_template("{elapsed_precise} [{bar:20}] {percent:>3}% {wide_msg}\r")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            *current = Some((at.file.to_owned(), bar));
        }
        if let Some((file, bar)) = current.as_ref() {
            bar.set_position(at.bytes);
            let rate = bar.per_sec() / 1e6;
            bar.set_message(format!(
                "{file} {:.0} of {:.0} MB, {rate:.0} MB/s",
                at.bytes as f64 / 1e6,
                at.size as f64 / 1e6
            ));
            if at.bytes == at.size {
                bar.finish_and_clear();
                *current = None;
            }
        }
    }
}
