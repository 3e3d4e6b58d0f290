//! The files of a folder of images.

use std::collections::BTreeMap;

use object_store::ObjectMeta;
use recaption_schemas::sha256_hex;

use super::version::{ObjectVersion, VersionTag};
use crate::format::MetadataKind;

/// The role of a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// An image.
    Image,
    /// A caption or JSON that may belong to an image.
    Sidecar,
    /// The name does not show whether it is an image; its first bytes do.
    Unknown,
}

/// A metadata file that describes images of a folder.
#[derive(Clone, Debug)]
pub struct MetadataFile {
    /// The file.
    pub meta: ObjectMeta,
    /// Its syntax.
    pub kind: MetadataKind,
    /// Path from its folder to that of the images, with a trailing slash unless it is empty.
    pub relative_path: String,
    /// Whether its malformed rows count for this folder: it may describe several.
    pub is_counted: bool,
}

/// The files directly in a folder of images, with the metadata files that describe them.
#[derive(Clone, Debug, Default)]
pub struct FolderFiles {
    /// Images, files that may be one, and sidecars, by name.
    pub files: Vec<(FileRole, ObjectMeta)>,
    /// Metadata files of this folder and of the folders around it, the nearest first.
    pub metadata: Vec<MetadataFile>,
    /// Number of ignored files, by reason.
    pub ignored: BTreeMap<String, u64>,
}

impl FolderFiles {
    /// Counts ignored files.
    pub(super) fn ignore(&mut self, reason: &str, n: u64) {
        *self.ignored.entry(reason.to_owned()).or_default() += n;
    }

    /// Returns the version of all files together. Its size is that of the files without the metadata files.
    pub(super) fn version(&self) -> ObjectVersion {
        let metadata = self.metadata.iter().map(|file| &file.meta);
        let all = self.files.iter().map(|(_, meta)| meta).chain(metadata);
        let (mut text, mut modified) = (String::new(), None);
        for meta in all {
            let tag = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
            text.push_str(&format!("{}\n{}\n{tag}\n", meta.location, meta.size));
            modified = modified.max(Some(meta.last_modified));
        }
        ObjectVersion {
            size: self.files.iter().map(|(_, meta)| meta.size).sum(),
            tag: VersionTag::Files(sha256_hex(text.as_bytes())),
            modified,
        }
    }
}
