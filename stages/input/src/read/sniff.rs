//! Inputs whose first bytes do not match their name: one sentence each, with what to do.

use crate::{format::ListKind, tar::LooksLike};

/// Bytes at the start of a shard by which its format is detected.
pub(super) const SNIFF_BYTES: u64 = 512;

/// Explains what a shard is that is named as a list of URLs, if it is none.
pub(super) fn not_a_list(start: &[u8], kind: ListKind) -> Option<String> {
    let looks_like = LooksLike::of(start);
    let other = match looks_like {
        LooksLike::Html
        | LooksLike::Xml
        | LooksLike::GitLfsPointer
        | LooksLike::Zip
        | LooksLike::Parquet
        | LooksLike::Image(_)
        | LooksLike::Pdf
        | LooksLike::DamagedTar => true,
        LooksLike::JsonArray => kind == ListKind::JsonLines,
        _ => false,
    };
    other.then(|| format!("not a list of URLs: {looks_like}"))
}

/// Explains what a shard is that is named as Parquet, if it is none.
pub(super) fn not_parquet(start: &[u8]) -> Option<String> {
    match LooksLike::of(start) {
        LooksLike::Parquet => None,
        LooksLike::Unknown(_) => Some("not a Parquet file: its first bytes are not PAR1".to_owned()),
        LooksLike::DamagedTar => Some("not a Parquet file: it is a tar; name it .tar".to_owned()),
        LooksLike::Compressed(format) => Some(format!("not a Parquet file: it is {format}; unpack it")),
        other => Some(format!("not a Parquet file: {other}")),
    }
}

/// Explains what a shard is that is too short for a tar header, if that is known.
pub(super) fn not_a_tar(start: &[u8]) -> Option<String> {
    match LooksLike::of(start) {
        LooksLike::Unknown(_) | LooksLike::DamagedTar | LooksLike::Empty | LooksLike::Compressed(_) => None,
        other => Some(other.sentence()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_format_and_the_remedy() {
        for (start, word, remedy) in [
            (&b"<!DOCTYPE html>"[..], "HTML", "download it again"),
            (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer", "git lfs pull"),
            (b"\xff\xd8\xff\xe0", "JPEG", "name its folder"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "WebP", "name its folder"),
            (b"\0\0\0\x1cftypavif\0", "AVIF", "name its folder"),
            (b"[{\"url\":\"x\"}]", "JSON array", "jq -c"),
        ] {
            for message in [not_parquet(start), not_a_tar(start), not_a_list(start, ListKind::JsonLines)] {
                let message = message.expect("it is something else");
                assert!(message.contains(word) && message.contains(remedy), "{message}");
            }
        }
        assert_eq!(not_a_list(b"{\"url\": 1}\n", ListKind::JsonLines), None);
        assert_eq!(not_a_list(b"url,caption\n", ListKind::Csv), None);
        assert_eq!(not_parquet(b"PAR1"), None);
        assert!(not_a_tar(b"http://a/b.jpg\nhttp://c").is_some_and(|message| message.contains(".csv")));
        assert_eq!(not_a_tar(b"\x01\x02\x03"), None);
    }
}
