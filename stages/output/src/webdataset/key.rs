//! Names of samples in an archive or a folder. Keys are data: no name leaves its folder.

use recaption_messages::ImageFormat;
use recaption_schemas::sha256_hex;

/// Longest key that is kept as it is, bytes: with its suffix it fits the name of a ustar header.
const MAX_KEY: usize = 80;
/// Bytes that are kept of another key.
const MAX_STEM: usize = 60;
/// Hex digits of the key's digest that follow them.
const DIGEST: usize = 16;

/// Returns a name for the key: the key itself if it has at most 80 letters, digits, `-` and `_` of ASCII; otherwise its start with
/// everything else replaced by `_`, and a digest. Distinct keys have distinct names.
#[must_use]
pub fn safe_key(key: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    // A key that looks like a made name must not take that of another.
    let looks_made = key.rsplit_once('-').is_some_and(|(_, end)| {
        end.len() == DIGEST && end.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    });
    if !key.is_empty() && key.len() <= MAX_KEY && key.chars().all(is_safe) && !looks_made {
        return key.to_owned();
    }
    let stem: String = key.chars().map(|c| if is_safe(c) { c } else { '_' }).take(MAX_STEM).collect();
    format!("{stem}-{}", &sha256_hex(key.as_bytes())[..DIGEST])
}

/// Returns the key of a sample in a dataset: `<shard>/<safe key>`, where `shard` is the shard's name in the output.
#[must_use]
pub fn sample_key(shard: &str, key: &str) -> String {
    format!("{shard}/{}", safe_key(key))
}

/// Returns the file name suffix of an image by its bytes, without the dot.
#[must_use]
pub fn image_suffix(image: &[u8]) -> &'static str {
    match ImageFormat::detect(image) {
        Some(ImageFormat::Jpeg) => "jpg",
        Some(ImageFormat::Png) => "png",
        Some(ImageFormat::WebP) => "webp",
        Some(ImageFormat::Gif) => "gif",
        Some(ImageFormat::Bmp) => "bmp",
        Some(ImageFormat::Tiff) => "tiff",
        // Only decoded images have captions.
        None => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_distinct() {
        let long = "x".repeat(81);
        let made = safe_key("a/b");
        let keys = [
            "a",
            "a.b",
            "a_b",
            "a/b",
            "../../a",
            "/etc/passwd",
            "",
            ".",
            "..",
            "größe",
            "a\0b",
            &long,
            &made,
        ];
        let names: std::collections::BTreeSet<String> = keys.iter().map(|key| safe_key(key)).collect();
        assert_eq!(names.len(), keys.len(), "{names:?}");
        for name in &names {
            assert!(name.len() <= MAX_KEY && !name.contains(['/', '.', '\0']) && name.is_ascii(), "{name}");
        }
        assert_eq!(safe_key("000012_a-B"), "000012_a-B");
        assert_eq!(sample_key("00000-0123456789abcdef", "7"), "00000-0123456789abcdef/7");
    }

    #[test]
    fn suffixes_follow_the_bytes() {
        assert_eq!(image_suffix(&[0xFF, 0xD8, 0xFF, 0xE0]), "jpg");
        assert_eq!(image_suffix(b"RIFF\0\0\0\0WEBPVP8 "), "webp");
        assert_eq!(image_suffix(b"<html>"), "bin");
    }
}
