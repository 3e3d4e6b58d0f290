//! Sources that tell no version: web servers that send neither an entity tag nor a time of change. What lies there is read to
//! know whether it changed; a tag is made of its bytes.

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};
use recaption_schemas::hex;
use sha2::{Digest, Sha256};

use super::regular::Absent;
use recaption_store::{Location, StoreKind, is_unversioned};

/// Beginning of a tag that is made of an object's bytes.
pub const CONTENT_TAG: &str = "content-sha256:";
/// Readings of an object that breaks: each begins anew, since none may be read on.
const ATTEMPTS: u32 = 3;

/// Gives an object a tag of its content where its server gives none.
pub(super) async fn tagged(location: &Location, mut meta: ObjectMeta) -> Result<ObjectMeta, Absent> {
    if location.kind != StoreKind::Http || !is_unversioned(&meta) {
        return Ok(meta);
    }
    tracing::warn!(
        shard = location.url(),
        "its server tells neither an entity tag nor a time of change: it is read once more, to know whether it changed"
    );
    let (size, sum) = content(location).await?;
    meta.size = size;
    meta.e_tag = Some(format!("{CONTENT_TAG}{sum}"));
    Ok(meta)
}

/// Size and sum of an object's bytes.
pub(crate) async fn content(location: &Location) -> object_store::Result<(u64, String)> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let read = async {
            let (mut size, mut sum) = (0, Sha256::new());
            let mut pieces = location.store.get(&location.path).await?.into_stream();
            while let Some(piece) = pieces.try_next().await? {
                size += piece.len() as u64;
                sum.update(&piece);
            }
            Ok((size, hex(&sum.finalize())))
        };
        match read.await {
            Err(error) if left > 0 && recaption_store::ErrorKind::of(&error).is_retryable() => {
                tracing::warn!(
                    shard = location.url(),
                    error = recaption_store::user_message(&error),
                    "it is read again"
                );
            }
            read => return read,
        }
    }
}
