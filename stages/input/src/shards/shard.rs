//! The type that this stage yields: one input shard, with what its store knows of it.

use std::{
    ops::{Deref, Range},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use recaption_schemas::{ShardId, part_url, sha256_hex};
use recaption_store::{Location, StoreKind};

use super::{files::FolderFiles, version::ObjectVersion};

/// One input shard: an object, a part of a list, or a folder of images. Cheap to clone: there may be millions.
#[derive(Clone, Debug)]
pub struct ShardRef(Arc<Shard>);

/// The content of a [`ShardRef`].
#[derive(Clone, Debug)]
pub struct Shard {
    /// Where it is: its object, its list, or its folder.
    pub location: Location,
    /// Canonical URL, redacted.
    pub url: String,
    /// Name of its files in the output.
    pub id: ShardId,
    /// What it is.
    pub source: ShardSource,
}

/// What a shard consists of.
#[derive(Clone, Debug)]
pub enum ShardSource {
    /// One object: a tar, a Parquet file, or a list that is read whole.
    Object(ObjectVersion),
    /// Some rows of a list that was split. The list's other parts are other shards.
    ListPart {
        /// The list.
        list: ObjectVersion,
        /// Which rows.
        part: Box<ListPart>,
    },
    /// The files directly in a folder of images.
    Folder {
        /// The files, by name.
        files: Arc<FolderFiles>,
        /// Size, time and digest of all of them together.
        version: ObjectVersion,
    },
    /// A shard whose object could not be looked up.
    Unavailable {
        /// The error of its store.
        error: Box<LookupError>,
        /// Its version, if only a later look at it failed.
        version: Option<ObjectVersion>,
    },
}

/// Why a shard's object could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LookupError {
    /// The store's message, redacted.
    pub message: String,
    /// Whether there is nothing to read: no object, or not a regular file. Otherwise it may exist.
    pub is_missing: bool,
}

/// Some rows of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPart {
    /// Number of the part, from 0.
    pub number: usize,
    /// Rows of the list, from 0.
    pub rows: Range<u64>,
    /// Bytes that are read for it.
    pub bytes: u64,
    /// Its bytes in a list in text; `None` in Parquet.
    pub text: Option<TextRange>,
}

/// Where the rows of a part are in a list in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRange {
    /// Bytes of the list up to the end of its header row.
    pub header_bytes: u64,
    /// Bytes of the rows.
    pub bytes: Range<u64>,
}

impl Deref for ShardRef {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.0
    }
}

impl ShardRef {
    /// Creates the shard of an object or a folder.
    pub(super) fn new(location: Location, source: ShardSource) -> Self {
        let url = match source {
            ShardSource::Folder { .. } => format!("{}/", location.url()),
            _ => location.url(),
        };
        Self::of_url(location, url, source)
    }

    fn of_url(location: Location, mut url: String, source: ShardSource) -> Self {
        url.shrink_to_fit();
        Self(Arc::new(Shard { id: ShardId::from_url(&url), location, url, source }))
    }

    /// Creates the shard of an object.
    #[must_use]
    pub fn of_object(location: Location, meta: &ObjectMeta) -> Self {
        let version = ObjectVersion::of_meta(meta, location.kind);
        Self::new(location, ShardSource::Object(version))
    }

    /// Creates the shard of an object in the store of `folder`, without a copy of what a listing returned.
    pub(super) fn of_listed(folder: &Location, meta: ObjectMeta) -> Self {
        let version = ObjectVersion::of_listed(&meta.last_modified, meta.size, meta.e_tag, folder.kind);
        Self::new(folder.at(meta.location), ShardSource::Object(version))
    }

    /// Creates the shard of a folder of images.
    pub(super) fn of_folder(location: Location, files: FolderFiles) -> Self {
        let version = files.version();
        Self::new(location, ShardSource::Folder { files: Arc::new(files), version })
    }

    /// Creates a shard whose object could not be looked up.
    pub(super) fn unavailable(location: Location, error: LookupError) -> Self {
        Self::new(location, ShardSource::Unavailable { error: Box::new(error), version: None })
    }

    /// Returns a part of this list. The first has the list's name, so that a list that outgrows one shard keeps it.
    #[must_use]
    pub(crate) fn with_part(&self, list: ObjectVersion, part: ListPart) -> Self {
        let url = part_url(&self.url, part.number);
        let source = ShardSource::ListPart { list, part: Box::new(part) };
        Self::of_url(self.location.clone(), url, source)
    }

    /// Returns this shard, read from another location of the same object: one that is signed anew.
    #[must_use]
    pub fn at(&self, location: Location) -> Self {
        let Shard { url, id, source, .. } = &*self.0;
        Self(Arc::new(Shard { location, url: url.clone(), id: id.clone(), source: source.clone() }))
    }

    /// Returns this shard as one that is unavailable for now.
    #[must_use]
    pub(crate) fn into_unavailable(self, error: LookupError) -> Self {
        let source = ShardSource::Unavailable { error: Box::new(error), version: self.version().cloned() };
        Self(Arc::new(Shard { source, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// Returns the version of the object, the list or the folder's files, if it is known.
    #[must_use]
    pub fn version(&self) -> Option<&ObjectVersion> {
        match &self.source {
            ShardSource::Object(version)
            | ShardSource::ListPart { list: version, .. }
            | ShardSource::Folder { version, .. } => Some(version),
            ShardSource::Unavailable { version, .. } => version.as_ref(),
        }
    }

    /// Returns the size in bytes of the object, the list or the folder's files; 0 if it is unknown.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.version().map_or(0, |version| version.size)
    }

    /// Returns the version tag as records have it, if the version is known.
    #[must_use]
    pub fn tag(&self) -> Option<String> {
        self.version().map(|version| version.tag.to_string())
    }

    /// Returns the time of the last change, if the store knows it.
    #[must_use]
    pub fn modified(&self) -> Option<DateTime<Utc>> {
        self.version().and_then(|version| version.modified)
    }

    /// Returns why the shard cannot be read, if it is unavailable.
    #[must_use]
    pub fn lookup_error(&self) -> Option<&LookupError> {
        match &self.source {
            ShardSource::Unavailable { error, .. } => Some(error),
            ShardSource::Object(_) | ShardSource::ListPart { .. } | ShardSource::Folder { .. } => None,
        }
    }

    /// Returns the rows of a list that are this shard, if it is a part.
    #[must_use]
    pub fn list_part(&self) -> Option<&ListPart> {
        match &self.source {
            ShardSource::ListPart { part, .. } => Some(part),
            ShardSource::Object(_) | ShardSource::Folder { .. } | ShardSource::Unavailable { .. } => None,
        }
    }

    /// Returns the fingerprint of the input alone, over URL, size, version tag and the rows of a part: 16 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let tag = self.tag().unwrap_or_else(|| "-".to_owned());
        let mut text = format!("{}\n{}\n{tag}", self.url, self.size());
        if let Some(part) = self.list_part() {
            text.push_str(&format!("\n{}..{}", part.rows.start, part.rows.end));
        }
        sha256_hex(text.as_bytes())[..16].to_owned()
    }

    /// Returns a URL that names this shard when it is asked for by name, without secrets. See [`Location::locatable_url`].
    #[must_use]
    pub fn locatable_url(&self) -> String {
        let url = self.location.locatable_url();
        match &self.source {
            ShardSource::Folder { .. } => format!("{url}/"),
            ShardSource::ListPart { part, .. } => part_url(&url, part.number),
            ShardSource::Object(_) | ShardSource::Unavailable { .. } => url,
        }
    }

    /// Returns the number of bytes that are read for this shard.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.list_part().map_or_else(|| self.size(), |part| part.bytes)
    }

    /// Returns the entity tag that a request for the shard's bytes can depend on, if there is one. Web servers often reject
    /// their own tags, so that none is sent to them.
    pub(crate) fn precondition(&self) -> Option<String> {
        match self.location.kind {
            StoreKind::Http => None,
            StoreKind::Local | StoreKind::Bucket | StoreKind::Hub => self.version()?.tag.etag(),
        }
    }

    /// Returns the object's name, without folders.
    pub(crate) fn name(&self) -> &str {
        self.location.path.filename().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use recaption_store::Stores;

    use super::*;
    use crate::shards::version::VersionTag;

    #[test]
    fn fingerprints_depend_on_version_and_rows() {
        let version = ObjectVersion { size: 9, tag: VersionTag::Etag("\"e\"".into()), modified: None };
        let location = Stores::default().locate("/data/list.csv").expect("a path");
        let shard = ShardRef::new(location, ShardSource::Object(version.clone()));
        let url = shard.url.clone();
        let fingerprint = |rest: &str| sha256_hex(format!("{url}{rest}").as_bytes())[..16].to_owned();
        assert_eq!(shard.fingerprint(), fingerprint("\n9\n\"e\""));
        let part = ListPart { number: 2, rows: 20..30, bytes: 5, text: None };
        let part = shard.with_part(version, part);
        assert_eq!(part.fingerprint(), fingerprint("#part=2\n9\n\"e\"\n20..30"));
        assert_eq!((part.size(), part.bytes(), part.precondition().as_deref()), (9, 5, Some("\"e\"")));
        let error = LookupError { message: "gone".into(), is_missing: true };
        let unavailable = shard.clone().into_unavailable(error.clone());
        assert_eq!(unavailable.fingerprint(), shard.fingerprint(), "it keeps the version that was seen");
        let never_seen = ShardRef::unavailable(shard.location.clone(), error);
        assert_eq!(never_seen.fingerprint(), fingerprint("\n0\n-"));
    }
}
