//! Counts beside a shard's rows, and log lines that appear once per kind of input.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use recaption_schemas::{InputCounts, OriginalCaption};

/// The counts of a shard while it is read.
#[derive(Debug, Default)]
pub(super) struct SharedCounts(Mutex<InputCounts>);

impl SharedCounts {
    /// Updates the counts.
    pub(super) fn update(&self, change: impl FnOnce(&mut InputCounts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a sample without an original caption.
    pub(super) fn count_caption(&self, caption: Option<&OriginalCaption>) {
        if caption.is_none() {
            self.update(|counts| counts.without_caption += 1);
        }
    }

    /// Returns the counts so far.
    pub(super) fn get(&self) -> InputCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Most lines that are logged for one kind of input.
const MAX_LINES_PER_KIND: usize = 4;

/// Log lines about the columns, members and sidecars that are used: once per kind of input, not once per shard. Clones share
/// them.
#[derive(Clone, Debug, Default)]
pub struct UsageLog(Arc<Mutex<HashMap<&'static str, BTreeSet<String>>>>);

impl UsageLog {
    /// Logs what is used of a kind of input, unless that was logged before.
    pub(super) fn log(&self, kind: &'static str, used: &str) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = logged.entry(kind).or_default();
        if lines.len() > MAX_LINES_PER_KIND || !lines.insert(used.to_owned()) {
            return;
        }
        if lines.len() <= MAX_LINES_PER_KIND {
            tracing::info!(input = kind, "{used}");
        } else {
            tracing::info!(input = kind, "further shards use other columns or members; not logged any more");
        }
    }
}
