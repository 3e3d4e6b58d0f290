//! How many samples a shard has, without reading it: from a footer, a listing, the rows of a list, or headers.
//!
//! For planning. What cannot be counted within a bounded number of bytes is estimated from the part that was read. No sample is
//! made, nothing is decoded, nothing is written.

mod archive;
mod list;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use recaption_messages::{ByteBudget, ReadCounters, ReadError, ReadSink};
use tokio::sync::mpsc;

use super::{
    context::ReadContext,
    counts::SharedCounts,
    folder,
    open::{self, ByteStream},
    settings::ReadSettings,
    shard::{ObjectFormat, object_format, unavailable},
    table,
};
use crate::shards::{FileRole, FolderFiles, ListPart, ShardRef, ShardSource};

/// Most files of a folder whose first bytes are read to find out whether they are images.
const MAX_UNKNOWN_FILES: usize = 1024;

/// How the samples of a shard were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountMethod {
    /// The footer of a Parquet file.
    ParquetFooter,
    /// The rows of a list.
    ListRows,
    /// The listing of a folder.
    FolderListing,
    /// The headers of an archive.
    ArchiveHeaders,
}

/// The number of a shard's samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleCount {
    /// Number of samples, rejects included.
    pub samples: u64,
    /// Whether they were counted to the end; otherwise the number is an estimate.
    pub is_exact: bool,
    /// How they were counted.
    pub method: CountMethod,
    /// Compressed bytes of the largest row group, of the columns that are read; 0 if it is not Parquet.
    pub row_group_bytes: u64,
    /// Why the shard can be read only in part, if that was seen.
    pub damage: Option<String>,
}

impl SampleCount {
    fn exact(samples: u64, method: CountMethod) -> Self {
        Self { samples, is_exact: true, method, row_group_bytes: 0, damage: None }
    }

    fn estimate(samples: u64, method: CountMethod) -> Self {
        Self { is_exact: false, ..Self::exact(samples, method) }
    }
}

/// Counts or estimates the samples of a shard.
///
/// # Errors
/// When the shard is missing, unreadable, or of no known format: a run would fail on it with the same error.
pub async fn count_samples(shard: &ShardRef, settings: &ReadSettings) -> Result<SampleCount, ReadError> {
    let (budget, counters, counts) = (ByteBudget::new(0), ReadCounters::default(), SharedCounts::default());
    let sink = ReadSink::Ordered(mpsc::channel(1).0);
    let context = ReadContext {
        number: 0,
        shard,
        settings,
        budget: &budget,
        bytes_read: &counters.bytes,
        samples_read: &counters.samples,
        previous: None,
        counts: &counts,
        sink: &sink,
    };
    match &shard.source {
        ShardSource::Unavailable { error, .. } => Err(unavailable(context, error)),
        ShardSource::ListPart { part, .. } => Ok(count_of_part(part)),
        ShardSource::Folder { files, .. } => count_folder(context, files).await,
        ShardSource::Object(_) => match object_format(context)? {
            ObjectFormat::Table => count_table(context).await,
            ObjectFormat::List(kind) => list::count(context, kind).await,
            ObjectFormat::Archive => archive::count(context).await,
        },
    }
}

fn count_of_part(part: &ListPart) -> SampleCount {
    let row_group_bytes = if part.text.is_none() { part.bytes } else { 0 };
    let count = SampleCount::exact(part.rows.end - part.rows.start, CountMethod::ListRows);
    SampleCount { row_group_bytes, ..count }
}

async fn count_table(context: ReadContext<'_>) -> Result<SampleCount, ReadError> {
    let rows = table::count_rows(context).await?;
    let method = if rows.has_images { CountMethod::ParquetFooter } else { CountMethod::ListRows };
    Ok(SampleCount { row_group_bytes: rows.largest_group_bytes, ..SampleCount::exact(rows.rows, method) })
}

/// Counts the images of a folder. Of very many files whose names do not show whether they are images, all count.
async fn count_folder(context: ReadContext<'_>, files: &FolderFiles) -> Result<SampleCount, ReadError> {
    let of_role = |role| files.files.iter().filter(|(found, _)| *found == role).count();
    let unknown = of_role(FileRole::Unknown);
    if unknown > MAX_UNKNOWN_FILES {
        let files = (of_role(FileRole::Image) + unknown) as u64;
        return Ok(SampleCount::estimate(files, CountMethod::FolderListing));
    }
    let images = folder::find_images(context, files).await?;
    Ok(SampleCount::exact(images.len() as u64, CountMethod::FolderListing))
}

/// Opens the first `max` bytes of a shard, or all of it. Web servers need not support ranges for small ones.
async fn open_start(context: ReadContext<'_>, max: u64) -> Result<ByteStream, ReadError> {
    if context.shard.size() <= max {
        open::open_whole(context).await
    } else {
        open::open_range(context, 0..max).await
    }
}

/// Collects a stream.
async fn collect(context: ReadContext<'_>, stream: ByteStream) -> Result<Bytes, ReadError> {
    let bytes = stream.try_fold(BytesMut::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    bytes.await.map(BytesMut::freeze).map_err(|e| context.store_error(&e))
}

/// Returns the number of samples of `size` bytes, where the first `bytes` held `samples`.
fn extrapolate(samples: u64, bytes: u64, size: u64) -> u64 {
    let whole = u128::from(samples) * u128::from(size) / u128::from(bytes.max(1));
    u64::try_from(whole).unwrap_or(u64::MAX).max(1)
}
