//! Which version of an object is read: its size and tag, by which a change is noticed.

use std::fmt;

use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use recaption_store::StoreKind;

/// Start of a tag that is made of an object's content.
const CONTENT_TAG: &str = "content-sha256:";

/// A version of an object, or of a folder's files together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Size, bytes.
    pub size: u64,
    /// What distinguishes it from other versions.
    pub tag: VersionTag,
    /// Time of the last change, if the store knows it.
    pub modified: Option<DateTime<Utc>>,
}

/// What distinguishes versions of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionTag {
    /// Entity tag of the store.
    Etag(String),
    /// Time of the last change, for a store without entity tags.
    Modified(DateTime<Utc>),
    /// SHA-256 of the content, hex, for a web server that sends neither.
    Content(String),
    /// SHA-256 over names, sizes and tags of a folder's files, hex.
    Files(String),
}

impl ObjectVersion {
    /// Returns the version that a store of this kind describes.
    pub(super) fn of_meta(meta: &ObjectMeta, kind: StoreKind) -> Self {
        Self::of_listed(&meta.last_modified, meta.size, meta.e_tag.clone(), kind)
    }

    /// As [`ObjectVersion::of_meta`], of the fields of a description.
    pub(super) fn of_listed(
        changed: &DateTime<Utc>,
        size: u64,
        etag: Option<String>,
        kind: StoreKind,
    ) -> Self {
        let tag = etag.map_or(VersionTag::Modified(*changed), VersionTag::Etag);
        // The Hugging Face Hub knows no time of change.
        let modified = (kind != StoreKind::Hub).then_some(*changed);
        Self { size, tag, modified }
    }
}

impl VersionTag {
    /// Returns the entity tag, if it is one.
    #[must_use]
    pub fn etag(&self) -> Option<String> {
        match self {
            Self::Etag(etag) => Some(etag.clone()),
            Self::Modified(_) | Self::Content(_) | Self::Files(_) => None,
        }
    }
}

/// The text of the tag in records and fingerprints.
impl fmt::Display for VersionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etag(text) | Self::Files(text) => f.write_str(text),
            Self::Modified(time) => f.write_str(&time.to_rfc3339()),
            Self::Content(sha256) => write!(f, "{CONTENT_TAG}{sha256}"),
        }
    }
}
