//! Which format an image's bytes are in, by content. Names are not trusted.

/// Formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// JPEG, baseline or progressive.
    Jpeg,
    /// PNG or APNG.
    Png,
    /// WebP.
    WebP,
    /// GIF.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF; BigTIFF is not decoded.
    Tiff,
}

/// How far into the file a markup tag such as `<svg` is looked for, bytes.
const TEXT_PROBE_BYTES: usize = 1024;

/// Bytes at a file's start that suffice for [`is_image`].
pub const SNIFF_BYTES: usize = 32;

/// Returns whether `bytes` begin an image, of a decoded format or another. Formats with a signature of two or three letters
/// do not count.
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
    ImageFormat::detect(bytes).is_some() || other_format(bytes).is_some_and(|name| !OTHERS.contains(&name))
}

impl ImageFormat {
    /// Detects a decoded format from a file's first bytes.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some(Self::Tiff),
            // Two letters are weak evidence, so the length of the header that follows must be a known one too.
            [b'B', b'M', rest @ ..] if rest.len() >= 16 => {
                let header = u32::from_le_bytes([rest[12], rest[13], rest[14], rest[15]]);
                matches!(header, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124).then_some(Self::Bmp)
            }
            _ => None,
        }
    }
}

/// Detects a known format that is not decoded, and returns its name.
#[must_use]
pub fn other_format(bytes: &[u8]) -> Option<&'static str> {
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

/// Returns whether `tag` is near the start of what looks like markup.
#[must_use]
pub fn is_markup(bytes: &[u8], tag: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes);
    let probe = bytes[..bytes.len().min(TEXT_PROBE_BYTES)].trim_ascii_start();
    probe.first() == Some(&b'<') && probe.windows(tag.len()).any(|window| window.eq_ignore_ascii_case(tag))
}
