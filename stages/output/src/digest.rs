//! SHA-256 of bytes and of objects.

use futures::TryStreamExt;
use object_store::{Error, ObjectStoreExt};
use recaption_schemas::hex;
use recaption_store::{Location, StoreError};
use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type ContentDigest = [u8; 32];

/// Returns the digest of `bytes`.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> ContentDigest {
    Sha256::digest(bytes).into()
}

/// Returns the digest of an object's bytes in hex, `None` if there is no such object.
///
/// # Errors
/// Returns an error when the store fails for good.
pub async fn object_digest(location: &Location) -> Result<Option<String>, StoreError> {
    let failed = |source| StoreError::Store { url: location.url(), source };
    let mut pieces = match location.store.get(&location.path).await {
        Ok(got) => got.into_stream(),
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut digest = Sha256::new();
    while let Some(piece) = pieces.try_next().await.map_err(failed)? {
        digest.update(&piece);
    }
    Ok(Some(hex(&digest.finalize())))
}
