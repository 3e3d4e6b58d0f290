//! What an input is by its first bytes, where that is not what its name says: one sentence, with what to do.

use super::ListKind;
use crate::tar::LooksLike;

/// Bytes that are enough to tell.
pub const ENOUGH: u64 = 512;

/// What something is that is named as a list of addresses and is none.
pub fn not_a_list(start: &[u8], kind: ListKind) -> Option<String> {
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
    other.then(|| format!("no list of addresses: {looks_like}"))
}

/// What something is that is named as Parquet and is none.
pub fn not_parquet(start: &[u8]) -> Option<String> {
    match LooksLike::of(start) {
        LooksLike::Parquet => None,
        LooksLike::Unknown(_) => Some("no Parquet file: it does not begin as one does".to_owned()),
        LooksLike::DamagedTar => Some("no Parquet file: it is a tar; name it .tar".to_owned()),
        LooksLike::Compressed(format) => Some(format!("no Parquet file: it is {format}; unpack it")),
        other => Some(format!("no Parquet file: {other}")),
    }
}

/// What something is that is too short, or has no header, to be a tar.
pub fn not_a_tar(start: &[u8]) -> Option<String> {
    match LooksLike::of(start) {
        LooksLike::Unknown(_) | LooksLike::DamagedTar | LooksLike::Empty | LooksLike::Compressed(_) => None,
        other => Some(other.sentence()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_and_what_to_do_is_one_sentence() {
        for (start, word, remedy) in [
            (&b"<!DOCTYPE html>"[..], "HTML", "download it again"),
            (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer", "git lfs pull"),
            (b"\xff\xd8\xff\xe0", "JPEG", "name its folder"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "WebP", "name its folder"),
            (b"\0\0\0\x1cftypavif\0", "AVIF", "name its folder"),
            (b"[{\"url\":\"x\"}]", "JSON array", "jq -c"),
        ] {
            for said in [not_parquet(start), not_a_tar(start), not_a_list(start, ListKind::JsonLines)] {
                let said = said.expect("it is something else");
                assert!(said.contains(word) && said.contains(remedy), "{said}");
            }
        }
        assert_eq!(not_a_list(b"{\"url\": 1}\n", ListKind::JsonLines), None);
        assert_eq!(not_a_list(b"url,caption\n", ListKind::Csv), None);
        assert_eq!(not_parquet(b"PAR1"), None);
        assert!(not_a_tar(b"http://a/b.jpg\nhttp://c").is_some_and(|said| said.contains(".csv")));
        assert_eq!(not_a_tar(b"\x01\x02\x03"), None);
    }
}
