//! Webdataset: members of a tar into samples.
//!
//! Stands between [`crate::tar`] and decoding. Members that are neighbours and share a key are
//! one sample; [`Assembler`] is pushed members and hands out a [`RawSample`] when the next key
//! begins. Nothing is decoded, judged or looked into here: a sample without an image, or with a
//! key that was there before, comes out marked, so that the caller can reject it with a reason.
//! No I/O, no threads, no queue: it holds one sample and 16 bytes per key of the shard.
//!
//! The grouping is webdataset's (`tariterators.py`: `base_plus_ext`, `group_by_keys`,
//! `skip_meta`), except where webdataset drops or stops:
//!
//! | case | webdataset | here |
//! |---|---|---|
//! | file without a dot (`README`) | dropped | a sample of its own, without an image |
//! | hidden file in a directory (`a/._x.jpg`) | a sample with the key `a/` | ignored and counted, as `._x.jpg` is |
//! | link, sparse file | dropped | its suffix is there, without bytes |
//! | suffix that the sample has already | an exception ends the shard | a new sample with the same key |
//! | key that comes again later | two samples with one key | the second is marked as a duplicate |

mod assemble;
mod members;
mod name;
#[cfg(test)]
mod tests;

use crate::tar::MemberData;

pub use assemble::{Assembler, Keys};
pub use members::Members;
pub use name::{NameClass, split_name, split_stem};

/// Suffixes of image formats that are decoded.
pub const IMAGE_SUFFIXES: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"];

/// Suffixes of image formats that are known but not decoded: taken for the image where nothing
/// better is there, so that the sample is rejected for its format and not for having no image.
pub const UNSUPPORTED_IMAGE_SUFFIXES: [&str; 24] = [
    "heic", "heif", "avif", "jxl", "jp2", "j2k", "jxr", "svg", "psd", "ico", "raw", "cr2", "cr3", "nef",
    "arw", "dng", "ppm", "pgm", "pbm", "pnm", "tga", "exr", "hdr", "qoi",
];

/// Whether a suffix, in lower case, is that of an image, decoded or not.
#[must_use]
pub fn is_image_suffix(suffix: &str) -> bool {
    IMAGE_SUFFIXES.contains(&suffix) || UNSUPPORTED_IMAGE_SUFFIXES.contains(&suffix)
}

/// Suffixes of the original caption, the best first.
pub const CAPTION_SUFFIXES: [&str; 3] = ["txt", "text", "caption"];

/// Suffix of the sample's metadata.
pub const JSON_SUFFIX: &str = "json";

/// Largest caption or JSON kept, in bytes. Real ones are kilobytes; a larger one is left out of
/// the sample and noted.
pub const MAX_SIDECAR_BYTES: u64 = 16 << 20;

/// How many other suffixes a sample lists by name; of the rest only the number is kept.
pub const MAX_LISTED_SUFFIXES: usize = 64;

/// One sample of a shard as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawSample {
    /// Position in the shard, from 0; every sample has one, whatever becomes of it.
    pub index: u64,
    /// Path up to the first dot of the basename, as stored.
    pub key: String,
    /// An earlier sample of this shard has the same key.
    pub duplicate: bool,
    /// The archive broke off while this sample was the open one: members of it may be missing.
    pub cut: bool,
    /// The image, or what is known of it.
    pub image: Option<ImageMember>,
    /// The original caption, verbatim but for U+FFFD where it is not UTF-8.
    pub caption: Option<String>,
    /// The sample's metadata, decoded likewise and not parsed.
    pub json: Option<String>,
    /// Suffixes of members that are none of these, in the archive's order, at most
    /// [`MAX_LISTED_SUFFIXES`]. Their bytes are dropped.
    pub other_suffixes: Vec<String>,
    /// How many other suffixes there are, listed or not.
    pub other_count: u64,
    /// Those among the others that are images too, likewise listed.
    pub extra_images: Vec<String>,
    /// How many these are.
    pub extra_image_count: u64,
    /// What of the sample could not be kept, at most [`MAX_LISTED_SUFFIXES`] notes.
    pub notes: Vec<Note>,
}

impl RawSample {
    /// Bytes that the sample holds in memory: image, texts and names. An image that is a slice of
    /// a chunk keeps the whole chunk alive; counted is the slice.
    pub fn bytes_held(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let image = self.image.as_ref().map_or(0, |image| image.suffix.len() + image.data.len());
        let others = self.other_suffixes.iter().map(String::len).sum::<usize>();
        self.key.len() + image + length(&self.caption) + length(&self.json) + others
    }
}

/// The member that is the sample's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMember {
    /// In lower case; may be a compound (`v1.jpg`).
    pub suffix: String,
    /// Its bytes, or why they are not here.
    pub data: MemberData,
}

impl ImageMember {
    /// Whether the last part of the suffix is one of [`IMAGE_SUFFIXES`].
    pub fn is_supported_format(&self) -> bool {
        IMAGE_SUFFIXES.contains(&name::last_part(&self.suffix))
    }
}

/// A caption or JSON that is not in the sample though its suffix is.
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
    /// All of them.
    pub fn total(&self) -> u64 {
        self.directories + self.meta + self.hidden + self.other
    }
}

/// How the archive ended, as far as its last sample is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail<'a> {
    /// With an end marker: the last sample is whole.
    Whole,
    /// Without: cut, or damaged.
    Broken {
        /// Name of the file that was cut, where known ([`crate::tar::Cut::file_name`]). If it is
        /// not of the last sample, that one is whole after all.
        cut_file: Option<&'a str>,
    },
}
