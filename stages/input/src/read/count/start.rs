//! The first bytes of a shard.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use recaption_messages::ReadError;

use crate::read::{
    context::ReadContext,
    open::{self, ByteStream},
};

/// Opens the first `max` bytes of a shard, or all of it. Web servers need not support ranges for small ones.
pub(super) async fn open_start(context: ReadContext<'_>, max: u64) -> Result<ByteStream, ReadError> {
    if context.shard.size() <= max {
        open::open_whole(context).await
    } else {
        open::open_range(context, 0..max).await
    }
}

/// Collects a stream.
pub(super) async fn collect(context: ReadContext<'_>, stream: ByteStream) -> Result<Bytes, ReadError> {
    let bytes = stream.try_fold(BytesMut::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    bytes.await.map(BytesMut::freeze).map_err(|e| context.store_error(&e))
}
