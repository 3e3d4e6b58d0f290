//! The files of a folder of images.

use std::collections::BTreeMap;

use object_store::ObjectMeta;

use crate::read::MetadataKind;

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// An image.
    Image,
    /// A caption, or JSON, that may belong to an image.
    Sidecar,
    /// Its name does not say: whether it is an image is found by its content.
    Unknown,
}

/// A metadata file that speaks of a folder's images.
#[derive(Clone, Debug)]
pub struct MetadataFile {
    /// The file.
    pub meta: ObjectMeta,
    /// Its form.
    pub kind: MetadataKind,
    /// The path from its folder to that of the images, with a slash at its end where it is not empty.
    pub below: String,
    /// Whether what cannot be read in it counts for this folder: it speaks of several.
    pub counted: bool,
}

/// The files of a folder of images.
#[derive(Clone, Debug, Default)]
pub struct FolderFiles {
    /// Images, what may be one, and what may belong to one, by name.
    pub files: Vec<(FileRole, ObjectMeta)>,
    /// Metadata of this folder and of those around it, the nearest first.
    pub metadata: Vec<MetadataFile>,
    /// Files that are passed over, by reason.
    pub ignored: BTreeMap<String, u64>,
}

impl FolderFiles {
    /// Counts files that are passed over.
    pub fn ignore(&mut self, reason: &str, n: u64) {
        *self.ignored.entry(reason.to_owned()).or_default() += n;
    }
}
