//! Parts -> rows, in the parts' order; a few parts are read ahead.

use std::sync::Arc;

use anyhow::Context;
use arrow_array::{Array, Float32Array, Int32Array, RecordBatch, StringArray};
use futures::{StreamExt, stream};
use recaption_output::{Columns, PartReader, ReadPartError};
use recaption_schemas::PartInfo;
use recaption_store::Location;
use tokio::sync::mpsc;

use super::parts::ShardParts;
use crate::report::{
    builder::ReportBuilder,
    content::RowPlace,
    source::{ReportCaption, ReportReject},
};

/// Parts read at the same time.
const AT_ONCE: usize = 4;
/// Batches of a part that wait.
const BATCHES_AHEAD: usize = 4;
/// Columns for the statistics.
const CAPTION_COLUMNS: Columns = Columns {
    required: &["key", "caption", "similarity", "org_caption", "org_similarity", "itm", "width", "height"],
    added: &["org_itm"],
};
/// Columns of rejects.
const REJECT_COLUMNS: Columns =
    Columns { required: &["key", "reason", "detail", "caption", "similarity", "org_caption"], added: &[] };

type Batches = mpsc::Receiver<Result<RecordBatch, ReadPartError>>;

/// Passes all rows to the builder.
///
/// # Errors
/// Returns an error when a part cannot be read.
pub(super) async fn read_rows(
    output: &Location,
    parts: &[ShardParts],
    builder: &mut ReportBuilder,
) -> anyhow::Result<()> {
    let begin = |part: &PartInfo, columns| {
        let batches = read_ahead(output.child(&part.path), part.clone(), columns);
        std::future::ready(batches)
    };
    let mut captions =
        stream::iter(parts.iter().map(|shard| begin(&shard.captions, CAPTION_COLUMNS))).buffered(AT_ONCE);
    let mut part = 0;
    while let Some(mut batches) = captions.next().await {
        let mut row = 0;
        while let Some(batch) = batches.recv().await {
            add_captions(&batch?, &parts[part].url, (part, &mut row), builder)?;
        }
        part += 1;
    }
    let mut rejects =
        stream::iter(parts.iter().map(|shard| begin(&shard.rejects, REJECT_COLUMNS))).buffered(AT_ONCE);
    let mut part = 0;
    while let Some(mut batches) = rejects.next().await {
        while let Some(batch) = batches.recv().await {
            add_rejects(&batch?, &parts[part].url, builder)?;
        }
        part += 1;
    }
    Ok(())
}

fn read_ahead(location: Location, part: PartInfo, columns: Columns<'static>) -> Batches {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    if part.rows == 0 {
        return receiver;
    }
    tokio::spawn(async move {
        let failed = match PartReader::open_columns(location, &part, Some(columns)).await {
            Ok(mut reader) => loop {
                match reader.next().await {
                    Ok(Some(batch)) => {
                        if sender.send(Ok(batch)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        // A receiver that is gone has failed already.
        let _ = sender.send(Err(failed)).await;
    });
    receiver
}

/// Returns a column of a batch.
///
/// # Errors
/// Returns an error when it is missing or has another type.
pub(super) fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> anyhow::Result<&'a T> {
    let column: Option<&Arc<dyn Array>> = batch.column_by_name(name);
    let column = column.and_then(|column| column.as_any().downcast_ref());
    column.with_context(|| format!("column `{name}` is missing or has another type"))
}

fn optional(texts: &StringArray, row: usize) -> Option<String> {
    texts.is_valid(row).then(|| texts.value(row).to_owned())
}

fn score(scores: &Float32Array, row: usize) -> Option<f32> {
    scores.is_valid(row).then(|| scores.value(row))
}

fn add_captions(
    batch: &RecordBatch,
    shard: &str,
    (part, first): (usize, &mut u64),
    builder: &mut ReportBuilder,
) -> anyhow::Result<()> {
    let (keys, captions): (&StringArray, &StringArray) = (column(batch, "key")?, column(batch, "caption")?);
    let (originals, similarities): (&StringArray, &Float32Array) =
        (column(batch, "org_caption")?, column(batch, "similarity")?);
    let (org_similarities, itms): (&Float32Array, &Float32Array) =
        (column(batch, "org_similarity")?, column(batch, "itm")?);
    let org_itms: Option<&Float32Array> = match batch.column_by_name("org_itm") {
        Some(_) => Some(column(batch, "org_itm")?),
        None => None,
    };
    let (widths, heights): (&Int32Array, &Int32Array) = (column(batch, "width")?, column(batch, "height")?);
    for row in 0..batch.num_rows() {
        let caption = ReportCaption {
            shard: shard.to_owned(),
            key: keys.value(row).to_owned(),
            caption: captions.value(row).to_owned(),
            similarity: score(similarities, row),
            itm: score(itms, row),
            org_caption: optional(originals, row),
            org_similarity: score(org_similarities, row),
            org_itm: org_itms.and_then(|scores| score(scores, row)),
            candidates: Vec::new(),
            width: u32::try_from(widths.value(row)).unwrap_or(0),
            height: u32::try_from(heights.value(row)).unwrap_or(0),
            image: None,
        };
        builder.add_row(caption, Some(RowPlace { part, row: *first + row as u64 }));
    }
    *first += batch.num_rows() as u64;
    Ok(())
}

fn add_rejects(batch: &RecordBatch, shard: &str, builder: &mut ReportBuilder) -> anyhow::Result<()> {
    let (keys, reasons): (&StringArray, &StringArray) = (column(batch, "key")?, column(batch, "reason")?);
    let (details, captions): (&StringArray, &StringArray) =
        (column(batch, "detail")?, column(batch, "caption")?);
    let (originals, similarities): (&StringArray, &Float32Array) =
        (column(batch, "org_caption")?, column(batch, "similarity")?);
    for row in 0..batch.num_rows() {
        builder.add_reject(ReportReject {
            shard: shard.to_owned(),
            key: keys.value(row).to_owned(),
            reason: reasons.value(row).to_owned(),
            detail: details.value(row).to_owned(),
            caption: optional(captions, row),
            similarity: score(similarities, row),
            org_caption: optional(originals, row),
        });
    }
    Ok(())
}
