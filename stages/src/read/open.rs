//! A shard's bytes in order. An object that changes meanwhile is an error, not a mixture.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStoreExt};

use super::{ReadError, Reading};
use crate::{shards::ShardRef, store::StoreKind};

/// Local files are read in pieces of this size, bytes; other stores stream as they like.
const LOCAL_CHUNK: u64 = 1 << 20;

/// A shard's first bytes, and what follows.
pub struct First {
    /// At least four, or all that there are.
    pub bytes: Bytes,
    /// The rest.
    pub rest: BoxStream<'static, object_store::Result<Bytes>>,
}

/// Opens a shard; `None` where it is empty.
///
/// # Errors
/// When it cannot be read.
pub async fn first(reading: Reading<'_>) -> Result<Option<First>, ReadError> {
    let mut rest = open(reading.shard).await.map_err(|e| reading.transport(&e))?;
    let bytes = start(&mut rest).await.map_err(|e| reading.transport(&e))?;
    reading.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
    Ok((!bytes.is_empty()).then_some(First { bytes, rest }))
}

/// Bytes by which formats are told apart.
const MAGIC_BYTES: usize = 4;

/// The first bytes, as many as formats are told by where there are so many: a network may hand out one at a time.
async fn start(pieces: &mut BoxStream<'static, object_store::Result<Bytes>>) -> object_store::Result<Bytes> {
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
pub async fn next(
    bytes: &mut BoxStream<'static, object_store::Result<Bytes>>,
    reading: Reading<'_>,
) -> Result<Option<Bytes>, ReadError> {
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

async fn open(shard: &ShardRef) -> object_store::Result<BoxStream<'static, object_store::Result<Bytes>>> {
    let location = shard.location.clone();
    match location.kind {
        StoreKind::Bucket | StoreKind::Hub | StoreKind::Http => {
            let options = GetOptions::new().with_if_match(condition(shard));
            let got = location.store.get_opts(&location.path, options).await?;
            if got.meta.size != shard.size {
                // A proxy that announces too little would cut the shard, and rows with it.
                let what = format!("the answer announces {} of {} bytes", got.meta.size, shard.size);
                let source = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what);
                return Err(object_store::Error::Generic { store: "recaption", source: Box::new(source) });
            }
            Ok(got.into_stream())
        }
        StoreKind::Local => {
            let (size, etag) = (shard.size, condition(shard));
            location.store.head(&location.path).await?;
            let pieces = futures::stream::iter((0..size).step_by(LOCAL_CHUNK as usize));
            Ok(pieces
                .then(move |from| {
                    let (location, etag) = (location.clone(), etag.clone());
                    async move {
                        let range = GetRange::Bounded(from..size.min(from + LOCAL_CHUNK));
                        let options = GetOptions::new().with_range(Some(range)).with_if_match(etag);
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
            assert!(first.starts_with(b"PAR1"), "pieces of {size}: {first:?}");
        }
        assert_eq!(start(&mut pieces("ab", 1)).await.expect("memory"), "ab");
        assert_eq!(start(&mut pieces("", 1)).await.expect("memory"), "");
    }
}
