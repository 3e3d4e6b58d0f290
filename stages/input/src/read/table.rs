//! Rows of Parquet -> samples: image bytes in a column, as Hugging Face's `datasets` (`image`, a struct of bytes and path),
//! img2dataset (`jpg`) and this program's own output with embedded images have them.
//!
//! A row group is fetched at a time, only the columns that are needed, and decoded a few rows at a time on blocking threads. Of
//! one that is damaged every row that cannot be read is a reject; the others are read.

mod columns;
mod json;
mod row_groups;

use std::{ops::Range, sync::Arc, sync::atomic::Ordering::Relaxed};

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange};
use parquet::{
    DecodeResult,
    arrow::{ProjectionMask, arrow_reader::ArrowReaderOptions, push_decoder::ParquetPushDecoderBuilder},
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, RowGroupMetaData},
};
use recaption_messages::{ReadError, ReadStop, Sample, ShardContents};
use recaption_schemas::{Damage, OriginalCaption, Reject, RejectReason};
use serde_json::{Map, Value};

use self::{
    columns::{Chosen, Row},
    row_groups::{Lost, RowReader, Step, number, pieces},
};
use super::{Reading, list::Fetching, open::condition, sniff};
use crate::{
    fetch::ListRow,
    label::{DUPLICATE_KEY, Labelled, Labels},
};

/// Rows decoded together: of images that have a megabyte each these are tens of megabytes.
const BATCH_ROWS: usize = 32;
/// Bytes that a column of a batch may hold: its offsets are 32 bits.
const MAX_COLUMN_BYTES: i64 = i32::MAX as i64;
/// Bytes that a batch may unpack to whose values stand in a dictionary.
const MAX_DICTIONARY_BATCH: i64 = 256 << 20;
/// Bytes at the end that are asked for at once: footer and metadata of all but very large files.
const FOOTER_BYTES: u64 = 64 << 10;
/// Ranges asked for at the same time.
const REQUESTS: usize = 4;
/// Largest metadata, bytes.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Largest row group, unpacked bytes of the columns that are read: it is in memory, packed, while it is decoded.
const MAX_GROUP_BYTES: i64 = 4 << 30;

/// A table whose metadata was read, and of which the columns are chosen.
struct Opened {
    metadata: Arc<ParquetMetaData>,
    chosen: Chosen,
    mask: ProjectionMask,
}

fn builder(metadata: &Arc<ParquetMetaData>) -> Result<ParquetPushDecoderBuilder, String> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetPushDecoderBuilder::try_new_decoder_with_options(Arc::clone(metadata), options)
        .map_err(|e| format!("no Parquet that can be read: {e}"))
}

async fn open(reading: Reading<'_>) -> Result<Opened, ReadError> {
    let metadata = Arc::new(metadata(reading).await?);
    let builder = builder(&metadata).map_err(|e| reading.data(&e))?;
    let chosen = Chosen::among(builder.schema(), &reading.settings.columns, reading.settings.format);
    let chosen = chosen.map_err(|e| reading.data(&e))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), chosen.roots());
    check_groups(reading, &metadata, &mask)?;
    Ok(Opened { metadata, chosen, mask })
}

/// Row groups of a list of addresses: rows of each, and bytes of what is read of it. `None` where the images are there.
pub async fn groups_of_list(reading: Reading<'_>) -> Result<Option<Vec<Group>>, ReadError> {
    let Opened { metadata, chosen, mask } = open(reading).await?;
    let group = |group: &RowGroupMetaData| {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let bytes = columns.map(|(_, column)| u64::try_from(column.compressed_size()).unwrap_or(0));
        let bytes = bytes.fold(0, u64::saturating_add);
        Group { rows: u64::try_from(group.num_rows()).unwrap_or(0), bytes }
    };
    Ok((!chosen.has_image()).then(|| metadata.row_groups().iter().map(group).collect()))
}

/// A row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Rows.
    pub rows: u64,
    /// Packed bytes of the columns that are read.
    pub bytes: u64,
}

/// Reads a Parquet file with image bytes, or a list of addresses or a part of one.
pub async fn read(reading: Reading<'_>) -> Result<ShardContents, ReadStop> {
    let Opened { metadata, chosen, mask } = open(reading).await?;
    let kind = if chosen.has_image() { "Parquet" } else { "Parquet list of addresses" };
    reading.settings.announced.say(kind, &chosen.describe());
    let wanted = reading.shard.part.as_ref().map(|part| part.rows.clone());
    let (pieces, rows) = pieces(&metadata, wanted.as_ref());
    let batch = rows_together(&metadata, &mask);
    let rows_of = RowReader::new(reading, (metadata, mask), batch, pieces);
    if !chosen.has_image() {
        return read_list(reading, rows_of, &chosen, wanted.map_or(0, |wanted| wanted.start)).await;
    }
    read_images(reading, rows_of, chosen, rows).await
}

async fn read_images(
    reading: Reading<'_>,
    mut rows_of: RowReader<'_>,
    chosen: Chosen,
    rows: u64,
) -> Result<ShardContents, ReadStop> {
    let mut table = Table { reading, chosen, labels: Labels::default(), emitted: 0, unreadable: 0 };
    let (mut damage, mut row) = (None, 0);
    while let Some(step) = rows_of.next().await? {
        match step {
            Step::Rows(batch) => {
                table.emit(&batch, row).await?;
                row += batch.num_rows() as u64;
            }
            Step::Lost(lost) => {
                let detail = lost.detail(row, rows);
                damage.get_or_insert(Damage { offset: row, detail: detail.clone() });
                table.lose(&lost, row, &detail).await?;
                row = row.saturating_add(lost.rows);
            }
        }
    }
    Ok(ShardContents { damage, ..ShardContents::whole(table.emitted) })
}

/// Fetches what a table without images names; its rows begin with number `first`.
async fn read_list(
    reading: Reading<'_>,
    mut rows_of: RowReader<'_>,
    chosen: &Chosen,
    first: u64,
) -> Result<ShardContents, ReadStop> {
    let mut fetching = Fetching::new(reading)?;
    let (mut damage, mut row) = (None, first);
    loop {
        match fetching.beside(rows_of.next()).await?? {
            None => break,
            Some(Step::Rows(batch)) => {
                let begin = fetching.emitted();
                let rows = chosen.rows(&batch).map_err(|e| reading.data(&e))?.into_iter();
                let rows = rows.zip(0..).map(|(found, at)| {
                    let url = found.url.ok_or_else(|| "the row has no address".to_owned());
                    let label = found.label.unwrap_or_else(|| number(row + at));
                    let (captions, meta) = (found.captions, found.meta);
                    ListRow { index: begin + at, label, url, captions, meta }
                });
                let rows = rows.collect::<Vec<_>>();
                row += rows.len() as u64;
                fetching.rows(rows).await?;
            }
            Some(Step::Lost(lost)) => {
                let detail = lost.detail(row, row.saturating_add(lost.rows));
                damage.get_or_insert(Damage { offset: row, detail: detail.clone() });
                for at in 0..lost.rejects() {
                    fetching.lose(lost.label(row + at), row + at, &detail).await?;
                }
                row = row.saturating_add(lost.rows);
            }
        }
    }
    Ok(ShardContents { damage, ..fetching.finish().await? })
}

/// What of a row has a form in JSON, by column.
pub(super) fn json_of(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.filter(|(field, _)| json::has_json(field.data_type()));
    columns.map(|(field, column)| (field.name().clone(), json::value(column, row))).collect()
}

/// Rows decoded together. One by one where a column of a row group is so large that a few of its rows might overflow a batch;
/// fewer where values stand in a dictionary, since each row may be as large as all of it: what is packed once unpacks as often
/// as there are rows.
fn rows_together(metadata: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    let rows = |group: &RowGroupMetaData| {
        let read = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let rows = read.map(|(_, column)| {
            let size = column.uncompressed_size();
            if size > MAX_COLUMN_BYTES {
                1
            } else if column.dictionary_page_offset().is_some() {
                usize::try_from(MAX_DICTIONARY_BATCH / size.max(1)).unwrap_or(1).clamp(1, BATCH_ROWS)
            } else {
                BATCH_ROWS
            }
        });
        rows.min().unwrap_or(BATCH_ROWS)
    };
    metadata.row_groups().iter().map(rows).min().unwrap_or(BATCH_ROWS)
}

/// Refuses what would not fit into memory.
fn check_groups(
    reading: Reading<'_>,
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
) -> Result<(), ReadError> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        // A size below nothing is a lie, and would hide another.
        let size = |bytes: i64| if bytes < 0 { i64::MAX } else { bytes };
        let bytes =
            columns.fold(0_i64, |sum, (_, column)| sum.saturating_add(size(column.uncompressed_size())));
        if bytes > MAX_GROUP_BYTES {
            return Err(reading.data(&format!(
                "row group {number} holds {bytes} bytes, more than {MAX_GROUP_BYTES}: write the file again with smaller row groups"
            )));
        }
    }
    Ok(())
}

/// Rows on their way.
struct Table<'a> {
    reading: Reading<'a>,
    chosen: Chosen,
    labels: Labels,
    emitted: u64,
    unreadable: u64,
}

impl Table<'_> {
    /// Hands all rows of a batch on, which begin with number `first`.
    async fn emit(&mut self, batch: &RecordBatch, first: u64) -> Result<(), ReadStop> {
        let rows = self.chosen.rows(batch).map_err(|e| self.reading.data(&e))?;
        for (row, at) in rows.into_iter().zip(first..) {
            let index = self.emitted;
            self.emitted += 1;
            let labelled = self.labels.label(row.label.clone().unwrap_or_else(|| number(at)), at);
            let caption = self.reading.settings.captions.pick(&labelled.key, &row.captions);
            self.reading.tally.caption(caption.as_ref());
            if let Some(why) = &row.unreadable {
                self.tell_unreadable(&labelled.key, why);
            }
            if self.reading.keep_previous(index, &labelled.key).await? {
                continue;
            }
            match self.validate_row(index, labelled, caption, row) {
                Ok(sample) => self.reading.send(sample).await?,
                Err(reject) => self.reading.reject(index, *reject).await?,
            }
        }
        Ok(())
    }

    fn tell_unreadable(&mut self, key: &str, why: &str) {
        self.unreadable += 1;
        self.reading.tally.count(|counts| counts.unreadable_json += 1);
        if self.unreadable == 1 {
            let shard = &self.reading.shard.url;
            tracing::warn!(
                shard,
                key,
                why,
                "a row's JSON cannot be read; more of this shard are only counted"
            );
        }
    }

    /// Rejects rows that cannot be read.
    async fn lose(&mut self, lost: &Lost, first: u64, detail: &str) -> Result<(), ReadStop> {
        for at in 0..lost.rejects() {
            let index = self.emitted;
            self.emitted += 1;
            let label = lost.label(first.saturating_add(at));
            let key = self.labels.label(label, first.saturating_add(at)).key;
            self.reading.reject_tail(index, key, detail.to_owned()).await?;
        }
        Ok(())
    }

    fn validate_row(
        &self,
        index: u64,
        Labelled { key, duplicate }: Labelled,
        caption: Option<OriginalCaption>,
        row: Row,
    ) -> Result<Sample, Box<Reject>> {
        let limit = self.reading.settings.tar.max_member_bytes;
        let refused = if duplicate {
            Some((RejectReason::DuplicateKey, DUPLICATE_KEY.to_owned()))
        } else {
            match &row.image {
                None => Some((RejectReason::MissingImage, "the row has no image bytes".to_owned())),
                Some(image) if image.len() as u64 > limit => {
                    let what = format!("the image has {} bytes, more than the limit", image.len());
                    Some((RejectReason::TooLarge, what))
                }
                Some(_) => None,
            }
        };
        if let Some((reason, detail)) = refused {
            let org_caption = caption.map(String::from);
            let reject = Reject { key, reason, detail, caption: None, similarity: None, org_caption };
            return Err(Box::new(reject));
        }
        Ok(Sample {
            shard: self.reading.number,
            index,
            key,
            image: row.image.unwrap_or_default(),
            suffix: row.suffix,
            org_caption: caption,
            meta: row.meta,
            url: row.url,
            permit: None,
        })
    }
}

async fn metadata(reading: Reading<'_>) -> Result<ParquetMetaData, ReadError> {
    let size = reading.shard.size;
    check_start(reading).await?;
    let failed = |what: &dyn std::fmt::Display| reading.data(&format!("no Parquet that can be read: {what}"));
    let decoder = ParquetMetaDataPushDecoder::try_new(size).map_err(|e| failed(&e))?;
    let mut decoder = decoder.with_page_index_policy(PageIndexPolicy::Skip);
    let footer = size.saturating_sub(FOOTER_BYTES)..size;
    let mut ranges = vec![footer];
    loop {
        if ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum::<u64>() > MAX_METADATA_BYTES
        {
            return Err(failed(&"its metadata is too large"));
        }
        let data = fetch(reading, &ranges).await?;
        decoder.push_ranges(ranges, data).map_err(|e| failed(&e))?;
        match decoder.try_decode().map_err(|e| failed(&e))? {
            DecodeResult::Data(metadata) => return Ok(metadata),
            DecodeResult::NeedsData(more) => ranges = more,
            DecodeResult::Finished => return Err(failed(&"the metadata ended early")),
        }
    }
}

/// What does not begin as Parquet says what it is: the end of something else would only be no footer.
async fn check_start(reading: Reading<'_>) -> Result<(), ReadError> {
    let start = 0..reading.shard.size.min(sniff::ENOUGH);
    if start.is_empty() {
        return Err(reading.data("no Parquet file: it is empty"));
    }
    match sniff::not_parquet(&fetch_one(reading, start).await?) {
        Some(what) => Err(reading.data(&what)),
        None => Ok(()),
    }
}

/// Bytes of the same object as the ones before.
async fn fetch(reading: Reading<'_>, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
    let size = reading.shard.size;
    if let Some(range) = ranges.iter().find(|range| range.end > size || range.start > range.end) {
        return Err(reading.data(&format!("its metadata names bytes {range:?} of {size}")));
    }
    stream::iter(ranges.to_vec())
        .map(|range| fetch_one(reading, range))
        .buffered(REQUESTS)
        .try_collect()
        .await
}

async fn fetch_one(reading: Reading<'_>, range: Range<u64>) -> Result<Bytes, ReadError> {
    let location = &reading.shard.location;
    let options =
        GetOptions::new().with_range(Some(GetRange::Bounded(range))).with_if_match(condition(reading.shard));
    let got = match location.store.get_opts(&location.path, options).await {
        Ok(got) => got.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = got.map_err(|e| reading.transport(&e))?;
    reading.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
    Ok(bytes)
}
