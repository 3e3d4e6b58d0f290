//! `@FILE`: a list of patterns in a file.

use object_store::ObjectStoreExt;
use recaption_schemas::redact_url;

use super::{ListError, regular::irregular};
use recaption_store::{StoreError, Stores};

/// Largest list, bytes: ten million shards of a hundred letters.
const MAX_BYTES: u64 = 1 << 30;

/// Replaces every `@FILE` by the lines of that file. Blank lines and lines that begin with `#` are left out; paths are taken
/// from where the program runs.
pub async fn expand(stores: &mut Stores, patterns: &[String]) -> Result<Vec<String>, ListError> {
    let mut all = Vec::new();
    for pattern in patterns {
        let Some(file) = pattern.strip_prefix('@') else {
            all.push(pattern.clone());
            continue;
        };
        let bad = |what: String| ListError::Pattern { pattern: format!("@{}", redact_url(file)), what };
        let place = stores.locate(file)?;
        if let Some(what) = irregular(&place).await {
            return Err(bad(format!("is {what}, no regular file")));
        }
        let store_error = |source| StoreError::Store { url: place.url(), source };
        let got = place.store.get(&place.path).await.map_err(store_error)?;
        if got.meta.size > MAX_BYTES {
            return Err(bad(format!("has {} bytes; no list of shards is that long", got.meta.size)));
        }
        let bytes = got.bytes().await.map_err(store_error)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| bad(format!("is not UTF-8: {e}")))?;
        let before = all.len();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.starts_with('@') {
                return Err(bad(format!("line {}: a list in a list is not read", number + 1)));
            }
            if !line.is_empty() && !line.starts_with('#') {
                all.push(line.to_owned());
            }
        }
        if all.len() == before {
            return Err(bad("names no shard".into()));
        }
    }
    Ok(all)
}
