//! `CaptionRow | Reject -> Parquet part`: one file per shard and table, uploaded as it grows, visible only when whole.
//!
//! Encoding runs on tokio's blocking threads; uploads are async. A row group is closed before it reaches
//! [`ROW_GROUP_BYTES`], so memory is bounded whatever the size of a shard.

use std::{collections::BTreeMap, io, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use bytes::Bytes;
use futures::StreamExt;
use object_store::{ObjectStoreExt, buffered::BufWriter};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use recaption_schemas::{PartInfo, hex};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::store::{Fault, Location, words};

/// Uncompressed bytes after which a row group is closed. The contract says below 100 MB.
pub const ROW_GROUP_BYTES: usize = 64 << 20;
/// Compression level of zstd: the fastest of the usual ones; captions are small beside images.
const ZSTD_LEVEL: i32 = 3;
/// Parts up to this size go up in one request; larger ones as a multipart upload with pieces of this size.
const UPLOAD_BYTES: usize = 16 << 20;
/// What the encoder has written is handed on in pieces of about this size. In one buffer, a row group with images would
/// double that buffer's size again and again, and all of it would stay until the last byte is sent.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces of one upload in flight.
const UPLOAD_CONCURRENCY: usize = 4;

/// Why a part could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The encoder.
    #[error("{part}: cannot encode Parquet: {source}")]
    Encode {
        /// The part.
        part: String,
        /// Why.
        source: ParquetError,
    },
    /// The upload.
    #[error("{part}: cannot upload: {}", upload_words(source))]
    Upload {
        /// The part.
        part: String,
        /// Why.
        source: std::io::Error,
    },
}

impl WriteError {
    /// What is to be done about it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Encode { .. } => Fault::Permanent,
            Self::Upload { source, .. } => match stored(source) {
                // An upload that is not there any more was closed, or cleared away: the part can be sent again.
                Some(object_store::Error::NotFound { .. }) => Fault::Exhausted,
                Some(error) => Fault::of(error),
                None => Fault::of_io(source),
            },
        }
    }
}

/// The store's own error within one of input and output.
fn stored(error: &std::io::Error) -> Option<&object_store::Error> {
    error.get_ref()?.downcast_ref()
}

fn upload_words(error: &std::io::Error) -> String {
    stored(error).map_or_else(|| error.to_string(), words)
}

/// A part under construction.
pub struct PartWriter {
    url: String,
    place: Location,
    encoder: Option<ArrowWriter<Pieces>>,
    upload: BufWriter,
    /// Uncompressed bytes in the open row group. The encoder's own numbers are of compressed pages.
    group_bytes: usize,
    rows: u64,
    bytes: u64,
    sum: Sha256,
}

/// A part that is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

impl Written {
    /// What a commit record says of it.
    #[must_use]
    pub fn info(self, path: &str) -> PartInfo {
        PartInfo { path: path.to_owned(), rows: self.rows, bytes: self.bytes, sha256: Some(self.sha256) }
    }
}

impl PartWriter {
    /// Begins a part at `location`.
    ///
    /// # Errors
    /// When the schema cannot be written as Parquet.
    pub fn new(location: &Location, schema: Arc<Schema>) -> Result<Self, WriteError> {
        let encode = |source| WriteError::Encode { part: location.url(), source };
        let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(encode)?;
        // Arrow's own copy of the metadata is hidden inside its schema; readers look here. Sorted: equal runs, equal bytes.
        let sorted: BTreeMap<_, _> = schema.metadata().iter().collect();
        let metadata = sorted.into_iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(metadata))
            .set_compression(Compression::ZSTD(level))
            // A name without a version would hide what wrote the file; a time or host would break equality.
            .set_created_by(concat!("recaption ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let encoder = ArrowWriter::try_new(Pieces::default(), schema, Some(properties)).map_err(encode)?;
        let upload =
            BufWriter::with_capacity(Arc::clone(&location.store), location.path.clone(), UPLOAD_BYTES)
                .with_max_concurrency(UPLOAD_CONCURRENCY);
        Ok(Self {
            url: location.url(),
            place: location.clone(),
            encoder: Some(encoder),
            upload,
            group_bytes: 0,
            rows: 0,
            bytes: 0,
            sum: Sha256::new(),
        })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// When encoding or uploading fails; the part is then lost and never visible.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), WriteError> {
        self.rows += batch.num_rows() as u64;
        let bytes = uncompressed_bytes(&batch);
        let full = self.group_bytes > 0 && self.group_bytes + bytes > ROW_GROUP_BYTES;
        self.group_bytes = if full { bytes } else { self.group_bytes + bytes };
        let done = self
            .encode(move |encoder| {
                if full {
                    encoder.flush()?;
                }
                encoder.write(&batch)?;
                Ok(encoder.inner_mut().take())
            })
            .await?;
        self.send(done).await
    }

    /// Completes the part and makes it visible.
    ///
    /// # Errors
    /// When encoding or uploading fails.
    pub async fn finish(mut self) -> Result<Written, WriteError> {
        let rest = self
            .encode(|encoder| {
                encoder.finish()?;
                Ok(encoder.inner_mut().take())
            })
            .await?;
        self.send(rest).await?;
        let completed = self.upload.shutdown().await;
        let sha256 = hex(&self.sum.finalize());
        if let Err(source) = completed {
            // The answer to a completion may be lost: asked again, a store knows of no such upload any more.
            if !is_there(&self.place, self.bytes, &sha256).await {
                return Err(WriteError::Upload { part: self.url, source });
            }
            tracing::warn!(
                part = self.url,
                error = upload_words(&source),
                "an upload went well without an answer"
            );
        }
        Ok(Written { rows: self.rows, bytes: self.bytes, sha256 })
    }

    /// Gives up a part: nothing of it becomes visible.
    pub async fn abort(mut self) {
        if let Err(error) = self.upload.abort().await {
            tracing::debug!(part = self.url, %error, "an unfinished upload could not be aborted");
        }
    }

    async fn encode(
        &mut self,
        work: impl FnOnce(&mut ArrowWriter<Pieces>) -> Result<Vec<Bytes>, ParquetError> + Send + 'static,
    ) -> Result<Vec<Bytes>, WriteError> {
        let failed = |source| WriteError::Encode { part: self.url.clone(), source };
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

    async fn send(&mut self, pieces: Vec<Bytes>) -> Result<(), WriteError> {
        for piece in pieces {
            self.bytes += piece.len() as u64;
            self.sum.update(&piece);
            let failed = |source: object_store::Error| WriteError::Upload {
                part: self.url.clone(),
                source: source.into(),
            };
            self.upload.put(piece).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// What the encoder has written and nobody took yet.
#[derive(Default)]
struct Pieces {
    whole: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    fn close(&mut self) {
        if !self.open.is_empty() {
            self.whole.push(std::mem::take(&mut self.open).into());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.close();
        std::mem::take(&mut self.whole)
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.len() + bytes.len() > PIECE_BYTES {
            self.close();
        }
        self.open.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an object is there and is this one.
async fn is_there(place: &Location, bytes: u64, sha256: &str) -> bool {
    let Ok(got) = place.store.get(&place.path).await else { return false };
    if got.meta.size != bytes {
        return false;
    }
    let (mut pieces, mut sum) = (got.into_stream(), Sha256::new());
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return false };
        sum.update(&piece);
    }
    hex(&sum.finalize()) == sha256
}

/// Bytes of a batch's values, without what its buffers hold in reserve.
fn uncompressed_bytes(batch: &RecordBatch) -> usize {
    let slices = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    slices.sum::<Result<usize, _>>().unwrap_or_else(|_| batch.get_array_memory_size())
}
