//! Tar shards: bytes in as they arrive from a store, members out.
//!
//! Stands between the store's byte stream and [`crate::webdataset`], which groups members into
//! samples. [`TarParser`] is pushed chunks of any size and hands out [`Member`]s; it holds at
//! most one member and the chunks not yet looked at. No I/O, no async, no file system: a
//! member's name is data and is never used as a path.
//!
//! Read: v7, ustar, GNU (long names and links, base-256 sizes) and PAX (`path`, `linkpath`,
//! `size`, local and global). Sparse files are recognised and reported without bytes, never
//! misread. Names that are not UTF-8 become text from which the name comes back ([`recaption_schemas::name_text`]); all are
//! cut at NULs.
//!
//! Where an archive ends is decided as Python's `tarfile` does it in the stream mode `r|*` that
//! webdataset uses: at the first block of zeros. What may follow is not read, but whether
//! something does is said ([`Trailing`]), so that the second half of two concatenated tars is not
//! lost in silence. Python ends without a word at a damaged header, at an end without marker and
//! inside a cut header; these are told here as [`TarError::Damaged`] and [`TarEnd::Truncated`].

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

pub use header::{BLOCK_BYTES, HeaderFault};
pub use parser::TarParser;
pub use pax::PaxFault;
pub use sniff::LooksLike;

/// Largest member kept in memory unless the caller says otherwise, in bytes: room for a
/// 100-megapixel photograph in any of the usual formats, and a bound on what a shard may claim.
pub const DEFAULT_MAX_MEMBER_BYTES: u64 = 256 << 20;

/// Largest long name or block of PAX records, in bytes. Real ones are below 10 KB; Linux paths
/// end at 4,096 bytes.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;

/// How much a parser may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Members with more bytes than this are passed over and reported as
    /// [`MemberData::TooLarge`].
    pub max_member_bytes: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { max_member_bytes: DEFAULT_MAX_MEMBER_BYTES }
    }
}

/// One entry of the archive, whole: its last byte of data has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As stored, what is not UTF-8 escaped; without trailing slashes for directories.
    pub name: String,
    /// Where its first header starts (a long name's or PAX header, where it has one), in bytes
    /// from the start of the archive.
    pub offset: u64,
    /// Bytes of data as the header tells; 0 for links and directories.
    pub size: u64,
    /// What it is, with its bytes if it has some.
    pub kind: MemberKind,
}

/// What an entry of the archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// Something with a file's role, whether its bytes are at hand or not.
    File(MemberData),
    /// A directory.
    Directory,
    /// A device, a FIFO, or a type that is not known; its data was passed over.
    Other {
        /// The header's type byte.
        type_flag: u8,
    },
}

/// The bytes of a file, or why they are not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberData {
    /// All bytes. A slice of the chunk they came in (and keeping that chunk alive) when they lay
    /// in one, else a copy of exactly this size.
    Bytes(Bytes),
    /// More than [`TarLimits::max_member_bytes`].
    TooLarge {
        /// Size of the member in bytes.
        size: u64,
    },
    /// A link: the bytes are elsewhere, if anywhere.
    Link {
        /// A hard link (to another member); else a symbolic one.
        hard: bool,
        /// What it points to, decoded lossily.
        target: String,
    },
    /// A sparse file in one of GNU's encodings, which are not decoded.
    Sparse,
}

impl MemberData {
    /// Bytes held: 0 where there are none.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::TooLarge { .. } | Self::Link { .. } | Self::Sparse => 0,
        }
    }

    /// Whether no bytes are held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why there are no bytes, for the detail of a reject; `None` for [`MemberData::Bytes`].
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

/// Why an archive cannot be read any further. Everything handed out before stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The very first block is not a tar header.
    #[error("{}", looks_like.sentence())]
    NotATar {
        /// What it is instead.
        looks_like: LooksLike,
    },
    /// From `offset` on nothing can be trusted. No resynchronisation is tried: image data may
    /// hold whole tars, and a wrong guess would be worse than a broken tail.
    #[error("damaged at byte {offset}: {fault}")]
    Damaged {
        /// Where the broken tail starts; all members before it were handed out. Bytes that are
        /// not read: the archive's size less this.
        offset: u64,
        /// What is wrong there.
        fault: ErrorKind,
    },
    /// [`TarParser::finish`] was called while chunks were still to be parsed.
    #[error("{bytes} bytes were pushed but not parsed: take members until there are none, then finish")]
    Undrained {
        /// Bytes not looked at yet.
        bytes: u64,
    },
}

/// What is wrong at the start of a broken tail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// A header that does not check.
    #[error(transparent)]
    Header(#[from] HeaderFault),
    /// PAX records that cannot be read.
    #[error(transparent)]
    Pax(#[from] PaxFault),
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
        /// Whether it was whole. POSIX wants two blocks of zeros; one is taken as well.
        marker: EndMarker,
        /// What came after the marker, if not only zeros. It was not read.
        trailing: Option<Trailing>,
    },
    /// The input ended before the end marker.
    Truncated {
        /// Where the broken tail starts: the first header of the member that is cut.
        offset: u64,
        /// Bytes of the archive that arrived.
        received: u64,
        /// What was being read.
        cut: Cut,
    },
}

/// How many blocks of zeros ended the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMarker {
    /// One block of zeros, then something else, or nothing.
    OneBlock,
    /// Two or more, as POSIX has it.
    TwoBlocks,
}

/// Bytes after the end marker that are not zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailing {
    /// Where the first block that is not zeros starts, in bytes from the start of the archive.
    pub offset: u64,
    /// That block is a valid tar header: concatenated tars, whose later part is not read.
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

/// What was being read when the input ended too early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// Nothing: the last member is whole, but no end marker follows it.
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
    /// Nothing, but the member that a long name or PAX records announced never came.
    RecordWithoutMember,
    /// The data of a member.
    Member {
        /// Its name.
        name: String,
        /// Whether it is a file, and not something whose data is passed over whatever it is.
        is_file: bool,
        /// Bytes of it that arrived.
        got: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The zeros after a member that is whole.
    Padding {
        /// Bytes missing.
        missing: u64,
    },
}

impl Cut {
    /// Name of the file that is cut, where a file is and its name was read.
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
