//! `CaptionRow | Reject -> Parquet part`: one file per shard and table, uploaded as it grows, visible only when whole.
//!
//! A part's name is never another content's: it is named by the digest of its bytes, and one that is too large to be held
//! until its last byte is known, by chance.
//!
//! Encoding runs on tokio's blocking threads; uploads are async. A row group is closed before it reaches
//! [`ROW_GROUP_BYTES`], so memory is bounded whatever the size of a shard.

use std::{collections::BTreeMap, io, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use bytes::Bytes;
use futures::StreamExt;
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

/// Uncompressed bytes after which a row group is closed. The contract says below 100 MB.
pub const ROW_GROUP_BYTES: usize = 64 << 20;
/// Compression level of zstd: the fastest of the usual ones; captions are small beside images.
const ZSTD_LEVEL: i32 = 3;
/// Parts up to this size go up in one request; larger ones as a multipart upload with pieces of this size.
const UPLOAD_BYTES: usize = 16 << 20;
/// What the encoder has written is handed on in pieces of about this size. In one buffer, a row group with images would
/// double that buffer's size again and again, and all of it would stay until the last byte is sent.
const PIECE_BYTES: usize = 1 << 20;
/// Hex digits of the digest in a part's name.
const NAME_DIGITS: usize = 16;
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
    #[error("{part}: cannot upload: {}", upload_error(source))]
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
    pub fn fault(&self) -> ErrorKind {
        match self {
            Self::Encode { .. } => ErrorKind::Permanent,
            Self::Upload { source, .. } => match stored(source) {
                // An upload that is not there any more was closed, or cleared away: the part can be sent again.
                Some(object_store::Error::NotFound { .. }) => ErrorKind::Exhausted,
                Some(error) => ErrorKind::of(error),
                None => ErrorKind::of_io(source),
            },
        }
    }
}

/// The store's own error within one of input and output.
fn stored(error: &std::io::Error) -> Option<&object_store::Error> {
    error.get_ref()?.downcast_ref()
}

fn upload_error(error: &std::io::Error) -> String {
    stored(error).map_or_else(|| error.to_string(), user_message)
}

/// Where a part goes, and what its name is made of.
#[derive(Clone, Copy, Debug)]
pub struct PartPlace<'a> {
    /// The output.
    pub output: &'a Location,
    /// Folder of its table.
    pub table: &'static str,
    /// Name of its shard.
    pub shard: &'a str,
    /// Fingerprint of input and configuration: equal bytes of two configurations are two parts.
    pub fingerprint: &'a str,
}

impl PartPlace<'_> {
    fn path(&self, digest: &str) -> String {
        format!("{}/{}", self.table, part_name(self.shard, digest))
    }
}

/// A part under construction.
pub struct PartWriter {
    output: Location,
    table: &'static str,
    shard: String,
    fingerprint: String,
    encoder: Option<ArrowWriter<Pieces>>,
    /// What is not sent yet, of a part that may go up in one request.
    held: Vec<Bytes>,
    upload: Option<(String, BufWriter)>,
    /// Uncompressed bytes in the open row group. The encoder's own numbers are of compressed pages.
    group_bytes: usize,
    rows: u64,
    bytes: u64,
    sum: Sha256,
}

/// A part that is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Path below the output.
    pub path: String,
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
    pub fn info(self) -> PartInfo {
        PartInfo { path: self.path, rows: self.rows, bytes: self.bytes, sha256: Some(self.sha256) }
    }
}

impl PartWriter {
    /// Begins a part at `place`.
    ///
    /// # Errors
    /// When the schema cannot be written as Parquet.
    pub fn new(place: PartPlace<'_>, schema: Arc<Schema>) -> Result<Self, WriteError> {
        let part = || format!("{} of {}", place.table, place.shard);
        let encode = |source| WriteError::Encode { part: part(), source };
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
        Ok(Self {
            output: place.output.clone(),
            table: place.table,
            shard: place.shard.to_owned(),
            fingerprint: place.fingerprint.to_owned(),
            encoder: Some(encoder),
            held: Vec::new(),
            upload: None,
            group_bytes: 0,
            rows: 0,
            bytes: 0,
            sum: Sha256::new(),
        })
    }

    fn place(&self) -> PartPlace<'_> {
        PartPlace {
            output: &self.output,
            table: self.table,
            shard: &self.shard,
            fingerprint: &self.fingerprint,
        }
    }

    /// Its URL, as far as its name is known.
    fn url(&self) -> String {
        let path = self.upload.as_ref().map_or_else(|| self.place().path("..."), |(path, _)| path.clone());
        format!("{}/{path}", self.output.url())
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
        let sha256 = hex(&std::mem::take(&mut self.sum).finalize());
        let (path, completed) = match self.upload.take() {
            Some((path, mut upload)) => (path, upload.shutdown().await),
            None => {
                let digest = &sha256_hex(format!("{sha256} {}", self.fingerprint).as_bytes())[..NAME_DIGITS];
                let path = self.place().path(digest);
                let place = self.output.child(&path);
                let held = PutPayload::from_iter(std::mem::take(&mut self.held));
                (path, place.store.put(&place.path, held).await.map(drop).map_err(io::Error::from))
            }
        };
        if let Err(source) = completed {
            let place = self.output.child(&path);
            // The answer to a completion may be lost: asked again, a store knows of no such upload any more.
            if !is_there(&place, self.bytes, &sha256).await {
                return Err(WriteError::Upload { part: place.url(), source });
            }
            tracing::warn!(
                part = place.url(),
                error = upload_error(&source),
                "an upload went well without an answer"
            );
        }
        Ok(Written { path, rows: self.rows, bytes: self.bytes, sha256 })
    }

    /// Gives up a part: nothing of it becomes visible.
    pub async fn abort(mut self) {
        let Some((path, upload)) = &mut self.upload else { return };
        if let Err(error) = upload.abort().await {
            tracing::debug!(part = path, %error, "an unfinished upload could not be aborted");
        }
    }

    async fn encode(
        &mut self,
        work: impl FnOnce(&mut ArrowWriter<Pieces>) -> Result<Vec<Bytes>, ParquetError> + Send + 'static,
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

    async fn send(&mut self, pieces: Vec<Bytes>) -> Result<(), WriteError> {
        for piece in pieces {
            self.bytes += piece.len() as u64;
            self.sum.update(&piece);
            self.held.push(piece);
        }
        if self.upload.is_none() && self.bytes <= UPLOAD_BYTES as u64 {
            return Ok(());
        }
        let (path, mut upload) = self.upload.take().unwrap_or_else(|| {
            let path = self.place().path(&format!("{:016x}", fastrand::u64(..)));
            let place = self.output.child(&path);
            let upload = BufWriter::with_capacity(place.store, place.path, UPLOAD_BYTES)
                .with_max_concurrency(UPLOAD_CONCURRENCY);
            (path, upload)
        });
        for piece in std::mem::take(&mut self.held) {
            let sent = upload.put(piece).await;
            sent.map_err(|source| WriteError::Upload { part: path.clone(), source: source.into() })?;
        }
        self.upload = Some((path, upload));
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
