//! Webdataset: members of a tar -> samples.
//!
//! Between [`crate::tar`] and [`crate::read`]. Adjacent members with one key are one sample: [`Assembler`] is pushed members and
//! returns a [`RawSample`] when the next key begins. Nothing is decoded or rejected here; a sample without an image or with a
//! duplicate key is returned with that information. No I/O, no threads, no queue: it holds one sample and 16 bytes per key of
//! the shard.
//!
//! The grouping is webdataset's (`tariterators.py`: `base_plus_ext`, `group_by_keys`,
//! `skip_meta`), except where webdataset drops or stops:
//!
//! | case | webdataset | here |
//! |---|---|---|
//! | file without a dot (`README`) | dropped | a separate sample without an image |
//! | hidden file in a directory (`a/._x.jpg`) | a sample with the key `a/` | ignored and counted, as `._x.jpg` is |
//! | link, sparse file | dropped | a member without bytes |
//! | repeated suffix of a sample | an exception ends the shard | a new sample with the same key |
//! | repeated key later in the shard | two samples with one key | the second is marked as a duplicate |

mod assemble;
mod members;
mod name;
#[cfg(test)]
mod tests;

use crate::tar::MemberData;

pub use assemble::Assembler;
pub use members::Members;
pub use name::{NameClass, split_name, split_stem};

/// Suffixes of image formats that are decoded.
pub const IMAGE_SUFFIXES: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"];

/// Suffixes of image formats that are known but not decoded. Such a member is the image if there is no better one, so that the
/// sample is rejected for its format and not for a missing image.
pub const UNSUPPORTED_IMAGE_SUFFIXES: [&str; 24] = [
    "heic", "heif", "avif", "jxl", "jp2", "j2k", "jxr", "svg", "psd", "ico", "raw", "cr2", "cr3", "nef",
    "arw", "dng", "ppm", "pgm", "pbm", "pnm", "tga", "exr", "hdr", "qoi",
];

/// Returns whether a suffix, in lower case, is that of an image, decoded or not.
#[must_use]
pub fn is_image_suffix(suffix: &str) -> bool {
    IMAGE_SUFFIXES.contains(&suffix) || UNSUPPORTED_IMAGE_SUFFIXES.contains(&suffix)
}

/// Suffixes of original captions, the best first.
pub const CAPTION_SUFFIXES: [&str; 3] = ["txt", "text", "caption"];

/// Suffix of the sample's metadata.
pub const JSON_SUFFIX: &str = "json";

/// Largest caption or JSON that is kept, bytes. A larger one is left out of the sample with a note.
pub const MAX_SIDECAR_BYTES: u64 = 16 << 20;

/// Most other suffixes that a sample lists by name; the rest is only counted.
pub const MAX_LISTED_SUFFIXES: usize = 64;

/// A sample of a shard as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawSample {
    /// Position in the shard, from 0.
    pub index: u64,
    /// Path up to the first dot of the basename, as stored.
    pub key: String,
    /// Whether an earlier sample of this shard has the same key.
    pub is_duplicate: bool,
    /// Whether the archive ends within this sample, so that members may be missing.
    pub is_truncated: bool,
    /// The image member, with or without bytes.
    pub image: Option<ImageMember>,
    /// The original caption, with U+FFFD where it is not UTF-8.
    pub caption: Option<String>,
    /// The sample's metadata, likewise; not parsed.
    pub json: Option<String>,
    /// Suffixes of the other members, in the archive's order, at most [`MAX_LISTED_SUFFIXES`]. Their bytes are dropped.
    pub other_suffixes: Vec<String>,
    /// Number of other members, listed or not.
    pub other_count: u64,
    /// Suffixes of the other members that are images, likewise.
    pub extra_images: Vec<String>,
    /// Number of other members that are images.
    pub extra_image_count: u64,
    /// Members that were left out, at most [`MAX_LISTED_SUFFIXES`].
    pub notes: Vec<Note>,
}

impl RawSample {
    /// Returns the bytes that the sample holds: image, texts and names. An image that is a slice of a chunk keeps the whole
    /// chunk alive, but counts as the slice.
    pub fn bytes_held(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let image = self.image.as_ref().map_or(0, |image| image.suffix.len() + image.data.len());
        let others = self.other_suffixes.iter().map(String::len).sum::<usize>();
        self.key.len() + image + length(&self.caption) + length(&self.json) + others
    }
}

/// The image of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMember {
    /// In lower case; may be a compound (`v1.jpg`).
    pub suffix: String,
    /// Its bytes, or why there are none.
    pub data: MemberData,
}

impl ImageMember {
    /// Returns whether the last part of the suffix is one of [`IMAGE_SUFFIXES`].
    pub fn is_supported_format(&self) -> bool {
        IMAGE_SUFFIXES.contains(&name::last_part(&self.suffix))
    }
}

/// A caption or JSON member that was left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// More than [`MAX_SIDECAR_BYTES`], or than the parser's limit.
    #[error("member .{suffix} has {size} bytes, more than the limit, and was left out")]
    SidecarTooLarge {
        /// Suffix of the member.
        suffix: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A link or a sparse file.
    #[error("member .{suffix} was left out: {why}")]
    SidecarWithoutBytes {
        /// Suffix of the member.
        suffix: String,
        /// What it is instead of bytes.
        why: String,
    },
}

/// Members that belong to no sample, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IgnoredMembers {
    /// Directories.
    pub directories: u64,
    /// Webdataset's own metadata: the first part of the path is `__...__`.
    pub meta: u64,
    /// Files whose basename begins with a dot, such as macOS's `._x.jpg`.
    pub hidden: u64,
    /// Devices, FIFOs, and types that are not known.
    pub other: u64,
}

impl IgnoredMembers {
    /// Returns the total.
    pub fn total(&self) -> u64 {
        self.directories + self.meta + self.hidden + self.other
    }
}

/// How the archive ended, for its last sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail<'a> {
    /// With an end marker: the last sample is complete.
    Complete,
    /// Truncated or damaged.
    Damaged {
        /// Name of the truncated file, if known ([`crate::tar::Cut::file_name`]). If it belongs to another sample, the last
        /// sample is complete after all.
        cut_file: Option<&'a str>,
    },
}
