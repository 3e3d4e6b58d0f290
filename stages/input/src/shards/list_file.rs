//! `@FILE`: a file with one pattern per line.

use object_store::ObjectStoreExt;
use recaption_schemas::redact_url;

use super::{ListError, regular::irregular_kind};
use recaption_store::{StoreError, Stores};

/// Largest file, bytes: ten million patterns of a hundred letters.
const MAX_BYTES: u64 = 1 << 30;

/// Relocations every `@FILE` by the lines of that file. Blank lines and lines that begin with `#` are ignored; paths are relative to
/// the working directory.
pub(super) async fn expand(stores: &mut Stores, patterns: &[String]) -> Result<Vec<String>, ListError> {
    let mut all = Vec::new();
    for pattern in patterns {
        let Some(file) = pattern.strip_prefix('@') else {
            all.push(pattern.clone());
            continue;
        };
        let malformed =
            |problem: String| ListError::Pattern { pattern: format!("@{}", redact_url(file)), problem };
        let location = stores.locate(file)?;
        if let Some(kind) = irregular_kind(&location).await {
            return Err(malformed(format!("is {kind}, not a regular file")));
        }
        let store_error = |source| StoreError::Store { url: location.url(), source };
        let got = location.store.get(&location.path).await.map_err(store_error)?;
        if got.meta.size > MAX_BYTES {
            return Err(malformed(format!("has {} bytes, more than {MAX_BYTES}", got.meta.size)));
        }
        let bytes = got.bytes().await.map_err(store_error)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| malformed(format!("is not UTF-8: {e}")))?;
        let before = all.len();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.starts_with('@') {
                return Err(malformed(format!("line {}: a list cannot include another list", number + 1)));
            }
            if !line.is_empty() && !line.starts_with('#') {
                all.push(line.to_owned());
            }
        }
        if all.len() == before {
            return Err(malformed("names no shard".into()));
        }
    }
    Ok(all)
}
