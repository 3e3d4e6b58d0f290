//! What is counted beside a shard's rows, and what is told once of a kind of input.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use recaption_schemas::{InputCounts, OriginalCaption};

/// Counts of a shard under way.
#[derive(Debug, Default)]
pub struct Tally(Mutex<InputCounts>);

impl Tally {
    /// Changes the counts.
    pub fn count(&self, change: impl FnOnce(&mut InputCounts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a sample by its caption.
    pub fn caption(&self, caption: Option<&OriginalCaption>) {
        if caption.is_none() {
            self.count(|counts| counts.without_caption += 1);
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> InputCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Different things that are said of one kind of input at level info; more of them are details.
const SAID: usize = 4;

/// What was said so far: which columns, members and sidecars are used, once per kind of input and not once per shard. Clones
/// share it.
#[derive(Clone, Debug, Default)]
pub struct Announced(Arc<Mutex<HashMap<&'static str, BTreeSet<String>>>>);

impl Announced {
    /// Says what is used of a kind of input, unless that was said.
    pub fn say(&self, kind: &'static str, used: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said.entry(kind).or_default();
        if said.len() > SAID || !said.insert(used.to_owned()) {
            return;
        }
        if said.len() <= SAID {
            tracing::info!(input = kind, "{used}");
        } else {
            tracing::info!(
                input = kind,
                "other shards have still other columns or members; --log-level debug"
            );
        }
    }
}
