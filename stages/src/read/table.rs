//! Rows of Parquet -> samples: image bytes in a column, as Hugging Face's `datasets` (`image`, a struct of bytes and path),
//! img2dataset (`jpg`) and this program's own output with embedded images have them.
//!
//! A row group is fetched at a time, only the columns that are needed, and decoded a few rows at a time on blocking threads.

mod columns;

use std::{ops::Range, sync::Arc, sync::atomic::Ordering::Relaxed};

use arrow_array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange};
use parquet::{
    DecodeResult,
    arrow::{
        ProjectionMask,
        arrow_reader::ArrowReaderOptions,
        push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder},
    },
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, RowGroupMetaData},
};
use recaption_schemas::{Damage, Reject, RejectReason};

use self::columns::{Chosen, Row};
use super::{ReadError, Reading, Sample, ShardEnd, Stays, list::Fetching, open::condition};
use crate::{fetch::ListRow, webdataset::Keys};

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
    builder: ParquetPushDecoderBuilder,
    chosen: Chosen,
    mask: ProjectionMask,
}

async fn open(reading: Reading<'_>) -> Result<Opened, ReadError> {
    let metadata = Arc::new(metadata(reading).await?);
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetPushDecoderBuilder::try_new_decoder_with_options(Arc::clone(&metadata), options);
    let builder = builder.map_err(|e| reading.data(&format!("no Parquet that can be read: {e}")))?;
    let chosen = Chosen::among(builder.schema(), &reading.settings.columns, reading.settings.format);
    let chosen = chosen.map_err(|e| reading.data(&e))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), chosen.roots());
    check_groups(reading, &metadata, &mask)?;
    Ok(Opened { metadata, builder, chosen, mask })
}

/// Row groups of a list of addresses: rows of each, and bytes of what is read of it. `None` where the images are there.
pub async fn groups_of_list(reading: Reading<'_>) -> Result<Option<Vec<Group>>, ReadError> {
    let Opened { metadata, chosen, mask, .. } = open(reading).await?;
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

/// The row groups that hold some rows, and how many rows of theirs come before these.
fn holding(metadata: &ParquetMetaData, rows: &Range<u64>) -> (Vec<usize>, u64) {
    let (mut at, mut groups, mut before) = (0_u64, Vec::new(), 0);
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let end = at.saturating_add(u64::try_from(group.num_rows()).unwrap_or(0));
        if at < rows.end && rows.start < end {
            if groups.is_empty() {
                before = rows.start - at;
            }
            groups.push(number);
        }
        at = end;
    }
    (groups, before)
}

/// Reads a Parquet file with image bytes, or a list of addresses or a part of one.
pub async fn read(reading: Reading<'_>) -> Result<Option<ShardEnd>, ReadError> {
    let Opened { metadata, builder, chosen, mask } = open(reading).await?;
    let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    let batch = rows_together(&metadata, &mask);
    let mut builder = builder.with_projection(mask).with_batch_size(batch);
    let wanted = reading.shard.part.as_ref().map(|part| part.rows.clone());
    if let Some(part) = &wanted {
        let (groups, before) = holding(&metadata, part);
        let size = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        builder =
            builder.with_row_groups(groups).with_offset(size(before)).with_limit(size(part.end - part.start));
    }
    let decoder = builder.build().map_err(|e| reading.data(&e.to_string()))?;
    let mut rows_of = RowReader { reading, decoder: Some(decoder) };
    if !chosen.has_image() {
        return read_list(reading, rows_of, &chosen, wanted.unwrap_or(0..rows)).await;
    }
    let mut table = Table { reading, chosen, keys: Keys::default(), emitted: 0 };
    loop {
        match rows_of.next().await {
            Ok(Some(batch)) => {
                if !table.emit(&batch).await? {
                    return Ok(None);
                }
            }
            Ok(None) if table.emitted == rows => return Ok(Some(ShardEnd::whole(table.emitted, 0))),
            Ok(None) => {
                let what = format!("{} of {rows} rows could be read", table.emitted);
                return table.broken(rows, what).await;
            }
            Err(Broken::Shard(error)) => return Err(error),
            Err(Broken::Bytes(what)) => return table.broken(rows, what).await,
        }
    }
}

/// Fetches what a table without images names.
async fn read_list(
    reading: Reading<'_>,
    mut rows_of: RowReader<'_>,
    chosen: &Chosen,
    wanted: Range<u64>,
) -> Result<Option<ShardEnd>, ReadError> {
    let rows = wanted.end - wanted.start;
    let mut fetching = Fetching::new(reading)?;
    let mut broken = None;
    loop {
        let Some(next) = fetching.beside(rows_of.next()).await? else { return Ok(None) };
        let batch = match next {
            Ok(Some(batch)) => batch,
            Ok(None) if fetching.emitted() == rows => break,
            Ok(None) => {
                broken = Some(format!("{} of {rows} rows could be read", fetching.emitted()));
                break;
            }
            Err(Broken::Shard(error)) => return Err(error),
            Err(Broken::Bytes(what)) => {
                broken = Some(what);
                break;
            }
        };
        let rows = chosen.rows(&batch).map_err(|e| reading.data(&e))?.into_iter();
        let rows = rows.zip(fetching.emitted()..).map(|(row, index)| {
            let url = row.url.ok_or_else(|| "the row has no address".to_owned());
            let key = row.key.unwrap_or_else(|| format!("{:09}", wanted.start + index));
            ListRow { index, key, url, caption: row.caption, meta: row.meta }
        });
        if !fetching.rows(rows.collect()).await? {
            return Ok(None);
        }
    }
    let Some(what) = broken else { return fetching.finish().await };
    let index = fetching.emitted();
    let Some(mut end) = fetching.finish().await? else { return Ok(None) };
    let detail = format!("{what} (row {index} of {rows}, {} rows not read)", rows.saturating_sub(index));
    end.samples += 1;
    end.damage = Some(Damage { offset: index, detail: detail.clone() });
    Ok(reading.reject_tail(index, String::new(), detail).await?.then_some(end))
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

/// Why there is no next batch.
enum Broken {
    /// The shard cannot be read now.
    Shard(ReadError),
    /// The bytes are damaged: what came before stands.
    Bytes(String),
}

struct RowReader<'a> {
    reading: Reading<'a>,
    decoder: Option<ParquetPushDecoder>,
}

impl RowReader<'_> {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Broken> {
        while let Some(mut decoder) = self.decoder.take() {
            let work = move || {
                // A decoder that panics on damaged bytes must not take the run with it.
                let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decoder.try_decode()));
                (decoder, decoded)
            };
            let (mut decoder, decoded) = tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Broken::Bytes(format!("decoding broke down: {e}")))?;
            let decoded = decoded.map_err(|_| Broken::Bytes("the decoder panicked on these bytes".into()))?;
            match decoded.map_err(|e| Broken::Bytes(e.to_string()))? {
                DecodeResult::Data(batch) => {
                    self.decoder = Some(decoder);
                    return Ok(Some(batch));
                }
                DecodeResult::NeedsData(ranges) => {
                    let data = fetch(self.reading, &ranges).await.map_err(Broken::Shard)?;
                    decoder.push_ranges(ranges, data).map_err(|e| Broken::Bytes(e.to_string()))?;
                    self.decoder = Some(decoder);
                }
                DecodeResult::Finished => {}
            }
        }
        Ok(None)
    }
}

/// Rows on their way.
struct Table<'a> {
    reading: Reading<'a>,
    chosen: Chosen,
    keys: Keys,
    emitted: u64,
}

impl Table<'_> {
    /// Hands all rows of a batch on; `false` when nobody takes them.
    async fn emit(&mut self, batch: &RecordBatch) -> Result<bool, ReadError> {
        let rows = self.chosen.rows(batch).map_err(|e| self.reading.data(&e))?;
        for row in rows {
            let index = self.emitted;
            self.emitted += 1;
            let key = row.key.clone().unwrap_or_else(|| format!("{index:09}"));
            if let Stays::Told(taken) = self.reading.stays(index, &key).await? {
                if taken {
                    continue;
                }
                return Ok(false);
            }
            let sent = match self.judge(index, key, row) {
                Ok(sample) => self.reading.send(sample).await,
                Err(reject) => self.reading.reject(index, reject).await,
            };
            if !sent {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn judge(&mut self, index: u64, key: String, row: Row) -> Result<Sample, Reject> {
        let duplicate = !self.keys.is_new(&key);
        let limit = self.reading.settings.tar.max_member_bytes;
        let refused = if duplicate {
            Some((RejectReason::DuplicateKey, "an earlier sample of this shard has the same key".to_owned()))
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
            let org_caption = row.caption;
            return Err(Reject { key, reason, detail, caption: None, similarity: None, org_caption });
        }
        Ok(Sample {
            shard: self.reading.number,
            index,
            key,
            image: row.image.unwrap_or_default(),
            suffix: row.suffix,
            org_caption: row.caption,
            meta: row.meta,
            url: row.url,
            held: None,
        })
    }

    /// The rows that cannot be read are one reject.
    async fn broken(mut self, rows: u64, what: String) -> Result<Option<ShardEnd>, ReadError> {
        let left = rows.saturating_sub(self.emitted);
        let detail = format!("{what} (row {} of {rows}, {left} rows not read)", self.emitted);
        let index = self.emitted;
        self.emitted += 1;
        if !self.reading.reject_tail(index, String::new(), detail.clone()).await? {
            return Ok(None);
        }
        let damage = Some(Damage { offset: index, detail });
        Ok(Some(ShardEnd { samples: self.emitted, ignored_members: 0, damage }))
    }
}

async fn metadata(reading: Reading<'_>) -> Result<ParquetMetaData, ReadError> {
    let size = reading.shard.size;
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
