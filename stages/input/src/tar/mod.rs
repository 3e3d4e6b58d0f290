//! Tar archives: bytes in as they arrive from a store, members out.
//!
//! Between the store's byte stream and [`crate::webdataset`], which groups members into samples. [`TarParser`] is pushed chunks
//! of any size and returns [`Member`]s; it holds at most one member and the chunks that are not parsed yet. No I/O, no async, no
//! file system: a member's name is data and is never used as a path.
//!
//! Supported: v7, ustar, GNU (long names and links, base-256 sizes) and PAX (`path`, `linkpath`, `size`, local and global).
//! Sparse files are reported without bytes. Names that are not UTF-8 are escaped reversibly ([`recaption_schemas::name_text`]);
//! all are cut at NULs.
//!
//! An archive ends at the first block of zeros, as in the stream mode `r|*` of Python's `tarfile`, which webdataset uses. Bytes
//! after that are not parsed but reported ([`Trailing`]), so that the second of two concatenated tars is not lost silently.
//! Python ends silently at a damaged header, at an end without marker and inside a truncated header; here these are
//! [`TarError::Damaged`] and [`TarEnd::Truncated`].

mod finish;
mod header;
mod input;
mod parser;
mod pax;
mod sniff;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

pub use header::{BLOCK_BYTES, HeaderError, is_header};
pub use parser::TarParser;
pub use pax::PaxError;
pub use sniff::LooksLike;

/// Default of [`TarLimits::max_member_bytes`], bytes: a 100-megapixel photograph in any usual format.
pub const DEFAULT_MAX_MEMBER_BYTES: u64 = 256 << 20;

/// Largest long name or block of PAX records, bytes. Real ones are below 10 KB; Linux paths end at 4,096 bytes.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Limits of a parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Largest member, bytes. Larger ones are skipped and reported as [`MemberData::TooLarge`].
    pub max_member_bytes: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { max_member_bytes: DEFAULT_MAX_MEMBER_BYTES }
    }
}

/// An entry of the archive that has arrived completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name as stored, with bytes that are not UTF-8 escaped, and without the trailing slashes of directories.
    pub name: String,
    /// Start of its first header (that of a long name or PAX records, if any), bytes from the start of the archive.
    pub offset: u64,
    /// Bytes of data by its header; 0 for links and directories.
    pub size: u64,
    /// Kind, with the bytes of a file.
    pub kind: MemberKind,
}

/// Kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A file, with or without bytes.
    File(MemberData),
    /// A directory.
    Directory,
    /// A device, a FIFO, or an unknown type, whose data was skipped.
    Other {
        /// The header's type byte.
        type_flag: u8,
    },
}

/// The bytes of a file, or why there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberData {
    /// All bytes: a slice that keeps its chunk alive if they arrived in one, else a copy of exactly this size.
    Bytes(Bytes),
    /// More than [`TarLimits::max_member_bytes`].
    TooLarge {
        /// Size of the member in bytes.
        size: u64,
    },
    /// A link, without bytes of its own.
    Link {
        /// Whether it is a hard link, to another member; otherwise symbolic.
        hard: bool,
        /// Its target, decoded lossily.
        target: String,
    },
    /// A sparse file in one of GNU's encodings, which are not decoded.
    Sparse,
}

impl MemberData {
    /// Returns the number of bytes held.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::TooLarge { .. } | Self::Link { .. } | Self::Sparse => 0,
        }
    }

    /// Returns whether no bytes are held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns why there are no bytes, for the detail of a reject; `None` for [`MemberData::Bytes`].
    pub fn why_no_bytes(&self) -> Option<String> {
        match self {
            Self::Bytes(_) => None,
            Self::TooLarge { size } => Some(format!("the member has {size} bytes, more than the limit")),
            Self::Link { hard, target } => {
                let how = if *hard { "hard" } else { "symbolic" };
                Some(format!("the member is a {how} link to {target:?}, without bytes of its own"))
            }
            Self::Sparse => Some(
                "the member is a GNU sparse file, which is not read: pack it without --sparse".to_owned(),
            ),
        }
    }
}

/// Why an archive cannot be parsed any further. Members returned before are valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The very first block is not a tar header.
    #[error("{}", looks_like.sentence())]
    NotATar {
        /// What it is instead.
        looks_like: LooksLike,
    },
    /// The archive is damaged from `offset` on. No resynchronisation is tried: image data may contain whole tars.
    #[error("damaged at byte {offset}: {kind}")]
    Damaged {
        /// Start of the damaged tail. All members before it were returned.
        offset: u64,
        /// What is damaged there.
        kind: DamageKind,
    },
    /// [`TarParser::finish`] was called before all chunks were parsed.
    #[error("{bytes} bytes were pushed but not parsed: take members until there are none, then finish")]
    Undrained {
        /// Bytes that are not parsed yet.
        bytes: u64,
    },
}

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamageKind {
    /// An invalid header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Invalid PAX records.
    #[error(transparent)]
    Pax(#[from] PaxError),
    /// A long name or PAX records beyond [`MAX_RECORD_BYTES`].
    #[error("an extended header of {size} bytes, more than the limit of {MAX_RECORD_BYTES}")]
    RecordTooLarge {
        /// Size that the header claims, in bytes.
        size: u64,
    },
    /// A long name or PAX records, then the end marker where their member should be.
    #[error("an extended header is followed by the end marker, not by its member")]
    RecordWithoutMember,
}

/// How the input ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEnd {
    /// The end marker was seen.
    Clean {
        /// Where the end marker starts, in bytes from the start of the archive.
        offset: u64,
        /// Its length. POSIX requires two blocks of zeros; one is accepted.
        marker: EndMarker,
        /// Bytes after the marker that are not zeros. They were not parsed.
        trailing: Option<Trailing>,
    },
    /// The input ended before the end marker.
    Truncated {
        /// Start of the damaged tail: the first header of the truncated member.
        offset: u64,
        /// Bytes of the archive that arrived.
        received: u64,
        /// What is truncated.
        cut: Cut,
    },
}

/// How many blocks of zeros ended the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMarker {
    /// One block of zeros, followed by anything else.
    OneBlock,
    /// Two or more, as POSIX requires.
    TwoBlocks,
}

/// Bytes after the end marker that are not zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailing {
    /// Start of the first block that is not zeros, bytes from the start of the archive.
    pub offset: u64,
    /// Whether that block is a valid tar header, as in concatenated tars.
    pub is_tar: bool,
}

impl fmt::Display for Trailing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, is_tar } = self;
        if *is_tar {
            write!(
                f,
                "another tar follows the end marker at byte {offset} and was not read: concatenated shards are to be split"
            )
        } else {
            write!(f, "bytes that are not a tar follow the end marker at byte {offset} and were not read")
        }
    }
}

/// What is truncated when the input ends too early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Nothing, but the end marker is missing.
    NoEndMarker,
    /// A header.
    Header {
        /// Bytes of it that arrived.
        got: usize,
    },
    /// A long name or PAX records.
    Record {
        /// Bytes of them that arrived.
        got: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// Nothing, but the member after a long name or PAX records is missing.
    RecordWithoutMember,
    /// The data of a member.
    Member {
        /// Its name.
        name: String,
        /// Whether it is a file, and not an entry whose data is skipped.
        is_file: bool,
        /// Bytes of it that arrived.
        got: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The padding after a complete member.
    Padding {
        /// Bytes missing.
        missing: u64,
    },
}

impl Cut {
    /// Returns the name of the truncated file, if it is a file and its name is known.
    pub fn file_name(&self) -> Option<&str> {
        match self {
            Self::Member { name, is_file: true, .. } => Some(name),
            Self::Member { is_file: false, .. }
            | Self::NoEndMarker
            | Self::Header { .. }
            | Self::Record { .. }
            | Self::RecordWithoutMember
            | Self::Padding { .. } => None,
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndMarker => f.write_str("the end marker is missing"),
            Self::Header { got } => write!(f, "a header ends after {got} of {BLOCK_BYTES} bytes"),
            Self::Record { got, expected } => {
                write!(f, "an extended header ends after {got} of {expected} bytes")
            }
            Self::RecordWithoutMember => f.write_str("an extended header is not followed by its member"),
            Self::Member { name, got, expected, .. } => {
                write!(f, "member {name:?} ends after {got} of {expected} bytes")
            }
            Self::Padding { missing } => {
                write!(f, "{missing} bytes of padding and the end marker are missing")
            }
        }
    }
}
