//! Input patterns -> shards: brace ranges, globs, folders. First of the data's way: `-> ShardRef`.
//!
//! A pattern that matches nothing is an error that names it; a shard named twice is read once.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use recaption_schemas::{ShardId, redact_text, redact_url, sha256_hex};

use crate::store::{Location, StoreError, StoreKind, Stores};

/// Most shards one brace pattern may name.
pub const MAX_EXPANSION: usize = 10_000_000;
/// Requests in flight while sizes and entity tags are asked for.
const HEAD_CONCURRENCY: usize = 32;

/// One shard to be read.
#[derive(Clone)]
pub struct ShardRef {
    /// Where it lies.
    pub location: Location,
    /// Canonical URL, redacted.
    pub url: String,
    /// Name of its files in the output.
    pub id: ShardId,
    /// Bytes.
    pub size: u64,
    /// Entity tag, or else the time of the last change.
    pub etag: Option<String>,
    /// Time of the last change, where the store knows it.
    pub modified: Option<DateTime<Utc>>,
    /// Why it could not even be looked at, when it could not.
    pub missing: Option<String>,
}

impl ShardRef {
    fn new(location: Location, meta: Result<&ObjectMeta, String>) -> Self {
        let url = location.url();
        let id = ShardId::from_url(&url);
        match meta {
            Ok(meta) => {
                // The hub says nothing of the time.
                let modified = Some(meta.last_modified).filter(|_| location.kind != StoreKind::Hub);
                let etag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
                Self { location, url, id, size: meta.size, etag: Some(etag), modified, missing: None }
            }
            Err(why) => Self { location, url, id, size: 0, etag: None, modified: None, missing: Some(why) },
        }
    }

    /// Fingerprint of the input alone: URL, size and entity tag. 16 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let text = format!("{}\n{}\n{}", self.url, self.size, self.etag.as_deref().unwrap_or("-"));
        sha256_hex(text.as_bytes())[..16].to_owned()
    }
}

/// Why the inputs cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pattern is malformed.
    #[error("input pattern `{pattern}`: {what}")]
    Pattern {
        /// The pattern, redacted.
        pattern: String,
        /// What is wrong.
        what: String,
    },
    /// Nothing matches.
    #[error("input pattern `{0}` matches no shard")]
    Nothing(String),
    /// None of the shards can be looked at.
    #[error("none of the {shards} input shards can be found; the first: {why}")]
    AllMissing {
        /// How many.
        shards: usize,
        /// The first one's error.
        why: String,
    },
    /// Two shards would write the same files.
    #[error("shards {0} and {1} have the same name in the output; rename one")]
    Collision(String, String),
    /// Two inputs have one name: what tells them apart is never written down.
    #[error(
        "two inputs are {0} and differ only in query or user info, which are left out of every name because they may \
         hold secrets; give each shard a path of its own"
    )]
    Ambiguous(String),
}

/// Lists all shards that the patterns name, in order, each once.
///
/// # Errors
/// See [`ListError`].
pub async fn list_shards(stores: &mut Stores, patterns: &[String]) -> Result<Vec<ShardRef>, ListError> {
    let mut shards: Vec<ShardRef> = Vec::new();
    let mut seen: HashMap<String, Arc<dyn ObjectStore>> = HashMap::new();
    let mut ids = HashMap::new();
    for pattern in patterns {
        let found = list_pattern(stores, pattern).await?;
        if found.is_empty() {
            return Err(ListError::Nothing(redact_url(pattern)));
        }
        for shard in found {
            if let Some(store) = seen.insert(shard.url.clone(), Arc::clone(&shard.location.store)) {
                // Every query and user info has a store of its own.
                if !Arc::ptr_eq(&store, &shard.location.store) {
                    return Err(ListError::Ambiguous(shard.url));
                }
                tracing::warn!(shard = shard.url, "shard is named twice; it is read once");
                continue;
            }
            if let Some(other) = ids.insert(shard.id.clone(), shard.url.clone()) {
                return Err(ListError::Collision(other, shard.url));
            }
            shards.push(shard);
        }
    }
    match shards.first().and_then(|s| s.missing.clone()) {
        Some(why) if shards.iter().all(|s| s.missing.is_some()) => {
            Err(ListError::AllMissing { shards: shards.len(), why })
        }
        _ => Ok(shards),
    }
}

async fn list_pattern(stores: &mut Stores, pattern: &str) -> Result<Vec<ShardRef>, ListError> {
    let bad = |what: String| ListError::Pattern { pattern: redact_url(pattern), what };
    let mut plain = Vec::new();
    let mut shards = Vec::new();
    for name in expand_braces(pattern).map_err(bad)? {
        // In a web address `?` begins the query, so only `*` and `[` are wildcards there.
        let web = name.starts_with("http://") || name.starts_with("https://");
        let wild = if web {
            name.split('?').next().unwrap_or_default().contains(['*', '['])
        } else {
            name.contains(['*', '?', '['])
        };
        // A file whose name looks like a pattern is still that file.
        let exists = !name.contains("://") && std::path::Path::new(&name).is_file();
        if wild && !exists {
            if web {
                return Err(bad(
                    "a web server cannot be listed; name the shards, or give a range like {00000..00099}"
                        .into(),
                ));
            }
            shards.extend(list_glob(stores, &name).await?);
        } else if name.ends_with('/') || (!name.contains("://") && std::path::Path::new(&name).is_dir()) {
            shards.extend(list_glob(stores, &format!("{}/*.tar", name.trim_end_matches('/'))).await?);
        } else {
            plain.push(stores.locate(&name)?);
        }
    }
    let looked_up: Vec<ShardRef> = stream::iter(plain)
        .map(|location| async move {
            let meta = head(&location).await;
            ShardRef::new(location, meta.as_ref().map_err(Clone::clone))
        })
        .buffered(HEAD_CONCURRENCY)
        .collect()
        .await;
    shards.extend(looked_up);
    Ok(shards)
}

/// Size and entity tag. A web server may refuse HEAD (a presigned GET does): one byte is asked for then.
async fn head(location: &Location) -> Result<ObjectMeta, String> {
    match location.store.head(&location.path).await {
        Ok(meta) => Ok(meta),
        Err(_) if location.kind == StoreKind::Http => {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..1)));
            let got = location.store.get_opts(&location.path, options).await;
            got.map(|r| r.meta).map_err(|e| redact_text(&e.to_string()))
        }
        Err(error) => Err(redact_text(&error.to_string())),
    }
}

async fn list_glob(stores: &mut Stores, pattern: &str) -> Result<Vec<ShardRef>, ListError> {
    let bad = |what: String| ListError::Pattern { pattern: redact_url(pattern), what };
    // Everything up to the last slash before the first wildcard is a folder that can be listed.
    let first = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let folder = pattern[..first].rfind('/').map_or("", |at| &pattern[..=at]);
    let scheme_only = folder.ends_with("://");
    if scheme_only {
        return Err(bad("the bucket itself cannot be a wildcard".into()));
    }
    let location = stores.locate(if folder.is_empty() { "." } else { folder })?;
    let rest = &pattern[folder.len()..];
    let matcher = glob::Pattern::new(rest).map_err(|e| bad(e.to_string()))?;
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let listed = location.store.list(Some(&location.path)).try_collect::<Vec<_>>().await;
    let mut metas = listed.map_err(|source| StoreError::Store { url: redact_url(folder), source })?;
    metas.retain(|meta| {
        relative(&location.path, &meta.location).is_some_and(|name| matcher.matches_with(&name, options))
    });
    metas.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(metas.iter().map(|meta| ShardRef::new(location.at(meta.location.clone()), Ok(meta))).collect())
}

fn relative(folder: &Path, path: &Path) -> Option<String> {
    let parts: Vec<String> = path.prefix_match(folder)?.map(|p| p.as_ref().to_owned()).collect();
    Some(parts.join("/"))
}

/// Expands `{00000..00099}` and `{a,b}`, as shells and webdataset do; several and nested ones too.
///
/// # Errors
/// Unbalanced braces, a malformed range, more than [`MAX_EXPANSION`] names.
pub fn expand_braces(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return match pattern.find('}') {
            Some(_) => Err("`}` without `{`".into()),
            None => Ok(vec![pattern.to_owned()]),
        };
    };
    let mut depth = 0;
    let close = pattern[open..]
        .char_indices()
        .find(|(_, c)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        })
        .map(|(at, _)| open + at)
        .ok_or("`{` without `}`")?;
    let choices = expand_group(&pattern[open + 1..close])?;
    let tails = expand_braces(&pattern[close + 1..])?;
    if choices.len().saturating_mul(tails.len()) > MAX_EXPANSION {
        return Err(format!("names more than {MAX_EXPANSION} shards"));
    }
    let mut out = Vec::with_capacity(choices.len() * tails.len());
    for choice in &choices {
        for tail in &tails {
            out.push(format!("{}{choice}{tail}", &pattern[..open]));
        }
    }
    Ok(out)
}

/// What stands between braces: a range of numbers, or alternatives.
fn expand_group(group: &str) -> Result<Vec<String>, String> {
    if let Some((from, to)) = group.split_once("..")
        && !group.contains(['{', ','])
    {
        let number =
            |text: &str| text.parse::<u64>().map_err(|_| format!("`{{{group}}}` is no range of numbers"));
        let (first, last) = (number(from)?, number(to)?);
        if first > last {
            return Err(format!("`{{{group}}}` runs backwards"));
        }
        if last - first >= MAX_EXPANSION as u64 {
            return Err(format!("names more than {MAX_EXPANSION} shards"));
        }
        let width = if from.starts_with('0') || to.starts_with('0') { from.len().max(to.len()) } else { 0 };
        return Ok((first..=last).map(|n| format!("{n:0width$}")).collect());
    }
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    let mut out = Vec::new();
    for part in parts {
        out.extend(expand_braces(&part)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::expand_braces;

    fn expand(pattern: &str) -> Vec<String> {
        expand_braces(pattern).expect(pattern)
    }

    #[test]
    fn ranges_keep_their_width() {
        assert_eq!(
            expand("s3://b/{00008..00011}.tar"),
            ["s3://b/00008.tar", "s3://b/00009.tar", "s3://b/00010.tar", "s3://b/00011.tar"]
        );
        assert_eq!(expand("{8..10}"), ["8", "9", "10"]);
        assert_eq!(expand("{000..2}"), ["000", "001", "002"]);
    }

    #[test]
    fn alternatives_multiply_and_nest() {
        assert_eq!(expand("{a,b}/{0..1}"), ["a/0", "a/1", "b/0", "b/1"]);
        assert_eq!(expand("x{a,b{1..2}}"), ["xa", "xb1", "xb2"]);
        assert_eq!(expand("plain.tar"), ["plain.tar"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (pattern, word) in [
            ("{0..9", "without"),
            ("0..9}", "without"),
            ("{9..0}", "backwards"),
            ("{a..b}", "no range"),
            ("{0..99999999999}", "more than"),
        ] {
            let error = expand_braces(pattern).expect_err(pattern);
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }
}
