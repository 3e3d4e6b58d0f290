//! A folder -> the shards in it: tars, Parquet files, lists of URLs, or images.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use object_store::{ObjectMeta, path::Path};
use recaption_store::Location;

use super::{FileRole, FolderFiles, ListError, MetadataFile, ShardRef, probe::is_image_file};
use crate::{
    format::{
        InputFormat, ListKind, MetadataKind, is_image_name, is_list_name, is_parquet_name, is_shard_name,
    },
    webdataset::{CAPTION_SUFFIXES, JSON_SUFFIX, split_stem},
};

/// Folders that tools create, in any case. Those that begin with a dot are hidden anyway.
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
/// Suffixes of files that are not images and need not be opened.
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
/// Most files of a folder that are opened to find an image, where no name has an image suffix.
const MAX_PROBES: usize = 64;
/// Most files that are opened in all folders together.
const MAX_PROBES_TOTAL: usize = 4096;
/// Folders probed at the same time.
const CONCURRENT_PROBES: usize = 16;

/// Describes the files that are looked for in a folder.
pub(super) fn looked_for(format: InputFormat) -> &'static str {
    match format {
        InputFormat::Auto => {
            ".tar, .tar.gz, .tgz, .tar.zst and .parquet files, lists of URLs (.csv, .tsv, .jsonl), images"
        }
        InputFormat::Webdataset => ".tar, .tar.gz, .tgz and .tar.zst files",
        InputFormat::Parquet => ".parquet files",
        InputFormat::UrlList => ".csv, .tsv, .jsonl, .txt and .parquet files",
        InputFormat::Folder => "images",
    }
}

/// The files of a folder and of all folders below.
struct FolderListing<'a> {
    folder: &'a Location,
    /// Sorted.
    files: Vec<ObjectMeta>,
    /// Ignored files: the folder that they count for, and the reason.
    ignored: Vec<(Path, &'static str)>,
}

impl<'a> FolderListing<'a> {
    async fn list(folder: &'a Location) -> Result<Self, ListError> {
        let mut listing = Self { folder, files: Vec::new(), ignored: Vec::new() };
        for meta in folder.list().await? {
            match listing.ignored_reason(&meta.location) {
                Some(ignored) => listing.ignored.push(ignored),
                None => listing.files.push(meta),
            }
        }
        listing.files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(listing)
    }

    /// Returns the folder for which a file counts as ignored, and the reason: it is hidden, or in a folder that is hidden or
    /// that a tool made. The reasons are keys of commit records.
    fn ignored_reason(&self, path: &Path) -> Option<(Path, &'static str)> {
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

    /// Returns a shard for each file directly in the folder whose name matches.
    fn shards_by_name(&self, matches: impl Fn(&str) -> bool) -> Vec<ShardRef> {
        let matching = self.files.iter().filter(|meta| {
            parent(&meta.location) == self.folder.path && meta.location.filename().is_some_and(&matches)
        });
        matching.map(|meta| ShardRef::of_object(self.folder.at(meta.location.clone()), meta)).collect()
    }

    fn has_image_name(&self) -> bool {
        self.files.iter().any(|meta| is_image_name(meta.location.as_ref()))
    }

    /// Returns a shard for each folder that directly holds an image.
    async fn image_folders(&self) -> Vec<ShardRef> {
        let mut folders: BTreeMap<Path, FolderFiles> = BTreeMap::new();
        let mut metadata: Vec<MetadataFile> = Vec::new();
        for meta in &self.files {
            let (folder, name) = (parent(&meta.location), meta.location.filename().unwrap_or_default());
            if let Some(kind) = MetadataKind::of_name(name) {
                metadata.push(MetadataFile {
                    meta: meta.clone(),
                    kind,
                    relative_path: String::new(),
                    is_counted: false,
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
        for (folder, reason) in &self.ignored {
            // Counted once, for the nearest enclosing folder that is a shard.
            let shard = ancestors(folder).find(|ancestor| folders.contains_key(ancestor));
            if let Some(files) = shard.and_then(|shard| folders.get_mut(&shard)) {
                files.ignore(reason, 1);
            }
        }
        distribute_metadata(&mut folders, metadata);
        folders.into_iter().map(|(path, files)| ShardRef::of_folder(self.folder.at(path), files)).collect()
    }

    /// Removes the folders without an image. Where no file has an image suffix, the first bytes of unknown files are read.
    async fn keep_image_folders(&self, folders: &mut BTreeMap<Path, FolderFiles>) {
        let (mut remaining, mut probes) = (MAX_PROBES_TOTAL, Vec::new());
        for (folder, files) in folders.iter() {
            if files.files.iter().any(|(role, _)| *role == FileRole::Image) {
                continue;
            }
            let unknown = files.files.iter().filter(|(role, _)| *role == FileRole::Unknown);
            let unknown: Vec<ObjectMeta> =
                unknown.take(MAX_PROBES.min(remaining)).map(|(_, meta)| meta.clone()).collect();
            remaining -= unknown.len();
            probes.push((folder.clone(), unknown));
        }
        let probes = probes.into_iter().map(|(folder, files)| async move {
            for meta in files {
                // A file that cannot be read is no evidence.
                if is_image_file(self.folder, &meta).await.unwrap_or(false) {
                    return None;
                }
            }
            Some(folder)
        });
        let without_image: Vec<Option<Path>> =
            stream::iter(probes).buffer_unordered(CONCURRENT_PROBES).collect().await;
        for folder in without_image.into_iter().flatten() {
            folders.remove(&folder);
        }
        if remaining == 0 {
            let folder = self.folder.url();
            tracing::warn!(
                folder,
                "too many files without an image suffix; some folders were not searched for images"
            );
        }
    }
}

/// Lists the shards of a folder: files directly in it, or else folders of images at any depth.
pub(super) async fn list(folder: &Location, format: InputFormat) -> Result<Vec<ShardRef>, ListError> {
    let listing = FolderListing::list(folder).await?;
    let tars = listing.shards_by_name(|name| is_shard_name(name) && !is_parquet_name(name));
    let tables = listing.shards_by_name(is_parquet_name);
    let (contents, shards) = match format {
        InputFormat::Webdataset => ("tars", tars.clone()),
        InputFormat::Parquet => ("Parquet files", tables.clone()),
        InputFormat::UrlList => {
            let lists =
                listing.shards_by_name(|name| ListKind::of_name(name).is_some() || is_parquet_name(name));
            ("lists of URLs", lists)
        }
        InputFormat::Folder => ("folders of images", listing.image_folders().await),
        InputFormat::Auto if !tars.is_empty() => ("tars", tars.clone()),
        InputFormat::Auto => detect_contents(&listing, &tables).await,
    };
    if !shards.is_empty() {
        log_contents(&listing, (contents, &shards), (&tars, &tables));
    }
    Ok(shards)
}

/// Detects what a folder without tars holds. Tables and lists beside images are about them, so that images come first.
async fn detect_contents(listing: &FolderListing<'_>, tables: &[ShardRef]) -> (&'static str, Vec<ShardRef>) {
    let lists = || listing.shards_by_name(|name| is_list_name(name) && MetadataKind::of_name(name).is_none());
    if listing.has_image_name() {
        return ("folders of images", listing.image_folders().await);
    }
    // Files are opened only if no name is conclusive.
    if !tables.is_empty() {
        return ("Parquet files", tables.to_vec());
    }
    let lists = lists();
    if !lists.is_empty() {
        return ("lists of URLs", lists);
    }
    ("folders of images", listing.image_folders().await)
}

/// Logs what a folder was found to hold, and what of it is ignored.
fn log_contents(
    listing: &FolderListing<'_>,
    (contents, shards): (&str, &[ShardRef]),
    (tars, tables): (&[ShardRef], &[ShardRef]),
) {
    let images = listing.files.iter().filter(|meta| is_image_name(meta.location.as_ref())).count();
    let lists =
        listing.shards_by_name(|name| is_list_name(name) && MetadataKind::of_name(name).is_none()).len();
    let is_metadata = |shard: &ShardRef| MetadataKind::of_name(shard.name()).is_some();
    let tables = tables.iter().filter(|table| !is_metadata(table)).count();
    let ignored: Vec<String> = [
        ("tars", tars.len(), "tars"),
        ("Parquet files", tables, "Parquet files"),
        ("lists of URLs", lists, "lists"),
        ("folders of images", images, "images"),
    ]
    .into_iter()
    .filter(|(of, n, _)| *of != contents && *n > 0)
    .map(|(_, n, what)| format!("{n} {what}"))
    .collect();
    let (folder, hidden_files) = (listing.folder.url(), listing.ignored.len());
    tracing::info!(
        folder,
        contents,
        shards = shards.len(),
        ignored = if ignored.is_empty() { "nothing".to_owned() } else { ignored.join(", ") },
        hidden_files,
        "detected the contents of a folder; set the input format to choose otherwise"
    );
}

fn parent(path: &Path) -> Path {
    let mut parts: Vec<_> = path.parts().collect();
    parts.pop();
    Path::from_iter(parts)
}

/// Returns a folder and its ancestors, the innermost first.
fn ancestors(path: &Path) -> impl Iterator<Item = Path> {
    let parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    (0..=parts.len()).rev().map(move |n| Path::parse(parts[..n].join("/")).unwrap_or_default())
}

/// Returns the role of a file in a folder of images, by its name; `None` if it has none.
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

/// Assigns to every folder of images the metadata files in it and in its ancestors, the nearest first.
fn distribute_metadata(folders: &mut BTreeMap<Path, FolderFiles>, mut metadata: Vec<MetadataFile>) {
    // The innermost first; within one folder JSON lines before the others.
    let depth = |file: &MetadataFile| file.meta.location.parts().count();
    metadata.sort_by(|a, b| {
        depth(b).cmp(&depth(a)).then_with(|| (a.kind, &a.meta.location).cmp(&(b.kind, &b.meta.location)))
    });
    for file in metadata {
        let folder = parent(&file.meta.location);
        // Its malformed rows count for the first folder that it describes.
        let mut is_counted = true;
        for (path, files) in folders.iter_mut() {
            let Some(below) = path.prefix_match(&folder) else { continue };
            let relative_path: String = below.map(|part| format!("{}/", part.as_ref())).collect();
            files.metadata.push(MetadataFile { relative_path, is_counted, ..file.clone() });
            is_counted = false;
        }
    }
}
