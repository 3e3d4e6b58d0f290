//! Reads a part that [`super::WebdatasetWriter`] wrote, sample by sample, for a retry that keeps samples.

use bytes::{Bytes, BytesMut};
use futures::{TryStreamExt, stream::BoxStream};
use object_store::ObjectStoreExt;
use recaption_schemas::PartInfo;
use recaption_store::{Location, StoreError};

use super::sample::{BLOCK_BYTES, MEMBERS};
use crate::part_reader::ReadPartError;

/// Largest member that is copied, bytes: above what a run reads by default.
const MAX_MEMBER_BYTES: u64 = 4 << 30;

/// Reads one webdataset part from its start.
pub struct WebdatasetReader {
    location: Location,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    buffer: BytesMut,
}

impl WebdatasetReader {
    /// Opens the part of `output` that a commit record describes.
    ///
    /// # Errors
    /// Returns an error when the part does not exist or has another size.
    pub async fn open(output: &Location, recorded: &PartInfo) -> Result<Self, ReadPartError> {
        let location = output.child(&recorded.path);
        let got = location.store.get(&location.path).await;
        let got = got.map_err(|source| StoreError::Store { url: location.url(), source })?;
        if got.meta.size != recorded.bytes {
            let what = format!("it has {} bytes instead of {}", got.meta.size, recorded.bytes);
            return Err(ReadPartError::invalid(&location, &what));
        }
        Ok(Self { location, pieces: got.into_stream(), buffer: BytesMut::new() })
    }

    /// Returns the members of the next sample, as bytes of a tar.
    ///
    /// # Errors
    /// Returns an error when the store fails, or the part ends.
    pub(super) async fn next_sample(&mut self) -> Result<Vec<Bytes>, ReadPartError> {
        let mut members = Vec::with_capacity(2 * MEMBERS);
        for _ in 0..MEMBERS {
            let header = self.take(BLOCK_BYTES).await?;
            let size = tar::Header::from_byte_slice(&header).size().unwrap_or(u64::MAX);
            let size = Some(size).filter(|size| *size <= MAX_MEMBER_BYTES && header[0] != 0);
            let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
                return Err(ReadPartError::invalid(&self.location, &"it ends too early, or is damaged"));
            };
            members.push(header);
            members.push(self.take(size.next_multiple_of(BLOCK_BYTES)).await?);
        }
        Ok(members)
    }

    /// Returns exactly the next `bytes` bytes.
    async fn take(&mut self, bytes: usize) -> Result<Bytes, ReadPartError> {
        while self.buffer.len() < bytes {
            let piece = self.pieces.try_next().await;
            let piece = piece.map_err(|source| StoreError::Store { url: self.location.url(), source })?;
            let Some(piece) = piece else {
                return Err(ReadPartError::invalid(&self.location, &"it ends too early"));
            };
            self.buffer.extend_from_slice(&piece);
        }
        Ok(self.buffer.split_to(bytes).freeze())
    }
}

impl std::fmt::Debug for WebdatasetReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebdatasetReader").field("part", &self.location).finish_non_exhaustive()
    }
}
