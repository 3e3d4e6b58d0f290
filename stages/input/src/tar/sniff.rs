//! What a shard that is not a tar looks like, for an error message with a remedy. It decides nothing else.

use std::fmt;

use super::header::MAGIC;

/// What the first bytes of a shard suggest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LooksLike {
    /// Zero bytes.
    Empty,
    /// A tar, by its magic, with a damaged first header.
    DamagedTar,
    /// Compressed data; the name of the format.
    Compressed(&'static str),
    /// A ZIP archive.
    Zip,
    /// A Parquet file.
    Parquet,
    /// An HTML page, such as a web server's or proxy's error.
    Html,
    /// An XML document, such as an object store's error.
    Xml,
    /// A JSON document, such as an object store's error.
    Json,
    /// A JSON array.
    JsonArray,
    /// An image; the name of the format.
    Image(&'static str),
    /// A PDF.
    Pdf,
    /// Lines of text.
    Text,
    /// A Git LFS pointer in place of the file.
    GitLfsPointer,
    /// Unknown; the first bytes.
    Unknown(Vec<u8>),
}

/// Most bytes of an unknown format that are shown.
const SHOWN_BYTES: usize = 16;

/// First bytes of known formats.
const SIGNATURES: &[(&[u8], LooksLike)] = &[
    (b"\x1f\x8b", LooksLike::Compressed("gzip")),
    (b"\x28\xb5\x2f\xfd", LooksLike::Compressed("zstd")),
    (b"BZh", LooksLike::Compressed("bzip2")),
    (b"\xfd7zXZ\0", LooksLike::Compressed("xz")),
    (b"\x04\x22\x4d\x18", LooksLike::Compressed("lz4")),
    (b"PK\x03\x04", LooksLike::Zip),
    (b"PK\x05\x06", LooksLike::Zip),
    (b"PAR1", LooksLike::Parquet),
    (b"version https://git-lfs", LooksLike::GitLfsPointer),
    (b"\xff\xd8\xff", LooksLike::Image("JPEG")),
    (b"\x89PNG\r\n", LooksLike::Image("PNG")),
    (b"GIF8", LooksLike::Image("GIF")),
    (b"II*\0", LooksLike::Image("TIFF")),
    (b"MM\0*", LooksLike::Image("TIFF")),
    (b"8BPS", LooksLike::Image("PSD")),
    (b"\xff\x0a", LooksLike::Image("JPEG XL")),
    (b"\0\0\0\x0cJXL ", LooksLike::Image("JPEG XL")),
    (b"%PDF", LooksLike::Pdf),
];

/// First characters of text formats, in lower case, after white space and a byte-order mark.
const TEXTS: &[(&[u8], LooksLike)] = &[
    (b"<!doctype html", LooksLike::Html),
    (b"<html", LooksLike::Html),
    (b"<", LooksLike::Xml),
    (b"{", LooksLike::Json),
    (b"[", LooksLike::JsonArray),
];

impl LooksLike {
    /// Detects the format from the first bytes of a shard, of which 512 suffice.
    pub fn of(start: &[u8]) -> Self {
        if start.is_empty() {
            return Self::Empty;
        }
        if start.get(MAGIC).is_some_and(|magic| magic.starts_with(b"ustar")) {
            return Self::DamagedTar;
        }
        if let Some((_, found)) = SIGNATURES.iter().find(|(signature, _)| start.starts_with(signature)) {
            return found.clone();
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
        let begins = |with: &[u8]| text.get(..with.len()).is_some_and(|text| text.eq_ignore_ascii_case(with));
        if start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP") {
            return Self::Image("WebP");
        }
        if let Some(brand) = start.get(4..12).and_then(|box_| box_.strip_prefix(b"ftyp")) {
            return match brand {
                b"avif" | b"avis" => Self::Image("AVIF"),
                b"heic" | b"heix" | b"mif1" | b"msf1" => Self::Image("HEIC"),
                _ => Self::Unknown(start[..start.len().min(SHOWN_BYTES)].to_vec()),
            };
        }
        match TEXTS.iter().find(|(begin, _)| begins(begin)) {
            Some((_, found)) => found.clone(),
            None if is_text(text) => Self::Text,
            None => Self::Unknown(start[..start.len().min(SHOWN_BYTES)].to_vec()),
        }
    }
}

impl LooksLike {
    /// Returns the message for a shard that is read as a tar.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Empty | Self::DamagedTar | Self::Compressed(_) | Self::Unknown(_) => {
                format!("not a tar: {self}")
            }
            known => known.to_string(),
        }
    }
}

/// Returns whether bytes are text: UTF-8, possibly truncated within a character, without control characters.
fn is_text(bytes: &[u8]) -> bool {
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty() && !valid.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

impl fmt::Display for LooksLike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty: upload it again, or take it off the input"),
            Self::DamagedTar => f.write_str("a tar whose first header is damaged: upload it again"),
            Self::Compressed(format) => {
                write!(f, "it is {format}: shards are read uncompressed, so decompress it first")
            }
            Self::Zip => f.write_str("it is a ZIP archive: pack its files as a tar"),
            Self::Parquet => f.write_str("it is a Parquet file: use the Parquet input"),
            Self::Html => f.write_str("it is an HTML page, perhaps a saved error message: download it again"),
            Self::Xml => {
                f.write_str("it is XML, perhaps a saved error message of an object store: download it again")
            }
            Self::Json => {
                f.write_str("it is JSON, perhaps a saved error message of an object store: download it again")
            }
            Self::JsonArray => f.write_str(
                "it is a JSON array, and lists are read as JSON lines: `jq -c '.[]' LIST.json > LIST.jsonl`",
            ),
            Self::Image(format) => write!(
                f,
                "it is a single image ({format}): name its folder, or use `recaption caption MODEL IMAGE`"
            ),
            Self::Pdf => f.write_str("it is a PDF: extract its images into a folder or a tar"),
            Self::Text => f.write_str(
                "it is text: a list of addresses must be named .csv, .tsv, .jsonl or .txt, and a list of shards is given \
                 as @FILE",
            ),
            Self::GitLfsPointer => {
                f.write_str("it is a Git LFS pointer and not the file itself: run `git lfs pull`")
            }
            Self::Unknown(start) => write!(f, "it begins with \"{}\"", start.escape_ascii()),
        }
    }
}
