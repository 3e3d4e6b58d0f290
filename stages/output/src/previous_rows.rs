//! Reads the rows that an earlier run made of a shard, for a retry.

use arrow_array::{Array, RecordBatch, cast::AsArray};
use recaption_messages::PreviousRows;
use recaption_schemas::{PartInfo, RejectReason, ShardCommit};
use recaption_store::Location;

use crate::part_reader::{PartReader, ReadPartError};

/// Reads keys and reasons of the rows of `commit`'s parts in `output`. Rejects for one of the `retried` reasons are processed
/// again.
///
/// # Errors
/// Returns an error when a part cannot be read or does not match its commit record.
pub async fn read_previous_rows(
    output: &Location,
    commit: &ShardCommit,
    retried: &[RejectReason],
) -> Result<PreviousRows, ReadPartError> {
    let captions = columns(output, &commit.captions, &["key"]).await?;
    let rejects = columns(output, &commit.rejects, &["key", "reason"]).await?;
    let keys = captions.iter().flat_map(|batch| texts(batch, 0));
    let reasons = rejects.iter().flat_map(|batch| texts(batch, 0).zip(texts(batch, 1)));
    Ok(PreviousRows::new(keys.collect(), reasons.collect(), retried))
}

async fn columns(
    output: &Location,
    part: &PartInfo,
    names: &[&str],
) -> Result<Vec<RecordBatch>, ReadPartError> {
    let mut reader = PartReader::open(output.child(&part.path), part, Some(names)).await?;
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

fn texts(batch: &RecordBatch, column: usize) -> impl Iterator<Item = String> {
    let column = batch.column(column).as_string_opt::<i32>();
    column.into_iter().flat_map(|c| (0..c.len()).map(|row| c.value(row).to_owned()))
}
