//! A shard's bytes in order. An object that changes meanwhile is an error, not a mixture.

use std::{ops::Range, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStoreExt};

use super::{ReadError, Reading};
use crate::shards::ShardRef;
use recaption_store::{ErrorKind, StoreKind};

/// Local files are read in pieces of this size, bytes; other stores stream as they like.
const LOCAL_CHUNK: u64 = 1 << 20;

/// Bytes as they arrive.
pub type Pieces = BoxStream<'static, object_store::Result<Bytes>>;

/// A shard's first bytes, and what follows.
pub struct First {
    /// At least a block of a tar, or all that there are.
    pub bytes: Bytes,
    /// The rest.
    pub rest: Pieces,
}

/// Opens a shard; `None` where it is empty.
///
/// # Errors
/// When it cannot be read.
pub async fn first(reading: Reading<'_>) -> Result<Option<First>, ReadError> {
    let mut rest = open(reading.shard, None).await.map_err(|e| reading.transport(&e))?;
    let bytes = start(&mut rest).await.map_err(|e| reading.transport(&e))?;
    reading.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
    Ok((!bytes.is_empty()).then_some(First { bytes, rest }))
}

/// Bytes by which formats are told apart.
const MAGIC_BYTES: usize = super::sniff::ENOUGH as usize;

/// The first bytes, as many as formats are told by where there are so many: a network may hand out one at a time.
async fn start(pieces: &mut Pieces) -> object_store::Result<Bytes> {
    let mut first = Bytes::new();
    while first.len() < MAGIC_BYTES
        && let Some(piece) = pieces.next().await.transpose()?
    {
        first = if first.is_empty() { piece } else { [first, piece].concat().into() };
    }
    Ok(first)
}

/// The next bytes, counted.
///
/// # Errors
/// When they cannot be read.
pub async fn next(bytes: &mut Pieces, reading: Reading<'_>) -> Result<Option<Bytes>, ReadError> {
    let piece = bytes.next().await.transpose().map_err(|e| reading.transport(&e))?;
    if let Some(piece) = &piece {
        reading.bytes_read.fetch_add(piece.len() as u64, Relaxed);
    }
    Ok(piece)
}

/// The condition on which a store hands out a shard's bytes.
pub fn condition(shard: &ShardRef) -> Option<String> {
    match shard.location.kind {
        StoreKind::Http => None,
        // Some servers list no entity tags; a time is no condition that one could be asked to keep.
        _ => shard.etag.clone().filter(|_| shard.tagged),
    }
}

/// Some bytes of a shard.
///
/// # Errors
/// When they cannot be read.
pub async fn range(reading: Reading<'_>, range: Range<u64>) -> Result<Pieces, ReadError> {
    if range.is_empty() {
        return Ok(futures::stream::empty().boxed());
    }
    open(reading.shard, Some(range)).await.map_err(|e| reading.transport(&e))
}

/// Whether a shard's store sends the part of it that it is asked for; some web servers do not, or say so in their own way.
///
/// # Errors
/// When it cannot be read.
pub async fn hands_out_ranges(reading: Reading<'_>) -> Result<bool, ReadError> {
    match open(reading.shard, Some(0..1)).await {
        Ok(_) => Ok(true),
        Err(error) if ErrorKind::of(&error).is_retryable() => Err(reading.transport(&error)),
        Err(_) => Ok(false),
    }
}

/// All bytes of a shard, or some.
async fn open(shard: &ShardRef, range: Option<Range<u64>>) -> object_store::Result<Pieces> {
    let location = shard.location.clone();
    match location.kind {
        StoreKind::Bucket | StoreKind::Hub | StoreKind::Http => {
            let bounded = range.clone().map(GetRange::Bounded);
            let options = GetOptions::new().with_if_match(condition(shard)).with_range(bounded);
            let got = location.store.get_opts(&location.path, options).await?;
            let wanted = range.unwrap_or(0..shard.size);
            if got.meta.size != shard.size || got.range != wanted {
                // A proxy that announces too little would cut the shard, and rows with it.
                let what = format!(
                    "the answer announces bytes {:?} of {}, not {wanted:?} of {}",
                    got.range, got.meta.size, shard.size
                );
                let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what);
                return Err(object_store::Error::Generic { store: "recaption", source: Box::new(source) });
            }
            Ok(got.into_stream())
        }
        StoreKind::Local => {
            let (range, etag) = (range.unwrap_or(0..shard.size), condition(shard));
            location.store.head(&location.path).await?;
            let pieces = futures::stream::iter(range.clone().step_by(LOCAL_CHUNK as usize));
            Ok(pieces
                .then(move |from| {
                    let (location, etag) = (location.clone(), etag.clone());
                    let piece = GetRange::Bounded(from..range.end.min(from + LOCAL_CHUNK));
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
    async fn the_first_bytes_are_enough_to_tell_formats_by_whatever_the_pieces() {
        let pieces = |text: &'static str, size: usize| {
            let pieces = text.as_bytes().chunks(size).map(|piece| Ok(Bytes::from_static(piece)));
            futures::stream::iter(pieces.collect::<Vec<_>>()).boxed()
        };
        for size in 1..8 {
            let mut rest = pieces("PAR1 and more", size);
            let first = start(&mut rest).await.expect("memory");
            assert_eq!(first, "PAR1 and more", "pieces of {size}");
        }
        assert_eq!(start(&mut pieces("ab", 1)).await.expect("memory"), "ab");
        assert_eq!(start(&mut pieces("", 1)).await.expect("memory"), "");
    }
}
