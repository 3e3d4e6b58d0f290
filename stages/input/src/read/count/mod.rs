//! How many samples a shard has, without reading it: from a footer, a listing, the rows of a list, or headers.
//!
//! For planning. What cannot be counted within a bounded number of bytes is estimated from the part that was read. No sample is
//! made, nothing is decoded, nothing is written.

mod archive;
mod list;
mod rows;
mod sample_count;
mod start;

use recaption_messages::{ByteBudget, ReadCounters, ReadError, ReadSink};
use tokio::sync::mpsc;

pub use self::sample_count::{CountMethod, SampleCount};
use super::{
    context::ReadContext,
    counts::SharedCounts,
    folder,
    settings::ReadSettings,
    shard::{ObjectFormat, object_format, unavailable},
};
use crate::shards::{FileRole, FolderFiles, ListPart, ShardRef, ShardSource};

/// Most files of a folder whose first bytes are read to find out whether they are images.
const MAX_UNKNOWN_FILES: usize = 1024;

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
        clock: &counters.clock,
        previous: None,
        counts: &counts,
        sink: &sink,
    };
    match &shard.source {
        ShardSource::Unavailable { error, .. } => Err(unavailable(context, error)),
        ShardSource::ListPart { part, .. } => Ok(count_of_part(part)),
        ShardSource::Folder { files, .. } => count_folder(context, files).await,
        ShardSource::Object(_) => match object_format(context)? {
            ObjectFormat::Table => rows::count(context).await,
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
