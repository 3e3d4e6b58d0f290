//! `*`, `?`, `[...]` and `**` in a pattern: folders are listed level by level, no deeper than the pattern asks.

use futures::{StreamExt, TryStreamExt, stream};
use glob::{MatchOptions, Pattern};
use object_store::{ObjectMeta, path::Path};
use recaption_schemas::{name_bytes, name_text, redact_url};

use super::{ListError, ShardRef};
use crate::read::is_image_name;
use recaption_store::{Location, Stores};

/// Any number of folders, none included.
const ANY_DEPTH: &str = "**";
/// Folders listed at the same time.
const AT_ONCE: usize = 16;

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The shards that a pattern with wildcards names.
pub async fn list(stores: &mut Stores, pattern: &str) -> Result<Vec<ShardRef>, ListError> {
    let bad = |what: String| ListError::Pattern { pattern: redact_url(pattern), what };
    // Everything up to the last slash before the first wildcard is a folder that can be listed.
    let first = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let folder = pattern[..first].rfind('/').map_or("", |at| &pattern[..=at]);
    if folder.ends_with("://") {
        return Err(bad("the bucket itself cannot be a wildcard".into()));
    }
    let root = stores.locate(if folder.is_empty() { "." } else { folder })?;
    let parts: Vec<&str> = pattern[folder.len()..].split('/').collect();
    let patterns = parts.iter().map(|part| Pattern::new(part).map_err(|e| bad(e.to_string())));
    let patterns: Vec<Pattern> = patterns.collect::<Result<_, _>>()?;
    let depth = parts.iter().position(|part| *part == ANY_DEPTH).unwrap_or(parts.len() - 1);
    let folders = descend(&root, &patterns[..depth]).await?;
    let deep = depth + 1 < parts.len() || parts[depth] == ANY_DEPTH;
    let mut metas: Vec<ObjectMeta> = Vec::new();
    for folder in folders {
        if deep {
            let rest = Pattern::new(&parts[depth..].join("/")).map_err(|e| bad(e.to_string()))?;
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
        return Err(bad(format!("matches image files ({}); name their folder instead", image.location)));
    }
    metas.sort_by(|a, b| a.location.cmp(&b.location));
    metas.dedup_by(|a, b| a.location == b.location);
    Ok(metas.iter().map(|meta| ShardRef::new(root.at(meta.location.clone()), Ok(meta))).collect())
}

fn fits(pattern: &Pattern, name: &str) -> bool {
    // A pattern is held against the name itself and not against how a store's path writes it.
    pattern.matches_with(&name_text(&name_bytes(name)), OPTIONS)
}

/// The folders that fit, a level for each pattern.
async fn descend(root: &Location, patterns: &[Pattern]) -> Result<Vec<Location>, ListError> {
    let mut folders = vec![root.clone()];
    for pattern in patterns {
        // What stands there without a wildcard need not be looked for.
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
                let fitting =
                    below.into_iter().filter(|path| path.filename().is_some_and(|name| fits(pattern, name)));
                Ok::<_, ListError>(fitting.map(|path| folder.at(path)).collect())
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        folders = levels.into_iter().flatten().collect();
    }
    Ok(folders)
}

fn relative(folder: &Path, path: &Path) -> Option<String> {
    let parts: Vec<String> =
        path.prefix_match(folder)?.map(|part| name_text(&name_bytes(part.as_ref()))).collect();
    Some(parts.join("/"))
}
