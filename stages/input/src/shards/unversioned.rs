//! Web servers that send neither an entity tag nor a time of change: the content itself is the version tag, so that a change
//! is noticed.

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};
use recaption_schemas::hex;
use recaption_store::{ErrorKind, Location, user_message};
use sha2::{Digest, Sha256};

use super::version::{ObjectVersion, VersionTag};

/// Attempts at reading an object. Each starts over, since an unversioned object cannot be resumed.
const ATTEMPTS: u32 = 3;

/// Returns the version of an object that its server does not tag.
pub(super) async fn version_by_content(
    location: &Location,
    meta: &ObjectMeta,
) -> object_store::Result<ObjectVersion> {
    tracing::warn!(
        shard = location.url(),
        "server sends neither ETag nor Last-Modified; reading the shard once more to detect changes"
    );
    let (size, sha256) = content_digest(location).await?;
    Ok(ObjectVersion { size, tag: VersionTag::Content(sha256), modified: Some(meta.last_modified) })
}

/// Reads an object, and returns its size and the SHA-256 of its bytes in hex.
pub(crate) async fn content_digest(location: &Location) -> object_store::Result<(u64, String)> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let read = async {
            let (mut size, mut digest) = (0, Sha256::new());
            let mut pieces = location.store.get(&location.path).await?.into_stream();
            while let Some(piece) = pieces.try_next().await? {
                size += piece.len() as u64;
                digest.update(&piece);
            }
            Ok((size, hex(&digest.finalize())))
        };
        match read.await {
            Err(error) if attempts > 0 && ErrorKind::of(&error).is_retryable() => {
                let (shard, error) = (location.url(), user_message(&error));
                tracing::warn!(shard, error, "reading the shard failed; retrying");
            }
            result => return result,
        }
    }
}
