//! Detects the format to decode, or explains what is wrong.

use recaption_messages::{ImageFormat, is_markup, other_format};

use crate::error::DecodeError;

/// Suffixes of the decoded formats, lower case.
const SUPPORTED_SUFFIXES: [&str; 11] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff"];

/// Remedy for formats that are known and not decoded.
pub(super) const CONVERT: &str =
    "convert it to JPEG, PNG or WebP, for instance with ImageMagick: `magick FILE out.png`";

/// Detects the format of `bytes`. `suffix` only shapes the message for unknown formats.
///
/// # Errors
/// `Corrupt` for empty files, and for unknown bytes with the suffix of a decoded format; `Unsupported` for every other format, by
/// name if it is known.
pub(super) fn sniff(bytes: &[u8], suffix: Option<&str>) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::corrupt("", "zero bytes"));
    }
    if let Some(format) = ImageFormat::detect(bytes) {
        return Ok(format);
    }
    if let Some(name) = other_format(bytes) {
        return Err(DecodeError::unsupported(name, CONVERT));
    }
    let suffix = suffix.unwrap_or("").trim_start_matches('.').to_ascii_lowercase();
    let start = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    if SUPPORTED_SUFFIXES.iter().any(|known| suffix == *known || suffix.ends_with(&format!(".{known}"))) {
        let kind = if is_markup(bytes, b"<html") || is_markup(bytes, b"<!doctype html") {
            "a web page: fetch the image itself"
        } else if bytes.starts_with(b"version https://git-lfs") {
            "a Git LFS pointer: run `git lfs pull`"
        } else {
            "no known image format"
        };
        return Err(DecodeError::corrupt(
            "",
            format!("named .{suffix}, but holds {kind} (starts with {start})"),
        ));
    }
    let name = if suffix.is_empty() { "this file".to_owned() } else { format!(".{suffix}") };
    Err(DecodeError::unsupported(name, format!("no known image format (starts with {start})")))
}
