//! Some samples of a shard, for a look at the input: as few bytes as the format allows.
//!
//! | format | what is read |
//! |---|---|
//! | tar | from a byte at each place, on to the next whole sample (see [`super::sample_archive`]) |
//! | compressed tar, server without ranges | the first samples |
//! | Parquet | the footer, then pages where the file has an index of them, else a tenth of the row groups |
//! | list of URLs in text | the list, or its part, which row numbers depend on |
//! | folder | the metadata files, and the files of the chosen samples |
//!
//! Samples are those of [`super::read_shard`], with the same keys, but for what depends on the rest of the shard: that a key of a
//! tar or a table occurred before, or that a tar is damaged elsewhere.

use bytes::Bytes;
use recaption_messages::{ReadStop, ShardContents};
use recaption_store::StoreKind;

use super::{
    archive,
    context::{ReadContext, ReadRequest},
    counts::SharedCounts,
    folder, list, open,
    places::Places,
    raw_samples::Selection,
    sample_archive,
    shard::{ObjectFormat, check_tar_start, object_format, unavailable},
    sniff::SNIFF_BYTES,
    table,
};
use crate::{
    format::{InputFormat, PARQUET_MAGIC},
    shards::ShardSource,
    tar::is_header,
};

/// Bytes of a tar that a place costs at least. A tar with fewer per place is read whole.
const BYTES_PER_PLACE: u64 = sample_archive::FIRST_WINDOW_BYTES;

/// What was read of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardSample {
    /// The samples that were read; `samples` counts them alone.
    pub contents: ShardContents,
    /// Samples of the whole shard, where that is known.
    pub shard_samples: Option<u64>,
    /// Bytes of a tar from sample to sample, and the number of samples that were measured.
    pub tar_bytes: (u64, u64),
}

impl ShardSample {
    fn of((contents, shard_samples): (ShardContents, u64)) -> Self {
        Self { contents, shard_samples: Some(shard_samples), tar_bytes: (0, 0) }
    }
}

/// Reads the samples at some places of a shard, and sends them and their rejects to the request's sink. Rows of an earlier run
/// are not looked at.
///
/// # Errors
/// As [`super::read_shard`].
pub async fn sample_shard(request: ReadRequest<'_>, places: &Places) -> Result<ShardSample, ReadStop> {
    let ReadRequest { number, shard, settings, budget, counters, sink, .. } = request;
    let counts = SharedCounts::default();
    let context = ReadContext {
        number,
        shard,
        settings,
        budget,
        bytes_read: &counters.bytes,
        samples_read: &counters.samples,
        clock: &counters.clock,
        previous: None,
        counts: &counts,
        sink,
    };
    let mut sample = match &shard.source {
        ShardSource::Unavailable { error, .. } => return Err(unavailable(context, error).into()),
        ShardSource::Folder { files, .. } => {
            ShardSample::of(folder::read_some(context, files, Some(places)).await?)
        }
        ShardSource::Object(_) | ShardSource::ListPart { .. } => match object_format(context)? {
            ObjectFormat::Table => ShardSample::of(table::read_some(context, places).await?),
            ObjectFormat::List(kind) => ShardSample::of(list::read_some(context, kind, Some(places)).await?),
            ObjectFormat::Archive => sample_archive(context, places).await?,
        },
    };
    sample.contents.input = counts.get();
    Ok(sample)
}

/// Samples a tar, or what a shard of unknown name is by its first bytes.
async fn sample_archive(context: ReadContext<'_>, places: &Places) -> Result<ShardSample, ReadStop> {
    let has_ranges =
        context.shard.location.kind != StoreKind::Http || open::supports_range_requests(context).await?;
    let start = if has_ranges { start_of(context).await? } else { Bytes::new() };
    if context.settings.format == InputFormat::Auto && start.starts_with(PARQUET_MAGIC) {
        return Ok(ShardSample::of(table::read_some(context, places).await?));
    }
    let is_small = context.shard.size() <= BYTES_PER_PLACE * places.len() as u64;
    // A compressed tar has no header there, nor has what is no tar, which its reader explains.
    if !is_small && start.first_chunk().is_some_and(is_header) {
        let (contents, tar_bytes) = sample_archive::read(context, places).await?;
        return Ok(ShardSample { contents, shard_samples: None, tar_bytes });
    }
    let selection = if is_small && has_ranges {
        Selection::Any(places.reservoir())
    } else {
        Selection::First(places.len() as u64)
    };
    let Some(start) = open::open_shard(context).await? else {
        return Ok(ShardSample { contents: archive::read_empty(context)?, ..ShardSample::default() });
    };
    check_tar_start(context, &start.bytes)?;
    let (contents, shard_samples) = archive::read_some(context, start, Some(selection)).await?;
    Ok(ShardSample { contents, shard_samples, ..ShardSample::default() })
}

/// Returns the first bytes of a shard, by a request for these alone.
async fn start_of(context: ReadContext<'_>) -> Result<Bytes, ReadStop> {
    let mut pieces = open::open_range(context, 0..context.shard.size().min(SNIFF_BYTES)).await?;
    let mut start = Vec::new();
    while let Some(piece) = open::next(&mut pieces, context).await? {
        start.extend_from_slice(&piece);
    }
    Ok(start.into())
}
