//! Listings of buckets without the keys that no path can name: `/a`, `a//b`, `a/./b`, control characters.
//!
//! object_store refuses a whole page of a listing for one such key. Here they are removed from the response before it is
//! parsed, with a warning that counts them.

use std::borrow::Cow;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{
    client::{
        ClientOptions, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService, ReqwestConnector,
    },
    path::Path,
};

/// Elements of a listing, each with its element that holds the key: of S3 and Google Cloud Storage, then of Azure.
const ENTRIES: [(&str, &str); 4] =
    [("Contents", "Key"), ("CommonPrefixes", "Prefix"), ("Blob", "Name"), ("BlobPrefix", "Name")];

/// Makes HTTP clients whose listings hold only keys that a path can name.
#[derive(Debug, Default)]
pub(crate) struct FilteredListings {
    inner: ReqwestConnector,
}

impl HttpConnector for FilteredListings {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client { inner: self.inner.connect(options)? }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_listing = request.method().as_str() == "GET"
            && request.uri().query().is_some_and(|query| {
                query.split('&').any(|part| matches!(part, "list-type=2" | "comp=list"))
            });
        let response = self.inner.execute(request).await?;
        if !is_listing || !response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let bytes = body.bytes().await?;
        Ok(HttpResponse::from_parts(head, HttpResponseBody::from(remove_invalid_keys(bytes))))
    }
}

/// Returns a listing without the entries whose keys no path can name.
fn remove_invalid_keys(listing: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&listing) else { return listing };
    let (mut kept, mut skipped, mut first) = (String::new(), 0, None);
    for (entry, name) in ENTRIES {
        let source = if kept.is_empty() { text.to_owned() } else { std::mem::take(&mut kept) };
        let (open, close) = (format!("<{entry}>"), format!("</{entry}>"));
        let mut rest = source.as_str();
        while let Some(at) = rest.find(&open) {
            let Some(end) = rest[at..].find(&close).map(|end| at + end + close.len()) else { break };
            kept.push_str(&rest[..at]);
            let key = key_of(&rest[at..end], name);
            if key.as_deref().is_some_and(|key| key.starts_with('/') || Path::parse(key).is_err()) {
                skipped += 1;
                first = first.or(key.map(Cow::into_owned));
            } else {
                kept.push_str(&rest[at..end]);
            }
            rest = &rest[end..];
        }
        kept.push_str(rest);
    }
    let Some(first) = first else { return listing };
    tracing::warn!(keys = skipped, first, "skipped invalid keys in a bucket listing");
    kept.into()
}

/// Returns the key of an entry, with its character references resolved.
fn key_of<'a>(entry: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, rest) = entry.split_once(&format!("<{name}>"))?;
    let (key, _) = rest.split_once(&format!("</{name}>"))?;
    if !key.contains('&') {
        return Some(Cow::Borrowed(key));
    }
    let mut text = String::with_capacity(key.len());
    let mut rest = key;
    while let Some((before, after)) = rest.split_once('&') {
        text.push_str(before);
        let (reference, after) = after.split_once(';')?;
        text.push(match reference {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let digits = reference.strip_prefix('#')?;
                let number = match digits.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => digits.parse().ok()?,
                };
                char::from_u32(number)?
            }
        });
        rest = after;
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_invalid_keys_are_removed_from_listings() {
        let entry = |key: &str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let prefix = |key: &str| format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>");
        let listing = |keys: &[&str], prefixes: &[&str]| {
            let keys: String = keys.iter().map(|key| entry(key)).collect();
            let prefixes: String = prefixes.iter().map(|key| prefix(key)).collect();
            format!(
                "<ListBucketResult><Prefix>a/</Prefix>{keys}<KeyCount>2</KeyCount>{prefixes}</ListBucketResult>"
            )
        };
        let whole = listing(&["a/b.tar", "a&amp;b", "dir/"], &["a/c/"]);
        assert_eq!(remove_invalid_keys(whole.clone().into()), whole);
        let bad = listing(
            &["a/b.tar", "a//b.jpg", "a&amp;b", "a/&#9;", "/a/b", "a/../b", "dir/"],
            &["a//", "a/c/"],
        );
        assert_eq!(remove_invalid_keys(bad.into()), whole);
        let azure = "<Blobs><Blob><Name>a//b</Name></Blob><Blob><Name>a/b</Name></Blob></Blobs>";
        assert_eq!(remove_invalid_keys(azure.into()), "<Blobs><Blob><Name>a/b</Name></Blob></Blobs>");
        assert_eq!(remove_invalid_keys("no listing".into()), "no listing");
    }
}
