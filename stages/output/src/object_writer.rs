//! Bytes -> an object in a store: uploaded as they come, visible only when complete.
//!
//! A part is named by the digest of its bytes, so that different content never has the same name; one that is too large to be
//! buffered until its last byte is known, by a random number. Other objects have fixed names.

use std::io;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload, buffered::BufWriter};
use recaption_schemas::{PartInfo, hex, part_name, sha256_hex, webdataset_part_name};
use recaption_store::Location;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::{
    digest::object_digest,
    layout::WEBDATASET,
    write_error::{WriteError, upload_error},
};

/// Largest object, in bytes, that is uploaded by one request; larger ones are multipart uploads with pieces of this size.
const UPLOAD_BYTES: usize = 16 << 20;
/// Hex digits of the digest in a part's name.
const NAME_DIGITS: usize = 16;
/// Pieces of one upload in flight.
const UPLOAD_CONCURRENCY: usize = 4;

/// Where a part is written, and what its name is derived from.
#[derive(Clone, Copy, Debug)]
pub struct PartTarget<'a> {
    /// The output.
    pub output: &'a Location,
    /// Folder of the table: `captions`, `rejects` or `webdataset`.
    pub table: &'static str,
    /// The shard's name.
    pub shard: &'a str,
    /// Fingerprint of input and configuration: equal bytes of two configurations are two parts.
    pub fingerprint: &'a str,
}

/// How an object is named.
#[derive(Clone, Debug)]
enum Name {
    /// By its content, in the folder of a table.
    Content { table: &'static str, shard: String, fingerprint: String },
    /// By its path below the output.
    Fixed(String),
}

impl Name {
    fn path(&self, digest: &str) -> String {
        match self {
            Self::Content { table, shard, .. } if *table == WEBDATASET => {
                format!("{table}/{}", webdataset_part_name(shard, digest))
            }
            Self::Content { table, shard, .. } => format!("{table}/{}", part_name(shard, digest)),
            Self::Fixed(path) => path.clone(),
        }
    }
}

/// A part that is complete and visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPart {
    /// Path below the output.
    pub path: String,
    /// Number of rows, or of samples.
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

/// An object being written.
pub(crate) struct ObjectWriter {
    output: Location,
    name: Name,
    /// Chunks that are not sent yet: the object may fit into one request.
    buffered: Vec<Bytes>,
    upload: Option<(String, BufWriter)>,
    bytes: u64,
    digest: Sha256,
}

impl ObjectWriter {
    /// Starts a part, which is named by its content.
    pub(crate) fn part(target: PartTarget<'_>) -> Self {
        let (shard, fingerprint) = (target.shard.to_owned(), target.fingerprint.to_owned());
        Self::new(target.output, Name::Content { table: target.table, shard, fingerprint })
    }

    /// Starts the object at `path` below `output`. An existing one is replaced when the new one is complete.
    pub(crate) fn at(output: &Location, path: &str) -> Self {
        Self::new(output, Name::Fixed(path.to_owned()))
    }

    fn new(output: &Location, name: Name) -> Self {
        let (output, buffered) = (output.clone(), Vec::new());
        Self { output, name, buffered, upload: None, bytes: 0, digest: Sha256::new() }
    }

    /// Returns the object's URL, as far as its name is known.
    pub(crate) fn url(&self) -> String {
        let path = self.upload.as_ref().map_or_else(|| self.name.path("..."), |(path, _)| path.clone());
        format!("{}/{path}", self.output.url())
    }

    /// Sends chunks, or buffers them while the object may fit into one request.
    pub(crate) async fn send(&mut self, chunks: impl IntoIterator<Item = Bytes>) -> Result<(), WriteError> {
        for chunk in chunks {
            self.bytes += chunk.len() as u64;
            self.digest.update(&chunk);
            self.buffered.push(chunk);
        }
        if self.upload.is_none() && self.bytes <= UPLOAD_BYTES as u64 {
            return Ok(());
        }
        let (path, mut upload) = self.upload.take().unwrap_or_else(|| {
            let path = self.name.path(&format!("{:016x}", fastrand::u64(..)));
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

    /// Completes the object of `rows` rows and makes it visible.
    pub(crate) async fn finish(mut self, rows: u64) -> Result<WrittenPart, WriteError> {
        let sha256 = hex(&std::mem::take(&mut self.digest).finalize());
        let (path, completed) = match self.upload.take() {
            Some((path, mut upload)) => (path, upload.shutdown().await),
            None => {
                let fingerprint = match &self.name {
                    Name::Content { fingerprint, .. } => fingerprint.as_str(),
                    Name::Fixed(_) => "",
                };
                let digest = &sha256_hex(format!("{sha256} {fingerprint}").as_bytes())[..NAME_DIGITS];
                let path = self.name.path(digest);
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
        Ok(WrittenPart { path, rows, bytes: self.bytes, sha256 })
    }

    /// Aborts the object: nothing of it becomes visible.
    pub(crate) async fn abort(mut self) {
        let Some((path, upload)) = &mut self.upload else { return };
        if let Err(error) = upload.abort().await {
            tracing::debug!(part = path, %error, "upload not aborted");
        }
    }
}

/// Returns whether an object exists and has this size and digest.
async fn has_content(location: &Location, bytes: u64, sha256: &str) -> bool {
    let Ok(meta) = location.store.head(&location.path).await else { return false };
    meta.size == bytes && object_digest(location).await.ok().flatten().as_deref() == Some(sha256)
}
