//! Folders of images: what belongs to one depends on the folder from which a run lists it, which may have metadata files above.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use recaption_input::{
    format::InputFormat,
    shards::{ListError, ShardRef, list_folder},
};
use recaption_store::Location;
use tokio::sync::Mutex;

/// Time for which a listing is used again. Files that change meanwhile are noticed when they are read.
const FRESH: Duration = Duration::from_secs(30);

/// The shards of a folder, by URL.
type Shards = Arc<HashMap<String, ShardRef>>;

/// Lists folders, and remembers the last listing.
#[derive(Debug)]
pub(super) struct Folders {
    format: InputFormat,
    /// Folders among the configured inputs.
    roots: Vec<Location>,
    last: Mutex<Option<(String, Instant, Shards)>>,
}

impl Folders {
    pub(super) fn new(format: InputFormat, roots: Vec<Location>) -> Self {
        Self { format, roots, last: Mutex::default() }
    }

    /// Returns the folder as a shard; `None` if no image is directly in it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(super) async fn find(&self, folder: &Location, url: &str) -> Result<Option<ShardRef>, ListError> {
        let root = self.roots.iter().find(|root| contains(root, folder)).unwrap_or(folder);
        let root_url = root.url();
        let mut last = self.last.lock().await;
        let known = last.as_ref().filter(|(known, at, _)| *known == root_url && at.elapsed() < FRESH);
        if let Some((_, _, shards)) = known {
            return Ok(shards.get(url).cloned());
        }
        let listed = list_folder(root, self.format).await?;
        let shards: Shards = Arc::new(listed.into_iter().map(|shard| (shard.url.clone(), shard)).collect());
        *last = Some((root_url, Instant::now(), Arc::clone(&shards)));
        Ok(shards.get(url).cloned())
    }
}

/// Returns whether a folder is another one or below it.
fn contains(root: &Location, folder: &Location) -> bool {
    let (root, folder) = (root.url(), folder.url());
    let root = root.trim_end_matches('/');
    folder
        .trim_end_matches('/')
        .strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use recaption_store::Stores;

    use super::*;

    #[test]
    fn folders_contain_themselves_and_what_is_below() {
        let mut stores = Stores::default();
        let mut is_in = |root: &str, folder: &str| {
            let [root, folder] = [root, folder].map(|path| stores.locate(path).expect("a path"));
            contains(&root, &folder)
        };
        assert!(is_in("/a/b", "/a/b/") && is_in("/a/b/", "/a/b/c/d") && is_in("/", "/a"));
        assert!(!is_in("/a/b", "/a/bc") && !is_in("/a/b/c", "/a/b"));
    }
}
