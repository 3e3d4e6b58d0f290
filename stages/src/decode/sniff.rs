//! Which format bytes are in, by their content: names lie.

use super::error::DecodeError;

/// Formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

/// Suffixes of the decoded formats, lower-case.
const SUPPORTED_SUFFIXES: [&str; 11] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff"];

/// How far into the file an `<svg` or `<html` tag is looked for, in bytes.
const TEXT_PROBE: usize = 1024;

/// What to do about formats that are known and not decoded.
pub(super) const CONVERT: &str =
    "convert it to JPEG, PNG or WebP, for instance with ImageMagick: `magick FILE out.png`";

/// Bytes that are enough to tell whether something is an image.
pub const SNIFF_BYTES: usize = 32;

/// Whether bytes are the beginning of an image, decoded here or not, whatever they are called. Formats that can only be told
/// by two or three letters are not among them.
#[must_use]
pub fn is_image(bytes: &[u8]) -> bool {
    const OTHERS: [&str; 10] = [
        "PDF",
        "PostScript",
        "EPS",
        "ICO",
        "CUR",
        "PNM",
        "WMF",
        "SVG",
        "MP4 video",
        "Matroska or WebM video",
    ];
    supported(bytes).is_some() || recognised(bytes).is_some_and(|name| !OTHERS.contains(&name))
}

/// Recognises the format of `bytes`. `suffix` only helps to say what is wrong with unknown ones.
///
/// # Errors
/// `Corrupt` for no bytes at all, and for unknown bytes that call themselves an image that we decode; `Unsupported` for
/// every other format, by name where it is known.
pub(super) fn sniff(bytes: &[u8], suffix: Option<&str>) -> Result<Format, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::corrupt("", "zero bytes"));
    }
    if let Some(format) = supported(bytes) {
        return Ok(format);
    }
    if let Some(name) = recognised(bytes) {
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

fn supported(bytes: &[u8]) -> Option<Format> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(Format::Tiff),
        // Two letters are a weak sign: the length of the header that follows must be one of the known ones.
        [b'B', b'M', rest @ ..] if rest.len() >= 16 => {
            let header = u32::from_le_bytes([rest[12], rest[13], rest[14], rest[15]]);
            matches!(header, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124).then_some(Format::Bmp)
        }
        _ => None,
    }
}

fn recognised(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 20] = [
        (&[0xFF, 0x0A], "JPEG XL"),
        (&[0, 0, 0, 12, b'J', b'X', b'L', b' '], "JPEG XL"),
        (&[0, 0, 0, 12, b'j', b'P', b' ', b' '], "JPEG 2000"),
        (&[0xFF, 0x4F, 0xFF, 0x51], "JPEG 2000"),
        (&[b'I', b'I', 0xBC, 1], "JPEG XR"),
        (&[b'I', b'I', 43, 0], "BigTIFF"),
        (&[b'M', b'M', 0, 43], "BigTIFF"),
        (b"%PDF", "PDF"),
        (b"%!PS", "PostScript"),
        (&[0xC5, 0xD0, 0xD3, 0xC6], "EPS"),
        (b"8BPS", "PSD"),
        (&[0, 0, 1, 0], "ICO"),
        (&[0, 0, 2, 0], "CUR"),
        (b"qoif", "QOI"),
        (b"DDS ", "DDS"),
        (b"gimp xcf", "XCF"),
        (b"#?RADIANCE", "Radiance HDR"),
        (&[0x76, 0x2F, 0x31, 0x01], "OpenEXR"),
        (&[0x1A, 0x45, 0xDF, 0xA3], "Matroska or WebM video"),
        (&[0xD7, 0xCD, 0xC6, 0x9A], "WMF"),
    ];
    if let Some((_, name)) = SIGNATURES.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(name);
    }
    if let [_, _, _, _, b'f', b't', b'y', b'p', a, b, c, d, ..] = bytes {
        return Some(match &[*a, *b, *c, *d] {
            b"avif" | b"avis" => "AVIF",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "HEIC",
            b"crx " => "Canon raw",
            _ => "MP4 video",
        });
    }
    if let [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] = bytes {
        return Some("PNM");
    }
    is_markup(bytes, b"<svg").then_some("SVG")
}

/// Whether `tag` stands near the start of what looks like markup.
fn is_markup(bytes: &[u8], tag: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes);
    let probe = bytes[..bytes.len().min(TEXT_PROBE)].trim_ascii_start();
    probe.first() == Some(&b'<') && probe.windows(tag.len()).any(|window| window.eq_ignore_ascii_case(tag))
}
