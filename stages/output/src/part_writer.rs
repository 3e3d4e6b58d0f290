//! `CaptionRow | Reject -> Parquet part`: one file per shard and table, uploaded as it grows, visible only when complete.
//!
//! Parts of different content never have the same name: a part is named by the digest of its bytes, and one that is too large
//! to be buffered until its last byte is known, by a random number.
//!
//! Encoding runs on tokio's blocking threads; uploads are async. A row group is closed before it reaches
//! [`ROW_GROUP_BYTES`], so memory is bounded whatever the size of a shard.

use std::{collections::BTreeMap, io, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload, buffered::BufWriter};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use recaption_schemas::{PartInfo, hex, part_name, sha256_hex};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use recaption_store::{ErrorKind, Location, user_message};

use crate::digest::object_digest;

/// Uncompressed bytes after which a row group is closed. The output schema promises less than 100 MB.
pub const ROW_GROUP_BYTES: usize = 64 << 20;
/// Compression level of zstd: the fastest of the usual ones; captions are small beside images.
const ZSTD_LEVEL: i32 = 3;
/// Largest part, in bytes, that is uploaded by one request; larger ones are multipart uploads with pieces of this size.
const UPLOAD_BYTES: usize = 16 << 20;
/// Size of the chunks that the encoder's output is divided into. A single buffer would be reallocated to twice its size again
/// and again by a row group with images, and be freed only after its last byte is sent.
const CHUNK_BYTES: usize = 1 << 20;
/// Hex digits of the digest in a part's name.
const NAME_DIGITS: usize = 16;
/// Pieces of one upload in flight.
const UPLOAD_CONCURRENCY: usize = 4;

/// Why a part cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The encoder failed.
    #[error("{part}: cannot encode Parquet: {source}")]
    Encode {
        /// The part's URL.
        part: String,
        /// The encoder's error.
        source: ParquetError,
    },
    /// The upload failed.
    #[error("{part}: cannot upload: {}", upload_error(source))]
    Upload {
        /// The part's URL.
        part: String,
        /// The store's error.
        source: std::io::Error,
    },
}

impl WriteError {
    /// Returns what can be done about the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Encode { .. } => ErrorKind::Permanent,
            Self::Upload { source, .. } => match store_error(source) {
                // The upload was completed or aborted elsewhere: the part can be sent again.
                Some(object_store::Error::NotFound { .. }) => ErrorKind::Exhausted,
                Some(error) => ErrorKind::of(error),
                None => ErrorKind::of_io(source),
            },
        }
    }
}

/// Returns the store's own error within an input or output error.
fn store_error(error: &std::io::Error) -> Option<&object_store::Error> {
    error.get_ref()?.downcast_ref()
}

fn upload_error(error: &std::io::Error) -> String {
    store_error(error).map_or_else(|| error.to_string(), user_message)
}

/// Where a part is written, and what its name is derived from.
#[derive(Clone, Copy, Debug)]
pub struct PartTarget<'a> {
    /// The output.
    pub output: &'a Location,
    /// Folder of the table: `captions` or `rejects`.
    pub table: &'static str,
    /// The shard's name.
    pub shard: &'a str,
    /// Fingerprint of input and configuration: equal bytes of two configurations are two parts.
    pub fingerprint: &'a str,
}

impl PartTarget<'_> {
    /// Returns the part's path below the output.
    fn path(&self, digest: &str) -> String {
        format!("{}/{}", self.table, part_name(self.shard, digest))
    }
}

/// A part being written.
pub struct PartWriter {
    output: Location,
    table: &'static str,
    shard: String,
    fingerprint: String,
    encoder: Option<ArrowWriter<ChunkBuffer>>,
    /// Chunks that are not sent yet: the part may fit into one request.
    buffered: Vec<Bytes>,
    upload: Option<(String, BufWriter)>,
    /// Uncompressed bytes in the open row group. The encoder's own counts are of compressed pages.
    group_bytes: usize,
    rows: u64,
    bytes: u64,
    digest: Sha256,
}

/// A part that is complete and visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPart {
    /// Path below the output.
    pub path: String,
    /// Number of rows.
    pub rows: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

impl WrittenPart {
    /// Returns what a commit record says about the part.
    #[must_use]
    pub fn info(self) -> PartInfo {
        PartInfo { path: self.path, rows: self.rows, bytes: self.bytes, sha256: Some(self.sha256) }
    }
}

impl PartWriter {
    /// Starts a part at `target`.
    ///
    /// # Errors
    /// Returns an error when the schema cannot be written as Parquet.
    pub fn new(target: PartTarget<'_>, schema: Arc<Schema>) -> Result<Self, WriteError> {
        let part = || format!("{} of {}", target.table, target.shard);
        let encode = |source| WriteError::Encode { part: part(), source };
        let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(encode)?;
        // Arrow's own copy of the metadata is hidden inside its schema; readers look here. Sorted: equal runs, equal bytes.
        let sorted: BTreeMap<_, _> = schema.metadata().iter().collect();
        let metadata = sorted.into_iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(metadata))
            .set_compression(Compression::ZSTD(level))
            // The version tells which program wrote the file; a time or host would make equal runs unequal.
            .set_created_by(concat!("recaption ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let encoder =
            ArrowWriter::try_new(ChunkBuffer::default(), schema, Some(properties)).map_err(encode)?;
        Ok(Self {
            output: target.output.clone(),
            table: target.table,
            shard: target.shard.to_owned(),
            fingerprint: target.fingerprint.to_owned(),
            encoder: Some(encoder),
            buffered: Vec::new(),
            upload: None,
            group_bytes: 0,
            rows: 0,
            bytes: 0,
            digest: Sha256::new(),
        })
    }

    fn target(&self) -> PartTarget<'_> {
        PartTarget {
            output: &self.output,
            table: self.table,
            shard: &self.shard,
            fingerprint: &self.fingerprint,
        }
    }

    /// Returns the part's URL, as far as its name is known.
    fn url(&self) -> String {
        let path = self.upload.as_ref().map_or_else(|| self.target().path("..."), |(path, _)| path.clone());
        format!("{}/{path}", self.output.url())
    }

    /// Appends rows.
    ///
    /// # Errors
    /// Returns an error when encoding or uploading fails. The part is then lost and never visible.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), WriteError> {
        self.rows += batch.num_rows() as u64;
        let bytes = uncompressed_bytes(&batch);
        let full = self.group_bytes > 0 && self.group_bytes + bytes > ROW_GROUP_BYTES;
        self.group_bytes = if full { bytes } else { self.group_bytes + bytes };
        let chunks = self
            .encode(move |encoder| {
                if full {
                    encoder.flush()?;
                }
                encoder.write(&batch)?;
                Ok(encoder.inner_mut().take())
            })
            .await?;
        self.send(chunks).await
    }

    /// Completes the part and makes it visible.
    ///
    /// # Errors
    /// Returns an error when encoding or uploading fails.
    pub async fn finish(mut self) -> Result<WrittenPart, WriteError> {
        let rest = self
            .encode(|encoder| {
                encoder.finish()?;
                Ok(encoder.inner_mut().take())
            })
            .await?;
        self.send(rest).await?;
        let sha256 = hex(&std::mem::take(&mut self.digest).finalize());
        let (path, completed) = match self.upload.take() {
            Some((path, mut upload)) => (path, upload.shutdown().await),
            None => {
                let digest = &sha256_hex(format!("{sha256} {}", self.fingerprint).as_bytes())[..NAME_DIGITS];
                let path = self.target().path(digest);
                let location = self.output.child(&path);
                let payload = PutPayload::from_iter(std::mem::take(&mut self.buffered));
                (path, location.store.put(&location.path, payload).await.map(drop).map_err(io::Error::from))
            }
        };
        if let Err(source) = completed {
            let location = self.output.child(&path);
            // The response of a completed upload may be lost: at the next attempt the store knows no such upload any more.
            if !has_content(&location, self.bytes, &sha256).await {
                return Err(WriteError::Upload { part: location.url(), source });
            }
            tracing::warn!(
                part = location.url(),
                error = upload_error(&source),
                "upload completed but its response was lost"
            );
        }
        Ok(WrittenPart { path, rows: self.rows, bytes: self.bytes, sha256 })
    }

    /// Aborts the part: nothing of it becomes visible.
    pub async fn abort(mut self) {
        let Some((path, upload)) = &mut self.upload else { return };
        if let Err(error) = upload.abort().await {
            tracing::debug!(part = path, %error, "upload not aborted");
        }
    }

    async fn encode(
        &mut self,
        work: impl FnOnce(&mut ArrowWriter<ChunkBuffer>) -> Result<Vec<Bytes>, ParquetError> + Send + 'static,
    ) -> Result<Vec<Bytes>, WriteError> {
        let part = self.url();
        let failed = |source| WriteError::Encode { part: part.clone(), source };
        let mut encoder = self
            .encoder
            .take()
            .ok_or_else(|| failed(ParquetError::General("the part failed before".into())))?;
        let (encoder, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut encoder);
            (encoder, result)
        })
        .await
        .map_err(|e| failed(ParquetError::General(e.to_string())))?;
        self.encoder = Some(encoder);
        result.map_err(failed)
    }

    /// Sends chunks, or buffers them while the part may fit into one request.
    async fn send(&mut self, chunks: Vec<Bytes>) -> Result<(), WriteError> {
        for chunk in chunks {
            self.bytes += chunk.len() as u64;
            self.digest.update(&chunk);
            self.buffered.push(chunk);
        }
        if self.upload.is_none() && self.bytes <= UPLOAD_BYTES as u64 {
            return Ok(());
        }
        let (path, mut upload) = self.upload.take().unwrap_or_else(|| {
            let path = self.target().path(&format!("{:016x}", fastrand::u64(..)));
            let location = self.output.child(&path);
            let upload = BufWriter::with_capacity(location.store, location.path, UPLOAD_BYTES)
                .with_max_concurrency(UPLOAD_CONCURRENCY);
            (path, upload)
        });
        for chunk in std::mem::take(&mut self.buffered) {
            let sent = upload.put(chunk).await;
            sent.map_err(|source| WriteError::Upload { part: path.clone(), source: source.into() })?;
        }
        self.upload = Some((path, upload));
        Ok(())
    }
}

impl std::fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartWriter")
            .field("part", &self.url())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// The encoder's output, in chunks.
#[derive(Default)]
struct ChunkBuffer {
    complete: Vec<Bytes>,
    open: Vec<u8>,
}

impl ChunkBuffer {
    fn close(&mut self) {
        if !self.open.is_empty() {
            self.complete.push(std::mem::take(&mut self.open).into());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.close();
        std::mem::take(&mut self.complete)
    }
}

impl io::Write for ChunkBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.len() + bytes.len() > CHUNK_BYTES {
            self.close();
        }
        self.open.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether an object exists and has this size and digest.
async fn has_content(location: &Location, bytes: u64, sha256: &str) -> bool {
    let Ok(meta) = location.store.head(&location.path).await else { return false };
    meta.size == bytes && object_digest(location).await.ok().flatten().as_deref() == Some(sha256)
}

/// Returns the bytes of a batch's values, without unused capacity of its buffers.
fn uncompressed_bytes(batch: &RecordBatch) -> usize {
    let slices = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    slices.sum::<Result<usize, _>>().unwrap_or_else(|_| batch.get_array_memory_size())
}
