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
    /// At least one.
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
    while let Some(bytes) = next(&mut rest, reading).await? {
        if !bytes.is_empty() {
            return Ok(Some(First { bytes, rest }));
        }
    }
    Ok(None)
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
