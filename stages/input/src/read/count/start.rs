//! The first bytes of a shard.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use recaption_messages::ReadError;
use recaption_store::StoreKind;

use crate::read::{
    context::ReadContext,
    open::{self, ByteStream},
};

/// Returns whether parts of a shard can be requested. Some web servers send every file whole.
pub(super) async fn has_ranges(context: ReadContext<'_>) -> Result<bool, ReadError> {
    Ok(context.shard.location.kind != StoreKind::Http || open::supports_range_requests(context).await?)
}

/// Opens the first `max` bytes of a shard, or all of it: if it is no longer, or comes whole only. The caller stops at `max`.
pub(super) async fn open_start(context: ReadContext<'_>, max: u64) -> Result<ByteStream, ReadError> {
    if context.shard.size() <= max || !has_ranges(context).await? {
        open::open_whole(context).await
    } else {
        open::open_range(context, 0..max).await
    }
}

/// Collects a stream up to its end, or until there are `min` bytes.
pub(super) async fn collect(
    context: ReadContext<'_>,
    mut stream: ByteStream,
    min: u64,
) -> Result<Bytes, ReadError> {
    let mut all = BytesMut::new();
    while (all.len() as u64) < min
        && let Some(piece) = stream.try_next().await.map_err(|e| context.store_error(&e))?
    {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}
