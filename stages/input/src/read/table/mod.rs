//! Rows of Parquet -> samples: image bytes in a column, as in Hugging Face's `datasets` (`image`, a struct of bytes and path),
//! img2dataset (`jpg`) and this program's own output with embedded images; or URLs, which are fetched.
//!
//! One row group is downloaded at a time, only the needed columns, and decoded a few rows at a time on blocking threads. Every
//! row of a damaged row group is a reject; the other row groups are read.

mod cell;
mod columns;
mod footer;
mod json;
mod row_groups;
mod sample;

use arrow_array::RecordBatch;
use parquet::file::metadata::PageIndexPolicy;
use recaption_messages::{ReadStop, Sample, ShardContents};
use recaption_schemas::{Damage, OriginalCaption, Reject, RejectReason};

use self::{
    columns::{ColumnRoles, TableRow},
    footer::{OpenTable, batch_rows, open},
    row_groups::{LostRows, RowReader, TableChunk, row_ranges},
};
use super::{context::ReadContext, fetch_queue::FetchQueue};
use crate::{
    keys::{AssignedKey, DUPLICATE_KEY, KeyAssigner, RowKey},
    lists::ListRow,
};

pub(super) use footer::{RowGroup, count_rows, row_groups_of_list};
pub(super) use json::json_of_row;
pub(super) use sample::read_some;

/// Reads a Parquet file with image bytes, or a list of URLs or a part of one.
pub(super) async fn read(context: ReadContext<'_>) -> Result<ShardContents, ReadStop> {
    let OpenTable { metadata, roles, mask } = open(context, PageIndexPolicy::Skip).await?;
    let kind = if roles.has_image() { "Parquet" } else { "Parquet list of URLs" };
    context.settings.usage_log.log(kind, &roles.describe());
    let selected = context.shard.list_part().map(|part| part.rows.clone());
    let (ranges, rows) = row_ranges(&metadata, selected.as_ref());
    let batch_rows = batch_rows(&metadata, &mask);
    let reader = RowReader::new(context, (metadata, mask), batch_rows, ranges);
    if !roles.has_image() {
        return read_list(context, reader, &roles, selected.map_or(0, |rows| rows.start)).await;
    }
    read_images(context, reader, roles, rows).await
}

/// Reads the images of a table of `rows` rows.
async fn read_images(
    context: ReadContext<'_>,
    mut reader: RowReader<'_>,
    roles: ColumnRoles,
    rows: u64,
) -> Result<ShardContents, ReadStop> {
    let mut table = TableReader::new(context, roles);
    let (mut damage, mut row) = (None, 0);
    while let Some(chunk) = reader.next().await? {
        match chunk {
            TableChunk::Rows(batch) => {
                table.send_rows(&batch, row).await?;
                row += batch.num_rows() as u64;
            }
            TableChunk::Lost(lost) => {
                let detail = lost.detail(row, rows);
                damage.get_or_insert(Damage { offset: row, detail: detail.clone() });
                table.reject_lost_rows(&lost, row, &detail).await?;
                row = row.saturating_add(lost.rows);
            }
        }
    }
    Ok(ShardContents { damage, ..ShardContents::whole(table.samples) })
}

/// Fetches the images of a table of URLs, whose first row is number `first`.
async fn read_list(
    context: ReadContext<'_>,
    mut reader: RowReader<'_>,
    roles: &ColumnRoles,
    first: u64,
) -> Result<ShardContents, ReadStop> {
    let mut queue = FetchQueue::new(context)?;
    let (mut damage, mut row) = (None, first);
    loop {
        match queue.while_draining(reader.next()).await?? {
            None => break,
            Some(TableChunk::Rows(batch)) => {
                let rows =
                    list_rows(roles, &batch, (queue.rows(), row)).map_err(|e| context.data_error(&e))?;
                row += rows.len() as u64;
                queue.push_rows(rows).await?;
            }
            Some(TableChunk::Lost(lost)) => {
                let detail = lost.detail(row, row.saturating_add(lost.rows));
                damage.get_or_insert(Damage { offset: row, detail: detail.clone() });
                for at in 0..lost.rejects() {
                    queue.reject_lost_row(lost.key(row + at), row + at, &detail).await?;
                }
                row = row.saturating_add(lost.rows);
            }
        }
    }
    Ok(ShardContents { damage, ..queue.finish().await? })
}

/// Returns the rows of a batch of URLs. The first has this index, and is number `first` of the table.
fn list_rows(
    roles: &ColumnRoles,
    batch: &RecordBatch,
    (index, first): (u64, u64),
) -> Result<Vec<ListRow>, String> {
    let rows = roles.rows(batch)?.into_iter().zip(0..).map(|(values, at)| {
        let url = values.url.ok_or_else(|| "the row has no address".to_owned());
        let key = values.key.unwrap_or_else(|| RowKey::of_number(first + at));
        let (captions, meta) = (values.captions, values.meta);
        ListRow { index: index + at, key, url, captions, meta }
    });
    Ok(rows.collect())
}

/// A table of images that is being read.
struct TableReader<'a> {
    context: ReadContext<'a>,
    roles: ColumnRoles,
    keys: KeyAssigner,
    /// Number of samples so far, rejects included.
    samples: u64,
    /// Number of rows with invalid JSON.
    invalid_json: u64,
}

impl<'a> TableReader<'a> {
    fn new(context: ReadContext<'a>, roles: ColumnRoles) -> Self {
        Self { context, roles, keys: KeyAssigner::default(), samples: 0, invalid_json: 0 }
    }

    /// Sends on the rows of a batch, or rejects them. The first row is number `first` of the table.
    async fn send_rows(&mut self, batch: &RecordBatch, first: u64) -> Result<(), ReadStop> {
        let rows = self.roles.rows(batch).map_err(|e| self.context.data_error(&e))?;
        for (row, at) in rows.into_iter().zip(first..) {
            let index = self.samples;
            self.samples += 1;
            let key = self.keys.assign(row.key.clone().unwrap_or_else(|| RowKey::of_number(at)), at);
            let caption = self.context.settings.captions.pick(&key.key, &row.captions);
            self.context.counts.count_caption(caption.as_ref());
            if let Some(error) = &row.json_error {
                self.count_invalid_json(&key.key, error);
            }
            if self.context.keep_previous(index, &key.key).await? {
                continue;
            }
            match self.validate_row(index, key, caption, row) {
                Ok(sample) => self.context.send(sample).await?,
                Err(reject) => self.context.reject(index, *reject).await?,
            }
        }
        Ok(())
    }

    /// Counts a row with invalid JSON, and logs the first.
    fn count_invalid_json(&mut self, key: &str, error: &str) {
        self.invalid_json += 1;
        self.context.counts.update(|counts| counts.unreadable_json += 1);
        if self.invalid_json == 1 {
            let shard = &self.context.shard.url;
            tracing::warn!(
                shard,
                key,
                error,
                "invalid JSON in a row; further ones of this shard are only counted"
            );
        }
    }

    /// Rejects rows that cannot be decoded. The first is number `first` of the table.
    async fn reject_lost_rows(&mut self, lost: &LostRows, first: u64, detail: &str) -> Result<(), ReadStop> {
        for at in 0..lost.rejects() {
            let index = self.samples;
            self.samples += 1;
            let row = first.saturating_add(at);
            let key = self.keys.assign(lost.key(row), row).key;
            self.context.reject_tail(index, key, detail.to_owned()).await?;
        }
        Ok(())
    }

    /// Returns a row as a sample that can be decoded, or its reject.
    fn validate_row(
        &self,
        index: u64,
        AssignedKey { key, is_duplicate }: AssignedKey,
        caption: Option<OriginalCaption>,
        row: TableRow,
    ) -> Result<Sample, Box<Reject>> {
        let limit = self.context.settings.tar.max_member_bytes;
        let problem = if is_duplicate {
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
        if let Some((reason, detail)) = problem {
            return Err(Box::new(
                Reject::new(key, reason, detail).with_org_caption(caption.map(String::from)),
            ));
        }
        Ok(Sample {
            shard: self.context.number,
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
