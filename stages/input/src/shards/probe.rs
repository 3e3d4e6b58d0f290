//! What a file is by its first bytes, where its name does not show it.

use object_store::{GetOptions, GetRange, ObjectMeta};
use recaption_messages::{SNIFF_BYTES, is_image};
use recaption_store::Location;

/// Returns whether a file's first bytes are those of an image. `location` is any place of the file's store.
///
/// # Errors
/// Those of the store.
pub(crate) async fn is_image_file(location: &Location, meta: &ObjectMeta) -> object_store::Result<bool> {
    let end = meta.size.min(SNIFF_BYTES as u64);
    if end == 0 {
        return Ok(false);
    }
    let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..end)));
    let got = location.store.get_opts(&meta.location, options).await?;
    Ok(is_image(&got.bytes().await?))
}
