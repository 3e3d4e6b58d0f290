//! Parts of lists: a list is split once, and its parts are kept for the requests that follow.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use recaption_input::{
    read::{ReadSettings, Splitter},
    shards::{ListError, ShardRef},
};
use recaption_store::Location;
use tokio::sync::OnceCell;

/// Shards whose parts are kept. A driver takes a list after the other.
const MAX_LISTS: usize = 32;

/// The parts of a shard that may be a list; itself, if it is none.
type Parts = Arc<OnceCell<Arc<Vec<ShardRef>>>>;

/// Splits lists, and remembers the last ones.
#[derive(Debug)]
pub(super) struct ListParts {
    settings: Arc<ReadSettings>,
    output: Location,
    /// By URL and version.
    known: Mutex<VecDeque<(String, Parts)>>,
}

impl ListParts {
    pub(super) fn new(settings: Arc<ReadSettings>, output: Location) -> Self {
        Self { settings, output, known: Mutex::default() }
    }

    /// Returns the parts of a shard, or the shard alone. `is_done` says whether a list was committed whole by an earlier run.
    ///
    /// # Errors
    /// When two parts would have the same name.
    pub(super) async fn of(
        &self,
        shard: ShardRef,
        is_done: impl Fn(&ShardRef) -> bool,
    ) -> Result<Arc<Vec<ShardRef>>, ListError> {
        let key = format!("{} {}", shard.url, shard.fingerprint());
        let parts = self.cell(&key);
        let split = parts
            .get_or_try_init(|| async {
                let splitter = Splitter { settings: &self.settings, output: &self.output, can_write: true };
                Ok(Arc::new(splitter.split(vec![shard], is_done).await?.shards))
            })
            .await
            .cloned();
        let is_known =
            split.as_ref().is_ok_and(|shards| shards.iter().all(|one| one.lookup_error().is_none()));
        if !is_known {
            // The next request looks again.
            self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != key);
        }
        split
    }

    fn cell(&self, key: &str) -> Parts {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, parts)) = known.iter().find(|(known, _)| known == key) {
            return Arc::clone(parts);
        }
        if known.len() == MAX_LISTS {
            known.pop_front();
        }
        let parts = Parts::default();
        known.push_back((key.to_owned(), Arc::clone(&parts)));
        parts
    }
}
