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

    /// Returns the files directly in the folder.
    fn direct(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter_map(|meta| direct_name(&self.folder.path, &meta.location))
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts { hidden_files: self.ignored.len(), ..Counts::default() };
        for name in self.direct() {
            counts.tars += usize::from(is_tar_name(name));
            counts.tables += usize::from(is_parquet_name(name));
            counts.metadata_tables +=
                usize::from(is_parquet_name(name) && MetadataKind::of_name(name).is_some());
            counts.lists += usize::from(is_plain_list(name));
        }
        counts.images = self.files.iter().filter(|meta| is_image_name(meta.location.as_ref())).count();
        counts
    }

    /// Returns a shard for each file directly in the folder whose name matches. A million descriptions are not kept beside a
    /// million shards.
    fn into_shards(self, matches: impl Fn(&str) -> bool) -> Vec<ShardRef> {
        let folder = self.folder;
        let matching = self
            .files
            .into_iter()
            .filter(|meta| direct_name(&folder.path, &meta.location).is_some_and(&matches));
        matching.map(|meta| ShardRef::of_listed(folder, meta)).collect()
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

/// What a folder holds, in files.
#[derive(Default)]
struct Counts {
    /// Directly in it.
    tars: usize,
    tables: usize,
    metadata_tables: usize,
    lists: usize,
    /// At any depth.
    images: usize,
    hidden_files: usize,
}

fn is_tar_name(name: &str) -> bool {
    is_shard_name(name) && !is_parquet_name(name)
}

/// Returns whether a name is that of a list which is not metadata of images.
fn is_plain_list(name: &str) -> bool {
    is_list_name(name) && MetadataKind::of_name(name).is_none()
}

/// Lists the shards of a folder: files directly in it, or else folders of images at any depth.
pub(super) async fn list(folder: &Location, format: InputFormat) -> Result<Vec<ShardRef>, ListError> {
    let listing = FolderListing::list(folder).await?;
    let counts = listing.counts();
    let is_url_list = |name: &str| ListKind::of_name(name).is_some() || is_parquet_name(name);
    let (contents, shards) = match format {
        InputFormat::Webdataset => (TARS, listing.into_shards(is_tar_name)),
        InputFormat::Parquet => (TABLES, listing.into_shards(is_parquet_name)),
        InputFormat::UrlList => (LISTS, listing.into_shards(is_url_list)),
        InputFormat::Folder => (IMAGES, listing.image_folders().await),
        // Tables and lists beside images are about them, so that images come before them. Files are opened only if no name is
        // conclusive.
        InputFormat::Auto if counts.tars > 0 => (TARS, listing.into_shards(is_tar_name)),
        InputFormat::Auto if counts.images > 0 => (IMAGES, listing.image_folders().await),
        InputFormat::Auto if counts.tables > 0 => (TABLES, listing.into_shards(is_parquet_name)),
        InputFormat::Auto if counts.lists > 0 => (LISTS, listing.into_shards(is_plain_list)),
        InputFormat::Auto => (IMAGES, listing.image_folders().await),
    };
    if !shards.is_empty() {
        log_contents(folder, (contents, shards.len()), &counts);
    }
    Ok(shards)
}

/// Contents of a folder, as logs have them.
const TARS: &str = "tars";
const TABLES: &str = "Parquet files";
const LISTS: &str = "lists of URLs";
const IMAGES: &str = "folders of images";

/// Logs what a folder was found to hold, and what of it is ignored.
fn log_contents(folder: &Location, (contents, shards): (&str, usize), counts: &Counts) {
    let ignored: Vec<String> = [
        (TARS, counts.tars, "tars"),
        (TABLES, counts.tables - counts.metadata_tables, "Parquet files"),
        (LISTS, counts.lists, "lists"),
        (IMAGES, counts.images, "images"),
    ]
    .into_iter()
    .filter(|(of, n, _)| *of != contents && *n > 0)
    .map(|(_, n, what)| format!("{n} {what}"))
    .collect();
    tracing::info!(
        folder = folder.url(),
        contents,
        shards,
        ignored = if ignored.is_empty() { "nothing".to_owned() } else { ignored.join(", ") },
        hidden_files = counts.hidden_files,
        "detected the contents of a folder; set the input format to choose otherwise"
    );
}

/// Returns the name of a file directly in a folder.
fn direct_name<'p>(folder: &Path, path: &'p Path) -> Option<&'p str> {
    let name = path.as_ref().strip_prefix(folder.as_ref())?;
    let name = if folder.as_ref().is_empty() { name } else { name.strip_prefix('/')? };
    (!name.is_empty() && !name.contains('/')).then_some(name)
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
