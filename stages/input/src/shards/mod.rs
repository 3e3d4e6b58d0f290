//! Input patterns -> shards: brace ranges, globs, folders, lists in a file. First of the data's way: `-> ShardRef`.
//!
//! A pattern that matches nothing is an error that names it; a shard named twice is read once.

mod braces;
mod files;
mod folder;
mod glob;
mod list_file;
mod part;
mod regular;
mod unversioned;

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use recaption_schemas::{ShardId, redact_url, sha256_hex};

pub use braces::{MAX_EXPANSION, expand_braces};
pub use files::{FileRole, FolderFiles, MetadataFile};
pub use part::{Part, TextPart};
pub(crate) use unversioned::{CONTENT_TAG, content};

use regular::Absent;

use crate::read::{InputFormat, ListKind, is_shard_name};
use recaption_store::{Folder, Location, StoreError, StoreKind, Stores};

/// Requests in flight while sizes and entity tags are asked for.
const HEAD_CONCURRENCY: usize = 32;
/// Shards in one folder from which on the folder is listed.
const MANY: usize = 64;

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
    /// Whether that is an entity tag, which a request may be made to depend on.
    pub tagged: bool,
    /// Time of the last change, where the store knows it.
    pub modified: Option<DateTime<Utc>>,
    /// Why it could not even be looked at, when it could not.
    pub missing: Option<String>,
    /// Whether that is because there is nothing that could be read: no object, no regular file.
    pub absent: bool,
    /// The files of a folder of images, by name; of everything else none.
    pub files: Option<Arc<FolderFiles>>,
    /// Of a list that was split, which part it is.
    pub part: Option<Part>,
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
                Self {
                    location,
                    url,
                    id,
                    size: meta.size,
                    etag: Some(etag),
                    tagged: meta.e_tag.is_some(),
                    modified,
                    missing: None,
                    absent: false,
                    files: None,
                    part: None,
                }
            }
            Err(why) => Self {
                location,
                url,
                id,
                size: 0,
                etag: None,
                tagged: false,
                modified: None,
                missing: Some(why),
                absent: false,
                files: None,
                part: None,
            },
        }
    }

    /// Fingerprint of the input alone: URL, size and entity tag, and which rows of a list that was split. 16 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = format!("{}\n{}\n{}", self.url, self.size, self.etag.as_deref().unwrap_or("-"));
        if let Some(part) = &self.part {
            text.push_str(&format!("\n{}..{}", part.rows.start, part.rows.end));
        }
        sha256_hex(text.as_bytes())[..16].to_owned()
    }

    /// Bytes that reading it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.part.as_ref().map_or(self.size, |part| part.bytes)
    }

    /// The object's name, without folders.
    pub(crate) fn name(&self) -> &str {
        self.location.path.filename().unwrap_or_default()
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
    #[error("input pattern `{pattern}` matches no shard; looked for {looked_for}")]
    Nothing {
        /// The pattern, redacted.
        pattern: String,
        /// What would have been taken.
        looked_for: &'static str,
    },
    /// None of the shards can be looked at.
    #[error("none of the {shards} input shards can be found; the first, {url}: {why}")]
    AllMissing {
        /// How many.
        shards: usize,
        /// URL of the first one, redacted.
        url: String,
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

/// Lists all shards that the patterns name, in order, each once. An entry of a folder that cannot be listed is left out.
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
    let mut seen: HashMap<String, Arc<dyn ObjectStore>> = HashMap::new();
    let mut ids = HashMap::new();
    for pattern in &patterns {
        let found = list_pattern(stores, pattern, format).await?;
        if found.is_empty() {
            let looked_for = folder::looked_for(format);
            return Err(ListError::Nothing { pattern: redact_url(pattern), looked_for });
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
    match shards.first().and_then(|s| Some((s.url.clone(), s.missing.clone()?))) {
        Some((url, why)) if shards.iter().all(|s| s.missing.is_some()) => {
            Err(ListError::AllMissing { shards: shards.len(), url, why })
        }
        _ => Ok(shards),
    }
}

async fn list_pattern(
    stores: &mut Stores,
    pattern: &str,
    format: InputFormat,
) -> Result<Vec<ShardRef>, ListError> {
    let bad = |what: String| ListError::Pattern { pattern: redact_url(pattern), what };
    let mut plain = Vec::new();
    let mut shards = Vec::new();
    // A file whose name looks like a pattern is still that file.
    let names =
        if is_there(pattern) { vec![pattern.to_owned()] } else { expand_braces(pattern).map_err(bad)? };
    for name in names {
        // In a web address `?` begins the query, so only `*` and `[` are wildcards there.
        let web = name.starts_with("http://") || name.starts_with("https://");
        let wild = if web {
            name.split('?').next().unwrap_or_default().contains(['*', '['])
        } else {
            name.contains(['*', '?', '['])
        };
        if wild && !is_there(&name) {
            if web {
                return Err(bad(
                    "a web server cannot be listed; name the shards, or give a range like {00000..00099}"
                        .into(),
                ));
            }
            shards.extend(glob::list(stores, &name).await?);
        } else if is_folder(&name) || (format == InputFormat::Folder && !web) {
            if web {
                return Err(bad("a web server cannot be listed; name the shards".into()));
            }
            let folder = stores.locate(&name)?;
            shards.extend(folder::list(&folder, format).await?);
        } else {
            plain.push(stores.locate(&name)?);
        }
    }
    for shard in look_up(plain).await {
        // A bucket has no folders: a name that is no object may be the beginning of many.
        let is_file = is_shard_name(shard.name()) || ListKind::of_name(shard.name()).is_some();
        let can_list = matches!(shard.location.kind, StoreKind::Bucket | StoreKind::Hub);
        let may_be_folder = shard.missing.is_some() && can_list && !is_file;
        let below = if may_be_folder { folder::list(&shard.location, format).await.ok() } else { None };
        match below.filter(|below| !below.is_empty()) {
            Some(below) => shards.extend(below),
            None => shards.push(shard),
        }
    }
    Ok(shards)
}

/// Whether a path is that of a file or folder, whatever its name looks like.
fn is_there(name: &str) -> bool {
    !name.contains("://") && std::path::Path::new(name).exists()
}

/// Whether a name says that it is a folder: by its end, as a bucket, or because it is one on this machine.
fn is_folder(name: &str) -> bool {
    match name.split_once("://") {
        None => name.ends_with('/') || std::path::Path::new(name).is_dir(),
        Some((scheme, rest)) => {
            let parts = rest.split('/').count();
            let is_whole = match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" | "file" => false,
                // datasets/ORG/NAME
                "hf" => parts == 3,
                _ => parts == 1 && !rest.is_empty(),
            };
            name.ends_with('/') || is_whole
        }
    }
}

/// Shards by name, with what their stores know of them. Of many in one folder of a bucket the folder is listed: a thousand
/// to a request, and not one.
async fn look_up(plain: Vec<Location>) -> Vec<ShardRef> {
    let mut counts: HashMap<Folder, (usize, Location)> = HashMap::new();
    for location in plain.iter().filter(|l| matches!(l.kind, StoreKind::Bucket | StoreKind::Hub)) {
        let key = location.folder();
        let place = location.at(key.1.clone());
        counts.entry(key).or_insert((0, place)).0 += 1;
    }
    let mut listed: HashMap<Folder, HashMap<Path, ObjectMeta>> = HashMap::new();
    for (key, (_, place)) in counts.into_iter().filter(|(_, (count, _))| *count >= MANY) {
        // One that cannot be listed may still be read by name.
        if let Ok(found) = place.store.list_with_delimiter(Some(&place.path)).await {
            let metas = found.objects.into_iter().map(|meta| (meta.location.clone(), meta));
            listed.insert(key, metas.collect());
        }
    }
    let known = plain.into_iter().map(|location| {
        let found = listed.get(&location.folder()).map(|folder| folder.get(&location.path).cloned());
        (location, found)
    });
    stream::iter(known.collect::<Vec<_>>())
        .map(|(location, found)| async move {
            let meta = match found {
                Some(Some(meta)) => Ok(meta),
                // Listings may lag behind: what they do not show is asked for by name.
                Some(None) | None => head(&location).await,
            };
            looked_at(location, meta)
        })
        .buffered(HEAD_CONCURRENCY)
        .collect()
        .await
}

/// A shard, as its store knows it.
fn looked_at(location: Location, meta: Result<ObjectMeta, Absent>) -> ShardRef {
    let absent = meta.as_ref().is_err_and(|error| error.is_absent);
    let shard = ShardRef::new(location, meta.as_ref().map_err(|error| error.why.clone()));
    ShardRef { absent, ..shard }
}

/// Size and entity tag. A web server may refuse HEAD (a presigned GET does): one byte is asked for then.
async fn head(location: &Location) -> Result<ObjectMeta, Absent> {
    regular::check(location).await?;
    let meta = match location.store.head(&location.path).await {
        Ok(meta) => meta,
        Err(_) if location.kind == StoreKind::Http => {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..1)));
            location.store.get_opts(&location.path, options).await.map(|r| r.meta)?
        }
        Err(error) => return Err(error.into()),
    };
    unversioned::tagged(location, meta).await
}

#[cfg(test)]
mod tests {
    use super::is_folder;

    #[test]
    fn buckets_and_datasets_are_folders_as_they_are() {
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
