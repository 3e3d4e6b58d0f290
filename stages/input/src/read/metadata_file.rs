//! Loads the metadata files of image folders.

use std::sync::Arc;

use object_store::{GetOptions, ObjectMeta};
use recaption_messages::ReadError;
use recaption_store::{ErrorKind, user_message};

use super::{
    context::ReadContext,
    metadata::{Metadata, parse},
};
use crate::format::MetadataKind;

/// Largest metadata file, bytes. It is held in memory.
const MAX_BYTES: u64 = 1 << 30;

/// Returns the metadata of a file, from the run's cache or the store. Malformed rows are counted, and logged once.
///
/// # Errors
/// Those of the store, and a file that is too large.
pub(super) async fn load_metadata(
    context: ReadContext<'_>,
    meta: &ObjectMeta,
    kind: MetadataKind,
) -> Result<Arc<Metadata>, ReadError> {
    let url = context.shard.location.url_of(&meta.location);
    let name = format!("{url} {} {:?} {}", meta.size, meta.e_tag, meta.last_modified);
    context.settings.metadata.get_or_load(name, download(context, meta, kind, &url)).await
}

async fn download(
    context: ReadContext<'_>,
    meta: &ObjectMeta,
    kind: MetadataKind,
    url: &str,
) -> Result<Metadata, ReadError> {
    if meta.size > MAX_BYTES {
        let what = format!("{url} has {} bytes, more than {MAX_BYTES}: split it", meta.size);
        return Err(context.data_error(&what));
    }
    let options = GetOptions::new().with_if_match(meta.e_tag.clone());
    let got = match context.shard.location.store.get_opts(&meta.location, options).await {
        Ok(got) => got.bytes().await,
        Err(error) => Err(error),
    };
    let metadata = match got {
        Ok(bytes) => {
            context.count_bytes(bytes.len());
            let parsed = tokio::task::spawn_blocking(move || parse(bytes, kind)).await;
            parsed.map_err(|e| context.data_error(&format!("cannot parse {url}: {e}")))?
        }
        Err(error) if ErrorKind::is_of_one_object(&error) => {
            let mut metadata = Metadata::default();
            metadata.count_malformed("the file", &user_message(&error));
            metadata
        }
        Err(error) => return Err(context.store_error(&error)),
    };
    if let Some(first_error) = &metadata.first_error {
        let malformed = metadata.malformed;
        tracing::warn!(file = url, malformed, first_error, "skipped malformed rows of a metadata file");
    }
    Ok(metadata)
}
