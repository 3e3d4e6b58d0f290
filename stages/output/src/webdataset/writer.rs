//! Writes a webdataset shard. It is uploaded as it grows and visible only when complete.

use bytes::Bytes;
use recaption_store::Location;

use super::{
    reader::WebdatasetReader,
    sample::{BLOCK_BYTES, WebdatasetSample},
};
use crate::{
    object_writer::{ObjectWriter, PartTarget, WrittenPart},
    part_reader::ReadPartError,
    write_error::WriteError,
};

/// Blocks of zeros that end a tar.
const END_BLOCKS: usize = 2;

/// A webdataset shard being written.
pub struct WebdatasetWriter {
    object: ObjectWriter,
    samples: u64,
}

impl WebdatasetWriter {
    /// Starts a part at `target`.
    #[must_use]
    pub fn new(target: PartTarget<'_>) -> Self {
        Self { object: ObjectWriter::part(target), samples: 0 }
    }

    /// Starts the tar at `path` below `output`. An existing one is replaced when the new one is complete.
    #[must_use]
    pub fn at(output: &Location, path: &str) -> Self {
        Self { object: ObjectWriter::at(output, path), samples: 0 }
    }

    /// Appends a sample.
    ///
    /// # Errors
    /// Returns an error when the upload fails. The shard is then lost and never visible.
    pub async fn push(&mut self, sample: &WebdatasetSample<'_>) -> Result<(), WriteError> {
        let failed = |source| WriteError::Upload { part: self.object.url(), source };
        let members = sample.members().map_err(failed)?;
        self.samples += 1;
        self.object.send(members).await
    }

    /// Copies the next `samples` samples of an earlier part of the same shard.
    ///
    /// # Errors
    /// Returns an error when the earlier part cannot be read, or the upload fails.
    pub async fn copy(
        &mut self,
        earlier: &mut WebdatasetReader,
        samples: u64,
    ) -> Result<Result<(), WriteError>, ReadPartError> {
        for _ in 0..samples {
            let members = earlier.next_sample().await?;
            self.samples += 1;
            if let Err(error) = self.object.send(members).await {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Completes the shard and makes it visible.
    ///
    /// # Errors
    /// Returns an error when the upload fails.
    pub async fn finish(mut self) -> Result<WrittenPart, WriteError> {
        self.object.send([Bytes::from_static(&[0; END_BLOCKS * BLOCK_BYTES])]).await?;
        self.object.finish(self.samples).await
    }

    /// Aborts the shard: nothing of it becomes visible.
    pub async fn abort(self) {
        self.object.abort().await;
    }
}

impl std::fmt::Debug for WebdatasetWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebdatasetWriter")
            .field("shard", &self.object.url())
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}
