//! Names of shards: redacted URLs, and the path-safe names of a shard's files.

use crate::digest::sha256_hex;

/// Longest stem kept in a shard's file name, bytes. Object stores allow 1,024 bytes per key; local file systems 255.
const MAX_STEM: usize = 100;

/// Separates a list's URL from the number of its part. See [`part_url`].
const PART: &str = "#part=";

/// Returns the URL of a part of a list of URLs. The first part has the list's URL, the third `s3://bucket/list.csv#part=2`.
#[must_use]
pub fn part_url(list: &str, number: usize) -> String {
    if number == 0 { list.to_owned() } else { format!("{list}{PART}{number}") }
}

/// Returns the list and the number of a later part's URL.
fn part_of(url: &str) -> Option<(&str, usize)> {
    let (list, number) = url.rsplit_once(PART)?;
    Some((list, number.parse().ok()?))
}

/// Returns the part number at the end of a URL, with following punctuation.
fn part_kept(url: &str) -> &str {
    let Some(at) = url.rfind(PART) else { return "" };
    let digits = url[at + PART.len()..].trim_end_matches([':', ';', ',', '.', ')']);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) { &url[at..] } else { "" }
}

/// Returns a URL for logs, records and rows: without user info, query and fragment (except that of [`part_url`]).
///
/// Presigned URLs have their secret in the query, others in the user info. Plain paths are unchanged.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    if scheme.eq_ignore_ascii_case("file") {
        return url.to_owned();
    }
    let part = part_kept(rest);
    let rest = without_unescaped_user_info(rest);
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}{part}")
}

/// Returns a URL after its scheme and user info, if a password contains characters that should have been escaped: a strict parser
/// ends the host at `/`, `?` and `#`, and would take the start of the password for it. An authority without a valid port is not a
/// host.
fn without_unescaped_user_info(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    if authority.contains('@') || !has_no_port(authority) {
        return rest;
    }
    // Without an `@` nothing of it is known to be a host.
    rest.rsplit_once('@').map_or("", |(_, host)| host)
}

/// Returns whether the text after the colon cannot be a port.
fn has_no_port(authority: &str) -> bool {
    // The colons of an IPv6 address stand in brackets.
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after.split_once(':').is_some_and(|(_, port)| !port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns the end of the URL at the start of a text: the first character that is not part of a URL, unless it is in a password.
fn end_of_url(text: &str, ends: impl Fn(char) -> bool) -> usize {
    let end = text.find(&ends).unwrap_or(text.len());
    let Some((_, rest)) = text[..end].split_once("://") else { return end };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    if rest.contains('@') || !has_no_port(authority.trim_end_matches([':', ';', ',', '.', ')'])) {
        return end;
    }
    let line = text[end..].find(['\n', '\r']).map_or(text.len(), |at| end + at);
    match text[end..line].find('@') {
        Some(at) => text[end + at..].find(ends).map_or(text.len(), |more| end + at + more),
        None => end,
    }
}

/// Returns text for a terminal: control characters, which could move the cursor or change earlier output, are escaped. Line feeds
/// and tabs stay.
#[must_use]
pub fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    let is_bad = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_bad) {
        return text.into();
    }
    let escaped = |c: char| if is_bad(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect::<String>().into()
}

/// Redacts the URLs in a text, as [`redact_url`] does: for errors of libraries that quote a URL, and for log lines.
#[must_use]
pub fn redact_text(text: &str) -> String {
    const FENCES: [char; 6] = ['"', '\'', '`', '<', '>', '\\'];
    let ends = |c: char| c.is_whitespace() || c.is_control() || FENCES.contains(&c);
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(colon) = rest.find("://") {
        let in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let scheme = rest[..colon].trim_end_matches(in_scheme).len();
        let end = scheme + end_of_url(&rest[scheme..], ends);
        redacted.push_str(&rest[..scheme]);
        redacted.push_str(&redact_url(&rest[scheme..end]));
        rest = &rest[end..];
    }
    redacted.push_str(rest);
    redacted
}

/// Hex digits of the URL's digest in a shard's name: 64 bits, so that no two shards of a dataset have the same name.
const DIGEST: usize = 16;
/// Hex digits in names of older versions.
const OLD_DIGEST: usize = 8;

/// Path-safe name of a shard: `<stem>-<first 16 hex digits of the SHA-256 of the canonical URL>`.
///
/// The stem is the last path component up to its first dot, with everything but `[A-Za-z0-9_-]` replaced by `_`, so
/// that no URL ever becomes a path. The digest keeps shards of one name in two folders apart. The stem of a later part of
/// a list ends with its number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(String);

impl ShardId {
    /// Derives the name from a canonical, redacted URL (see [`redact_url`]).
    #[must_use]
    pub fn from_url(canonical: &str) -> Self {
        Self::with_digits(canonical, DIGEST)
    }

    /// Derives the name that older versions gave the shard, with 8 digits of the digest.
    #[must_use]
    pub fn old_from_url(canonical: &str) -> Self {
        Self::with_digits(canonical, OLD_DIGEST)
    }

    fn with_digits(canonical: &str, digits: usize) -> Self {
        let (whole, part) =
            part_of(canonical).map_or((canonical, None), |(list, number)| (list, Some(number)));
        let name = whole.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let stem = name.split('.').next().unwrap_or_default();
        let mut safe: String = stem
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
            .take(MAX_STEM)
            .collect();
        if safe.is_empty() {
            safe.push_str("shard");
        }
        if let Some(part) = part {
            safe.push_str(&format!("-{part:05}"));
        }
        Self(format!("{safe}-{}", &sha256_hex(canonical.as_bytes())[..digits]))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the file name of a Parquet part of the shard, whose content has the digest `digest`.
    #[must_use]
    pub fn part_name(&self, digest: &str) -> String {
        part_name(&self.0, digest)
    }
}

/// Returns the file name of a Parquet part, as [`ShardId::part_name`], for a shard's name as text.
#[must_use]
pub fn part_name(shard: &str, digest: &str) -> String {
    format!("part-{shard}-{digest}.parquet")
}

/// Returns the file name of a webdataset part, as [`part_name`].
#[must_use]
pub fn webdataset_part_name(shard: &str, digest: &str) -> String {
    format!("part-{shard}-{digest}.tar")
}

/// Returns the name of the shard that a part belongs to, by the part's file name; for parts of older versions the old name. `None`
/// for other files.
#[must_use]
pub fn shard_of_part(file: &str) -> Option<&str> {
    let name = file.strip_prefix("part-")?;
    let name = name.strip_suffix(".parquet").or_else(|| name.strip_suffix(".tar"))?;
    let is_digest = |text: &str| text.len() == DIGEST && text.bytes().all(|b| b.is_ascii_hexdigit());
    match name.rsplit_once('-') {
        Some((shard, digest))
            if is_digest(digest) && shard.rsplit_once('-').is_some_and(|(_, d)| is_digest(d)) =>
        {
            Some(shard)
        }
        _ => Some(name),
    }
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_cut_from_urls() {
        assert_eq!(
            redact_url("https://me:pw@h.example/a/00000.tar?X-Amz-Signature=secret#x"),
            "https://h.example/a/00000.tar"
        );
        assert_eq!(redact_url("s3://bucket/a b.tar"), "s3://bucket/a b.tar");
        assert_eq!(redact_url("/data/what?.tar"), "/data/what?.tar");
    }

    #[test]
    fn secrets_are_cut_from_messages() {
        assert_eq!(
            redact_text(
                "GET http://me:pw@h/a.tar?sig=s&x=1 failed (http://h/b?sig=s): \"https://k:v@h/c#d\", file:///a?b"
            ),
            "GET http://h/a.tar failed (http://h/b \"https://h/c\", file:///a?b"
        );
        assert_eq!(
            redact_text(r#"{"error":"\"s3://b/x?sig=s\" is gone"}"#),
            r#"{"error":"\"s3://b/x\" is gone"}"#
        );
        assert_eq!(
            redact_text(
                "shard s3://b/l.csv#part=2: it (s3://k:v@b/l.csv?x=y#part=10) is gone; s3://b/x#part=secret"
            ),
            "shard s3://b/l.csv#part=2: it (s3://b/l.csv#part=10) is gone; s3://b/x"
        );
        for plain in ["", "://", "no address", "a: b//c"] {
            assert_eq!(redact_text(plain), plain);
        }
    }

    #[test]
    fn passwords_with_unescaped_characters_are_no_hosts() {
        for secret in ["pa/ss", "pa?ss", "pa#ss", "p@ss", "p/a?s#s@x", "12a/3", "pa:ss/x"] {
            let url = format!("https://me:{secret}@h.example/a.tar?sig=s");
            assert_eq!(redact_url(&url), "https://h.example/a.tar", "{url}");
            let text = format!("GET \"{url}\" failed");
            assert_eq!(redact_text(&text), "GET \"https://h.example/a.tar\" failed");
        }
        for secret in ["pa ss", "pa\"ss", "pa<ss", "pa'ss", "pa\\ss"] {
            let text = format!("cannot use https://me:{secret}@h.example/a.tar now");
            assert_eq!(redact_text(&text), "cannot use https://h.example/a.tar now");
        }
        // Hosts with ports, and names with an @ in the path, are what they were.
        for url in
            ["http://127.0.0.1:8080/a@b.tar", "http://[::1]:80/a@b", "s3://bucket/a@b:c.tar", "http://h:/x@y"]
        {
            assert_eq!(redact_url(url), url);
        }
        assert_eq!(
            redact_text("http://h.example: it is gone, ask a@b"),
            "http://h.example: it is gone, ask a@b"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\tb\n"), "a\tb\n");
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{202e}"), "a\\u{1b}[2Jb\\u{d}c\\u{202e}");
    }

    #[test]
    fn part_names_give_the_shard() {
        let id = ShardId::from_url("s3://b/00000.tar");
        let name = id.part_name("0123456789abcdef");
        assert_eq!(shard_of_part(&name), Some(id.as_str()));
        let old = ShardId::old_from_url("s3://b/00000.tar");
        assert_eq!(shard_of_part(&format!("part-{old}.parquet")), Some(old.as_str()));
        assert_eq!(shard_of_part(&webdataset_part_name(id.as_str(), "0123456789abcdef")), Some(id.as_str()));
        assert_eq!(shard_of_part("mine.parquet"), None);
    }

    #[test]
    fn shards_of_one_stem_have_distinct_names() {
        let urls = (0..100_000).map(|n| format!("s3://bucket/data/{n:06}/00000.tar"));
        let names: std::collections::HashSet<ShardId> = urls.map(|url| ShardId::from_url(&url)).collect();
        assert_eq!(names.len(), 100_000);
    }

    #[test]
    fn names_are_path_safe_and_distinct() {
        let id = ShardId::from_url("s3://b/x/../we ird.v1.tar");
        assert!(id.as_str().starts_with("we_ird-"), "{id}");
        assert!(!id.as_str().contains(['/', '.', ' ']));
        assert_ne!(ShardId::from_url("s3://a/0.tar"), ShardId::from_url("s3://b/0.tar"));
        assert!(ShardId::from_url("s3://b/.tar").as_str().starts_with("shard-"));
        let part = part_url("s3://b/x/list.csv", 17);
        assert_eq!(part, "s3://b/x/list.csv#part=17");
        assert!(ShardId::from_url(&part).as_str().starts_with("list-00017-"));
        assert_eq!(redact_url(&part), part);
        assert_eq!(redact_url("http://h/list.csv?key=secret#part=2"), "http://h/list.csv#part=2");
        assert_eq!(redact_url("http://h/list.csv#part=2x"), "http://h/list.csv");
        assert_eq!(part_url("/list.csv", 0), "/list.csv");
    }
}
