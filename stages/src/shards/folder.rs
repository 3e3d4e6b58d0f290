//! What a folder holds: shards, lists of addresses, or images.

use std::{collections::BTreeMap, sync::Arc};

use object_store::{ObjectMeta, path::Path};
use recaption_schemas::{ShardId, sha256_hex};

use super::{ListError, ShardRef};
use crate::{
    read::{
        InputFormat, ListKind, METADATA_FILE, is_image_name, is_list_name, is_parquet_name, is_shard_name,
    },
    store::Location,
    webdataset::{CAPTION_SUFFIXES, JSON_SUFFIX},
};

/// What else may tell of the files of Hugging Face's imagefolder, and is not read.
const UNREAD_METADATA: [&str; 2] = ["metadata.csv", "metadata.parquet"];

/// What is looked for in a folder, for the error where nothing is found.
pub fn looked_for(format: InputFormat) -> &'static str {
    match format {
        InputFormat::Auto => {
            ".tar, .tar.gz, .tgz, .tar.zst and .parquet files, lists of addresses (.csv, .tsv, .jsonl), images"
        }
        InputFormat::Webdataset => ".tar, .tar.gz, .tgz and .tar.zst files",
        InputFormat::Parquet => ".parquet files",
        InputFormat::UrlList => ".csv, .tsv, .jsonl, .txt and .parquet files",
        InputFormat::Folder => "images",
    }
}

/// The shards of a folder: files directly in it, else folders of images at any depth.
pub async fn list(folder: &Location, format: InputFormat) -> Result<Vec<ShardRef>, ListError> {
    let mut files = folder.list().await?;
    files.retain(|meta| meta.location.filename().is_some_and(|name| !name.starts_with('.')));
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let direct = |fits: fn(&str) -> bool| -> Vec<ShardRef> {
        let fitting = files.iter().filter(|meta| {
            parent(&meta.location) == folder.path && meta.location.filename().is_some_and(fits)
        });
        fitting.map(|meta| ShardRef::new(folder.at(meta.location.clone()), Ok(meta))).collect()
    };
    Ok(match format {
        InputFormat::Webdataset => direct(|name| is_shard_name(name) && !is_parquet_name(name)),
        InputFormat::Parquet => direct(is_parquet_name),
        InputFormat::UrlList => direct(|name| ListKind::of_name(name).is_some() || is_parquet_name(name)),
        InputFormat::Folder => images(folder, files),
        InputFormat::Auto => {
            let tars = direct(|name| is_shard_name(name) && !is_parquet_name(name));
            let tables = direct(is_parquet_name);
            if !tars.is_empty() {
                if !tables.is_empty() {
                    // img2dataset writes what it knows of a tar's images beside the tar.
                    tracing::info!(
                        files = tables.len(),
                        "Parquet files beside tars are left alone; input.format takes them"
                    );
                }
                return Ok(tars);
            }
            let of_their_own = direct(|name| is_parquet_name(name) && !UNREAD_METADATA.contains(&name));
            if !of_their_own.is_empty() {
                return Ok(tables);
            }
            let lists = direct(|name| is_list_name(name) && name != METADATA_FILE);
            // What lies beside images is about them.
            let found = [images(folder, files), tables, lists];
            found.into_iter().find(|shards| !shards.is_empty()).unwrap_or_default()
        }
    })
}

fn parent(path: &Path) -> Path {
    let mut parts: Vec<_> = path.parts().collect();
    parts.pop();
    Path::from_iter(parts)
}

/// One shard per folder that directly holds an image. `files` are sorted.
fn images(folder: &Location, files: Vec<ObjectMeta>) -> Vec<ShardRef> {
    let mut folders: BTreeMap<Path, Vec<ObjectMeta>> = BTreeMap::new();
    let mut unread = None;
    for meta in files {
        if meta.location.filename().is_some_and(|name| UNREAD_METADATA.contains(&name)) {
            unread = unread.or_else(|| Some(meta.location.to_string()));
        }
        if meta.location.filename().is_some_and(belongs) {
            folders.entry(parent(&meta.location)).or_default().push(meta);
        }
    }
    folders.retain(|_, files| files.iter().any(|meta| is_image_name(meta.location.as_ref())));
    if let Some(file) = unread.filter(|_| !folders.is_empty()) {
        tracing::warn!(file, "captions beside images are not read from it, only from {METADATA_FILE}");
    }
    folders.into_iter().map(|(path, files)| shard(folder.at(path), files)).collect()
}

/// Whether a file is an image, something about one, or about all.
fn belongs(name: &str) -> bool {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix.to_lowercase()).unwrap_or_default();
    is_image_name(name)
        || suffix == JSON_SUFFIX
        || CAPTION_SUFFIXES.contains(&suffix.as_str())
        || name == METADATA_FILE
}

fn shard(location: Location, files: Vec<ObjectMeta>) -> ShardRef {
    let url = format!("{}/", location.url());
    let mut text = String::new();
    for meta in &files {
        let etag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        text.push_str(&format!("{}\n{}\n{etag}\n", meta.location, meta.size));
    }
    ShardRef {
        id: ShardId::from_url(&url),
        url,
        location,
        size: files.iter().map(|meta| meta.size).sum(),
        etag: Some(sha256_hex(text.as_bytes())),
        // Of the files together; each has its own.
        tagged: false,
        modified: files.iter().map(|meta| meta.last_modified).max(),
        missing: None,
        absent: false,
        files: Some(Arc::new(files)),
        part: None,
    }
}
