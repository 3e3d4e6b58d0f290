//! What a folder holds: shards, lists of addresses, or images.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use object_store::{ObjectMeta, path::Path};
use recaption_schemas::{ShardId, sha256_hex};

use super::{FileRole, FolderFiles, ListError, MetadataFile, ShardRef};
use crate::{
    read::{
        InputFormat, ListKind, MetadataKind, is_image_name, is_list_name, is_parquet_name, is_shard_name,
        looks_like_image,
    },
    webdataset::{CAPTION_SUFFIXES, JSON_SUFFIX, split_stem},
};
use recaption_store::Location;

/// Folders that tools make for themselves, in any case. Those that begin with a dot are hidden anyway.
const TOOL_FOLDERS: [&str; 8] = [
    "@eadir",
    "__macosx",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
];
/// Suffixes of files that are no images, so that nobody has to look into them.
const OTHER_SUFFIXES: [&str; 47] = [
    "parquet",
    "csv",
    "tsv",
    "jsonl",
    "ndjson",
    "tar",
    "gz",
    "tgz",
    "zst",
    "zip",
    "7z",
    "rar",
    "md",
    "rst",
    "html",
    "htm",
    "xml",
    "yaml",
    "yml",
    "toml",
    "ini",
    "log",
    "py",
    "ipynb",
    "sh",
    "js",
    "css",
    "pdf",
    "doc",
    "docx",
    "xls",
    "xlsx",
    "npy",
    "npz",
    "pt",
    "pth",
    "safetensors",
    "pkl",
    "h5",
    "arrow",
    "mp4",
    "mov",
    "avi",
    "mkv",
    "webm",
    "mp3",
    "wav",
];
/// Files of a folder that are looked into to find whether it is one of images, at most, where no name says it.
const MOST_LOOKED: usize = 64;
/// The same of all folders together.
const MOST_LOOKED_ALL: usize = 4096;
/// Files looked into at the same time.
const AT_ONCE: usize = 16;

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

/// The files of a folder and of those below.
struct Found<'a> {
    folder: &'a Location,
    /// Sorted.
    files: Vec<ObjectMeta>,
    /// Files that are passed over, with the folder that they count for.
    ignored: Vec<(Path, &'static str)>,
}

impl<'a> Found<'a> {
    async fn list(folder: &'a Location) -> Result<Self, ListError> {
        let mut found = Self { folder, files: Vec::new(), ignored: Vec::new() };
        for meta in folder.list().await? {
            match found.passed_over(&meta.location) {
                Some(ignored) => found.ignored.push(ignored),
                None => found.files.push(meta),
            }
        }
        found.files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// Whether a file is hidden, or lies in a folder that is or that a tool made; then where it counts, and why.
    fn passed_over(&self, path: &Path) -> Option<(Path, &'static str)> {
        let mut at = self.folder.path.clone();
        let below: Vec<_> = path.prefix_match(&self.folder.path)?.collect();
        let (name, folders) = below.split_last()?;
        for part in folders {
            if part.as_ref().starts_with('.') {
                return Some((at, "in a hidden folder"));
            }
            if TOOL_FOLDERS.contains(&part.as_ref().to_lowercase().as_str()) {
                return Some((at, "in a folder of a tool"));
            }
            at = at.join(part.clone());
        }
        name.as_ref().starts_with('.').then_some((at, "hidden"))
    }

    /// Shards directly in the folder.
    fn direct(&self, fits: impl Fn(&str) -> bool) -> Vec<ShardRef> {
        let fitting = self.files.iter().filter(|meta| {
            parent(&meta.location) == self.folder.path && meta.location.filename().is_some_and(&fits)
        });
        fitting.map(|meta| ShardRef::new(self.folder.at(meta.location.clone()), Ok(meta))).collect()
    }

    fn has_image_name(&self) -> bool {
        self.files.iter().any(|meta| is_image_name(meta.location.as_ref()))
    }

    /// One shard per folder that directly holds an image.
    async fn images(&self) -> Vec<ShardRef> {
        let mut folders: BTreeMap<Path, FolderFiles> = BTreeMap::new();
        let mut metadata: Vec<MetadataFile> = Vec::new();
        for meta in &self.files {
            let (folder, name) = (parent(&meta.location), meta.location.filename().unwrap_or_default());
            if let Some(kind) = MetadataKind::of_name(name) {
                metadata.push(MetadataFile {
                    meta: meta.clone(),
                    kind,
                    below: String::new(),
                    counted: false,
                });
                continue;
            }
            let files = folders.entry(folder).or_default();
            match role(name) {
                Some(role) => files.files.push((role, meta.clone())),
                None => files.ignore("no image by its name", 1),
            }
        }
        self.keep_image_folders(&mut folders).await;
        for (folder, why) in &self.ignored {
            // Counted once, for the nearest folder around that is a shard.
            let around = ancestors(folder).find(|around| folders.contains_key(around));
            if let Some(files) = around.and_then(|around| folders.get_mut(&around)) {
                files.ignore(why, 1);
            }
        }
        spread(&mut folders, metadata);
        folders.into_iter().map(|(path, files)| shard(self.folder.at(path), files)).collect()
    }

    /// Keeps the folders that hold an image, by a name or, where no name says so, by content.
    async fn keep_image_folders(&self, folders: &mut BTreeMap<Path, FolderFiles>) {
        let (mut left, mut looks) = (MOST_LOOKED_ALL, Vec::new());
        for (folder, files) in folders.iter() {
            if files.files.iter().any(|(role, _)| *role == FileRole::Image) {
                continue;
            }
            let unknown = files.files.iter().filter(|(role, _)| *role == FileRole::Unknown);
            let unknown: Vec<ObjectMeta> =
                unknown.take(MOST_LOOKED.min(left)).map(|(_, meta)| meta.clone()).collect();
            left -= unknown.len();
            looks.push((folder.clone(), unknown));
        }
        let looks = looks.into_iter().map(|(folder, files)| async move {
            for meta in files {
                // What cannot be looked into says nothing of its folder.
                if looks_like_image(self.folder, &meta).await.unwrap_or(false) {
                    return None;
                }
            }
            Some(folder)
        });
        let none: Vec<Option<Path>> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        for folder in none.into_iter().flatten() {
            folders.remove(&folder);
        }
        if left == 0 {
            let folder = self.folder.url();
            tracing::warn!(
                folder,
                "too many files without an image's suffix: some folders were not looked into"
            );
        }
    }
}

/// The shards of a folder: files directly in it, else folders of images at any depth.
pub async fn list(folder: &Location, format: InputFormat) -> Result<Vec<ShardRef>, ListError> {
    let found = Found::list(folder).await?;
    let tars = found.direct(|name| is_shard_name(name) && !is_parquet_name(name));
    let tables = found.direct(is_parquet_name);
    let (taken, shards) = match format {
        InputFormat::Webdataset => ("tars", tars.clone()),
        InputFormat::Parquet => ("Parquet files", tables.clone()),
        InputFormat::UrlList => {
            let lists = found.direct(|name| ListKind::of_name(name).is_some() || is_parquet_name(name));
            ("lists of addresses", lists)
        }
        InputFormat::Folder => ("folders of images", found.images().await),
        InputFormat::Auto if !tars.is_empty() => ("tars", tars.clone()),
        InputFormat::Auto => choose(&found, &tables).await,
    };
    if !shards.is_empty() {
        say(&found, (taken, &shards), (&tars, &tables));
    }
    Ok(shards)
}

/// What lies beside images is about them: a folder of images with tables beside it is one of images.
async fn choose(found: &Found<'_>, tables: &[ShardRef]) -> (&'static str, Vec<ShardRef>) {
    let lists = || found.direct(|name| is_list_name(name) && MetadataKind::of_name(name).is_none());
    if found.has_image_name() {
        return ("folders of images", found.images().await);
    }
    // Nothing is looked into where names say enough.
    if !tables.is_empty() {
        return ("Parquet files", tables.to_vec());
    }
    let lists = lists();
    if !lists.is_empty() {
        return ("lists of addresses", lists);
    }
    ("folders of images", found.images().await)
}

/// Says what a folder is taken for, and what of it is left alone.
fn say(found: &Found<'_>, (taken, shards): (&str, &[ShardRef]), (tars, tables): (&[ShardRef], &[ShardRef])) {
    let images = found.files.iter().filter(|meta| is_image_name(meta.location.as_ref())).count();
    let lists = found.direct(|name| is_list_name(name) && MetadataKind::of_name(name).is_none()).len();
    let is_metadata = |shard: &ShardRef| MetadataKind::of_name(shard.name()).is_some();
    let tables = tables.iter().filter(|table| !is_metadata(table)).count();
    let left: Vec<String> = [
        ("tars", tars.len(), "tars"),
        ("Parquet files", tables, "Parquet files"),
        ("lists of addresses", lists, "lists"),
        ("folders of images", images, "images"),
    ]
    .into_iter()
    .filter(|(of, n, _)| *of != taken && *n > 0)
    .map(|(_, n, what)| format!("{n} {what}"))
    .collect();
    let (folder, count, passed_over) = (found.folder.url(), shards.len(), found.ignored.len());
    tracing::info!(
        folder,
        taken_for = taken,
        shards = count,
        left_alone = if left.is_empty() { "nothing".to_owned() } else { left.join(", ") },
        hidden_files = passed_over,
        "a folder is taken for what it holds; input.format chooses otherwise"
    );
}

fn parent(path: &Path) -> Path {
    let mut parts: Vec<_> = path.parts().collect();
    parts.pop();
    Path::from_iter(parts)
}

/// A folder and those around it, from the inside.
fn ancestors(path: &Path) -> impl Iterator<Item = Path> {
    let parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    (0..=parts.len()).rev().map(move |n| Path::parse(parts[..n].join("/")).unwrap_or_default())
}

/// What a file of a folder of images is, by its name.
fn role(name: &str) -> Option<FileRole> {
    let (_, suffix) = split_stem(name);
    let suffix = suffix.as_str();
    if is_image_name(name) {
        Some(FileRole::Image)
    } else if suffix == JSON_SUFFIX || CAPTION_SUFFIXES.contains(&suffix) {
        Some(FileRole::Sidecar)
    } else {
        (!OTHER_SUFFIXES.contains(&suffix)).then_some(FileRole::Unknown)
    }
}

/// Gives every folder of images the metadata files of its own and of those around it, the nearest first.
fn spread(folders: &mut BTreeMap<Path, FolderFiles>, mut metadata: Vec<MetadataFile>) {
    // The innermost first; in one folder JSON before the others.
    let depth = |file: &MetadataFile| file.meta.location.parts().count();
    metadata.sort_by(|a, b| {
        depth(b).cmp(&depth(a)).then_with(|| (a.kind, &a.meta.location).cmp(&(b.kind, &b.meta.location)))
    });
    for file in metadata {
        let folder = parent(&file.meta.location);
        // What cannot be read in it counts for the first shard that it speaks of.
        let mut counted = true;
        for (path, files) in folders.iter_mut() {
            let Some(below) = path.prefix_match(&folder) else { continue };
            let below: String = below.map(|part| format!("{}/", part.as_ref())).collect();
            files.metadata.push(MetadataFile { below, counted, ..file.clone() });
            counted = false;
        }
    }
}

fn shard(location: Location, files: FolderFiles) -> ShardRef {
    let url = format!("{}/", location.url());
    let all = || files.files.iter().map(|(_, meta)| meta).chain(files.metadata.iter().map(|file| &file.meta));
    let mut text = String::new();
    for meta in all() {
        let etag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        text.push_str(&format!("{}\n{}\n{etag}\n", meta.location, meta.size));
    }
    ShardRef {
        id: ShardId::from_url(&url),
        url,
        location,
        size: files.files.iter().map(|(_, meta)| meta.size).sum(),
        etag: Some(sha256_hex(text.as_bytes())),
        // Of the files together; each has its own.
        tagged: false,
        modified: all().map(|meta| meta.last_modified).max(),
        missing: None,
        absent: false,
        files: Some(Arc::new(files)),
        part: None,
    }
}
