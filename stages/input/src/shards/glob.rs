//! `*`, `?`, `[...]` and `**` in a pattern. Folders are listed level by level, no deeper than the pattern goes.

use futures::{StreamExt, TryStreamExt, stream};
use glob::{MatchOptions, Pattern};
use object_store::{ObjectMeta, path::Path};
use recaption_schemas::{name_bytes, name_text, redact_url};

use super::{ListError, ShardRef};
use crate::format::is_image_name;
use recaption_store::{Location, Stores};

/// Matches any number of folders, including none.
const ANY_DEPTH: &str = "**";
/// Folders listed at the same time.
const CONCURRENT_LISTINGS: usize = 16;

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Lists the shards that a pattern with wildcards matches.
pub(super) async fn list(stores: &mut Stores, pattern: &str) -> Result<Vec<ShardRef>, ListError> {
    let malformed = |problem: String| ListError::Pattern { pattern: redact_url(pattern), problem };
    // Everything up to the last slash before the first wildcard is a folder that can be listed.
    let first = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let folder = pattern[..first].rfind('/').map_or("", |at| &pattern[..=at]);
    if folder.ends_with("://") {
        return Err(malformed("the name of a bucket cannot have wildcards".into()));
    }
    let root = stores.locate(if folder.is_empty() { "." } else { folder })?;
    let parts: Vec<&str> = pattern[folder.len()..].split('/').collect();
    let patterns = parts.iter().map(|part| Pattern::new(part).map_err(|e| malformed(e.to_string())));
    let patterns: Vec<Pattern> = patterns.collect::<Result<_, _>>()?;
    let depth = parts.iter().position(|part| *part == ANY_DEPTH).unwrap_or(parts.len() - 1);
    let folders = descend(&root, &patterns[..depth]).await?;
    let deep = depth + 1 < parts.len() || parts[depth] == ANY_DEPTH;
    let mut metas: Vec<ObjectMeta> = Vec::new();
    for folder in folders {
        if deep {
            let rest = Pattern::new(&parts[depth..].join("/")).map_err(|e| malformed(e.to_string()))?;
            let below = folder.list().await?;
            metas.extend(below.into_iter().filter(|meta| {
                relative(&folder.path, &meta.location).is_some_and(|name| rest.matches_with(&name, OPTIONS))
            }));
        } else {
            let (_, files) = folder.list_level().await?;
            metas.extend(files.into_iter().filter(|meta| {
                relative(&folder.path, &meta.location)
                    .is_some_and(|name| patterns[depth].matches_with(&name, OPTIONS))
            }));
        }
    }
    if let Some(image) = metas.iter().find(|meta| is_image_name(meta.location.as_ref())) {
        return Err(malformed(format!(
            "matches image files ({}); name their folder instead",
            image.location
        )));
    }
    metas.sort_by(|a, b| a.location.cmp(&b.location));
    metas.dedup_by(|a, b| a.location == b.location);
    Ok(metas.iter().map(|meta| ShardRef::of_object(root.at(meta.location.clone()), meta)).collect())
}

fn matches(pattern: &Pattern, name: &str) -> bool {
    // The name itself is matched, not its escaped form in a store's path.
    pattern.matches_with(&name_text(&name_bytes(name)), OPTIONS)
}

/// Returns the folders below `root` that match, one level for each pattern.
async fn descend(root: &Location, patterns: &[Pattern]) -> Result<Vec<Location>, ListError> {
    let mut folders = vec![root.clone()];
    for pattern in patterns {
        // A level without wildcards needs no listing.
        let literal = Pattern::escape(pattern.as_str()) == pattern.as_str();
        if literal {
            let below = |folder: Location| {
                let path = Path::parse(format!("{}/{}", folder.path, pattern.as_str())).ok()?;
                Some(folder.at(path))
            };
            folders = folders.into_iter().filter_map(below).collect();
            continue;
        }
        let levels: Vec<Vec<Location>> = stream::iter(folders)
            .map(|folder| async move {
                let (below, _) = folder.list_level().await?;
                let matching = below
                    .into_iter()
                    .filter(|path| path.filename().is_some_and(|name| matches(pattern, name)));
                Ok::<_, ListError>(matching.map(|path| folder.at(path)).collect())
            })
            .buffered(CONCURRENT_LISTINGS)
            .try_collect()
            .await?;
        folders = levels.into_iter().flatten().collect();
    }
    Ok(folders)
}

/// Returns the path of a file below a folder.
fn relative(folder: &Path, path: &Path) -> Option<String> {
    let parts: Vec<String> =
        path.prefix_match(folder)?.map(|part| name_text(&name_bytes(part.as_ref()))).collect();
    Some(parts.join("/"))
}
