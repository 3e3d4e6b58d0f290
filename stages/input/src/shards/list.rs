//! Patterns -> shards.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use recaption_schemas::redact_url;
use recaption_store::{StoreKind, Stores};

use super::{ListError, ShardRef, expand_braces, folder, glob, list_file, lookup::look_up};
use crate::format::{InputFormat, ListKind, is_shard_name};

/// Lists the shards that the patterns name, in order, each once.
///
/// Entries of a folder that cannot be listed are skipped with a warning. A shard that cannot be looked up is returned as
/// [`ShardSource::Unavailable`](super::ShardSource::Unavailable), unless all are.
///
/// # Errors
/// See [`ListError`].
pub async fn list_shards(
    stores: &mut Stores,
    patterns: &[String],
    format: InputFormat,
) -> Result<Vec<ShardRef>, ListError> {
    let patterns = list_file::expand(stores, patterns).await?;
    let mut shards: Vec<ShardRef> = Vec::new();
    let mut seen = Seen::default();
    for pattern in &patterns {
        let found = list_pattern(stores, pattern, format).await?;
        if found.is_empty() {
            let looked_for = folder::looked_for(format);
            return Err(ListError::NoMatch { pattern: redact_url(pattern), looked_for });
        }
        for shard in found {
            if let Some(other) = seen.with_id(&shard, &shards) {
                if other.url != shard.url {
                    return Err(ListError::Collision(other.url.clone(), shard.url.clone()));
                }
                // Every query and user info has its own store.
                if !Arc::ptr_eq(&other.location.store, &shard.location.store) {
                    return Err(ListError::Ambiguous(shard.url.clone()));
                }
                tracing::warn!(shard = shard.url, "shard is named twice; reading it once");
                continue;
            }
            seen.insert(&shard, shards.len());
            shards.push(shard);
        }
    }
    match shards.first().and_then(|shard| Some((shard.url.clone(), shard.lookup_error()?))) {
        Some((url, first)) if shards.iter().all(|shard| shard.lookup_error().is_some()) => {
            Err(ListError::AllUnavailable { shards: shards.len(), url, error: first.message.clone() })
        }
        _ => Ok(shards),
    }
}

/// The shards so far by the digests of their names: a million names more would be 100 MB.
#[derive(Default)]
struct Seen {
    by_digest: HashMap<u64, usize>,
    hasher: RandomState,
    /// Those whose digest another shard has.
    others: Vec<usize>,
}

impl Seen {
    /// Adds the shard of a number.
    fn insert(&mut self, shard: &ShardRef, number: usize) {
        if let Some(other) = self.by_digest.insert(self.hasher.hash_one(&shard.id), number) {
            self.others.push(other);
        }
    }

    /// Returns the shard with the same name, which is that of its URL.
    fn with_id<'s>(&self, shard: &ShardRef, shards: &'s [ShardRef]) -> Option<&'s ShardRef> {
        let first = self.by_digest.get(&self.hasher.hash_one(&shard.id))?;
        let with_digest = [first].into_iter().chain(&self.others).filter_map(|number| shards.get(*number));
        with_digest.into_iter().find(|other| other.id == shard.id)
    }
}

async fn list_pattern(
    stores: &mut Stores,
    pattern: &str,
    format: InputFormat,
) -> Result<Vec<ShardRef>, ListError> {
    let malformed = |problem: String| ListError::Pattern { pattern: redact_url(pattern), problem };
    let mut plain = Vec::new();
    let mut shards = Vec::new();
    // A file whose name looks like a pattern is that file.
    let names = if is_local_path(pattern) {
        vec![pattern.to_owned()]
    } else {
        expand_braces(pattern).map_err(malformed)?
    };
    for name in names {
        // In a web URL `?` begins the query, so that only `*` and `[` are wildcards.
        let is_web = name.starts_with("http://") || name.starts_with("https://");
        let has_wildcard = if is_web {
            name.split('?').next().unwrap_or_default().contains(['*', '['])
        } else {
            name.contains(['*', '?', '['])
        };
        if has_wildcard && !is_local_path(&name) {
            if is_web {
                return Err(malformed(
                    "a web server cannot be listed; name the shards, or give a range like {00000..00099}"
                        .into(),
                ));
            }
            shards.extend(glob::list(stores, &name).await?);
        } else if is_folder(&name) || (format == InputFormat::Folder && !is_web) {
            if is_web {
                return Err(malformed("a web server cannot be listed; name the shards".into()));
            }
            let folder = stores.locate(&name)?;
            shards.extend(folder::list(&folder, format).await?);
        } else {
            plain.push(stores.locate(&name)?);
        }
    }
    for shard in look_up(plain).await {
        // A bucket has no folders: a name without an object may be the prefix of many.
        let is_file = is_shard_name(shard.name()) || ListKind::of_name(shard.name()).is_some();
        let can_list = matches!(shard.location.kind, StoreKind::Bucket | StoreKind::Hub);
        let may_be_folder = shard.lookup_error().is_some() && can_list && !is_file;
        let below = if may_be_folder { folder::list(&shard.location, format).await.ok() } else { None };
        match below.filter(|below| !below.is_empty()) {
            Some(below) => shards.extend(below),
            None => shards.push(shard),
        }
    }
    Ok(shards)
}

/// Returns whether a name is a path that exists on this machine.
fn is_local_path(name: &str) -> bool {
    !name.contains("://") && std::path::Path::new(name).exists()
}

/// Returns whether a name is a folder's: by its trailing slash, as a whole bucket or dataset, or because it is one on this
/// machine.
pub(super) fn is_folder(name: &str) -> bool {
    match name.split_once("://") {
        None => name.ends_with('/') || std::path::Path::new(name).is_dir(),
        Some((scheme, rest)) => {
            let parts = rest.split('/').count();
            let is_root = match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" | "file" => false,
                // datasets/ORG/NAME
                "hf" => parts == 3,
                _ => parts == 1 && !rest.is_empty(),
            };
            name.ends_with('/') || is_root
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_folder;

    #[test]
    fn buckets_and_datasets_are_folders() {
        for folder in [
            "s3://bucket",
            "gs://bucket/",
            "s3://bucket/photos/",
            "hf://datasets/org/name@main",
            "/",
            "az://c",
        ] {
            assert!(is_folder(folder), "{folder}");
        }
        for other in
            ["s3://bucket/photos", "https://host", "hf://datasets/org/name/a.parquet", "/no/such/a.tar"]
        {
            assert!(!is_folder(other), "{other}");
        }
    }
}
