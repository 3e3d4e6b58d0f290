//! The bytes of a shard, in order. An object that changes while it is read is an error.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStoreExt};

use super::{context::ReadContext, sniff::SNIFF_BYTES};
use crate::shards::ShardRef;
use recaption_messages::ReadError;
use recaption_store::{ErrorKind, StoreKind};

/// Size of the pieces in which local files are read, bytes; other stores choose theirs.
const LOCAL_CHUNK_BYTES: u64 = 1 << 20;

/// Bytes as they arrive.
pub(super) type ByteStream = BoxStream<'static, object_store::Result<Bytes>>;

/// The start of a shard.
pub(super) struct ShardStart {
    /// At least [`SNIFF_BYTES`], or the whole shard.
    pub(super) bytes: Bytes,
    /// The following bytes.
    pub(super) rest: ByteStream,
}

/// Opens a shard; `None` if it is empty.
///
/// # Errors
/// Those of the store.
pub(super) async fn open_shard(context: ReadContext<'_>) -> Result<Option<ShardStart>, ReadError> {
    let mut rest = open(context.shard, None).await.map_err(|e| context.store_error(&e))?;
    let bytes = gather_start(&mut rest).await.map_err(|e| context.store_error(&e))?;
    context.count_bytes(bytes.len());
    Ok((!bytes.is_empty()).then_some(ShardStart { bytes, rest }))
}

/// Gathers the first [`SNIFF_BYTES`], which may arrive one by one.
async fn gather_start(pieces: &mut ByteStream) -> object_store::Result<Bytes> {
    let mut first = Bytes::new();
    while (first.len() as u64) < SNIFF_BYTES
        && let Some(piece) = pieces.next().await.transpose()?
    {
        first = if first.is_empty() { piece } else { [first, piece].concat().into() };
    }
    Ok(first)
}

/// Returns the next bytes and counts them.
///
/// # Errors
/// Those of the store.
pub(super) async fn next(
    bytes: &mut ByteStream,
    context: ReadContext<'_>,
) -> Result<Option<Bytes>, ReadError> {
    let piece = bytes.next().await.transpose().map_err(|e| context.store_error(&e))?;
    if let Some(piece) = &piece {
        context.count_bytes(piece.len());
    }
    Ok(piece)
}

/// Opens a whole shard.
///
/// # Errors
/// Those of the store.
pub(super) async fn open_whole(context: ReadContext<'_>) -> Result<ByteStream, ReadError> {
    open(context.shard, None).await.map_err(|e| context.store_error(&e))
}

/// Opens a range of a shard.
///
/// # Errors
/// Those of the store.
pub(super) async fn open_range(context: ReadContext<'_>, range: Range<u64>) -> Result<ByteStream, ReadError> {
    if range.is_empty() {
        return Ok(futures::stream::empty().boxed());
    }
    open(context.shard, Some(range)).await.map_err(|e| context.store_error(&e))
}

/// Returns whether the shard's server answers range requests. Some web servers do not.
///
/// # Errors
/// Transient errors of the store.
pub(super) async fn supports_range_requests(context: ReadContext<'_>) -> Result<bool, ReadError> {
    match open(context.shard, Some(0..1)).await {
        Ok(_) => Ok(true),
        Err(error) if ErrorKind::of(&error).is_retryable() => Err(context.store_error(&error)),
        Err(_) => Ok(false),
    }
}

/// Opens a shard, or a range of it.
async fn open(shard: &ShardRef, range: Option<Range<u64>>) -> object_store::Result<ByteStream> {
    let location = shard.location.clone();
    match location.kind {
        StoreKind::Bucket | StoreKind::Hub | StoreKind::Http => {
            let bounded = range.clone().map(GetRange::Bounded);
            let options = GetOptions::new().with_if_match(shard.precondition()).with_range(bounded);
            let got = location.store.get_opts(&location.path, options).await?;
            let expected = range.unwrap_or(0..shard.size());
            if got.meta.size != shard.size() || got.range != expected {
                // A proxy that announces fewer bytes would silently truncate the shard.
                let what = format!(
                    "the response announces bytes {:?} of {}, expected {expected:?} of {}",
                    got.range,
                    got.meta.size,
                    shard.size()
                );
                let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what);
                return Err(object_store::Error::Generic { store: "recaption", source: Box::new(source) });
            }
            Ok(got.into_stream())
        }
        StoreKind::Local => {
            let (range, etag) = (range.unwrap_or(0..shard.size()), shard.precondition());
            location.store.head(&location.path).await?;
            let pieces = futures::stream::iter(range.clone().step_by(LOCAL_CHUNK_BYTES as usize));
            Ok(pieces
                .then(move |from| {
                    let (location, etag) = (location.clone(), etag.clone());
                    let piece = GetRange::Bounded(from..range.end.min(from + LOCAL_CHUNK_BYTES));
                    async move {
                        let options = GetOptions::new().with_range(Some(piece)).with_if_match(etag);
                        location.store.get_opts(&location.path, options).await?.bytes().await
                    }
                })
                .boxed())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn start_is_gathered_from_any_pieces() {
        let pieces = |text: &'static str, size: usize| {
            let pieces = text.as_bytes().chunks(size).map(|piece| Ok(Bytes::from_static(piece)));
            futures::stream::iter(pieces.collect::<Vec<_>>()).boxed()
        };
        for size in 1..8 {
            let mut rest = pieces("PAR1 and more", size);
            let first = gather_start(&mut rest).await.expect("memory");
            assert_eq!(first, "PAR1 and more", "pieces of {size}");
        }
        assert_eq!(gather_start(&mut pieces("ab", 1)).await.expect("memory"), "ab");
        assert_eq!(gather_start(&mut pieces("", 1)).await.expect("memory"), "");
    }
}
