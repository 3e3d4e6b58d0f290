//! One shard by its URL, as a driver names it: nothing in the URL is a pattern.

use std::collections::HashMap;

use recaption_schemas::redact_url;
use recaption_store::{Location, Stores};

use super::{ListError, ShardRef, expand_braces, folder, list, list_file, lookup::look_up};
use crate::format::InputFormat;

/// Looks up an object. One that is not there, or cannot be looked up, is returned as
/// [`ShardSource::Unavailable`](super::ShardSource::Unavailable).
pub async fn look_up_object(location: Location) -> ShardRef {
    let unknown = |error| ShardRef::unavailable(location.clone(), error);
    let mut found = look_up(vec![location.clone()]).await;
    found.pop().unwrap_or_else(|| {
        let message = "it was not looked up".to_owned();
        unknown(super::LookupError { message, is_missing: false })
    })
}

/// Lists the shards of a folder: files directly in it, or else folders of images at any depth.
///
/// # Errors
/// When the folder cannot be listed.
pub async fn list_folder(folder: &Location, format: InputFormat) -> Result<Vec<ShardRef>, ListError> {
    folder::list(folder, format).await
}

/// Returns whether a URL or path names a folder: by its trailing slash, as a whole bucket or dataset, or because it is one on
/// this machine.
#[must_use]
pub fn is_folder(url: &str) -> bool {
    list::is_folder(url)
}

/// Returns the URLs of the patterns that have secrets, which are in the query or the user info, by their redacted form: a shard
/// is named without them. Globs and folders are left out.
///
/// # Errors
/// A file of patterns that cannot be read, or a range that is malformed.
pub async fn secret_urls(
    stores: &mut Stores,
    patterns: &[String],
) -> Result<HashMap<String, String>, ListError> {
    let mut secrets = HashMap::new();
    for pattern in list_file::expand(stores, patterns).await? {
        if redact_url(&pattern) == pattern {
            continue;
        }
        let malformed = |problem| ListError::Pattern { pattern: redact_url(&pattern), problem };
        for url in expand_braces(&pattern).map_err(malformed)? {
            secrets.insert(redact_url(&url), url);
        }
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn secrets_are_found_by_the_redacted_url() {
        let patterns = [
            "https://h.example/a.tar?sig=1".to_owned(),
            "https://u:p@h.example/{00..01}.tar".to_owned(),
            "https://h.example/plain.tar".to_owned(),
        ];
        let secrets = secret_urls(&mut Stores::default(), &patterns).await.expect("patterns");
        assert_eq!(secrets.len(), 3, "{secrets:?}");
        assert_eq!(secrets["https://h.example/a.tar"], patterns[0]);
        assert_eq!(secrets["https://h.example/01.tar"], "https://u:p@h.example/01.tar");
    }

    #[tokio::test]
    async fn missing_objects_are_unavailable_shards() {
        let location = Stores::default().locate("/no/such/{0..9}.tar").expect("a path");
        let shard = look_up_object(location).await;
        assert!(shard.url.ends_with(".tar"));
        assert!(shard.lookup_error().is_some_and(|error| error.is_missing), "{shard:?}");
    }
}
