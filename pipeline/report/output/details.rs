//! What a page shows of the sampled rows alone: candidates, the stored image, and how the image is found in the input.

use std::collections::BTreeMap;

use arrow_array::{Array, BinaryArray, Float32Array, ListArray, RecordBatch, StringArray, StructArray};
use recaption_output::PartReader;
use recaption_store::Location;

use super::{parts::ShardParts, rows::column};
use crate::report::{
    builder::ReportBuilder,
    content::{RowPlace, SampledCaption},
    thumbnail::Picture,
};

/// How the image of a row is found in the input, and recognised.
#[derive(Clone, Debug, Default)]
pub(super) struct ImageHint {
    /// SHA-256 of the stored bytes, hex.
    pub(super) sha256: String,
    /// URL of the image.
    pub(super) url: Option<String>,
}

/// Hints by shard and key.
pub(super) type ImageHints = BTreeMap<(String, String), ImageHint>;

/// Reads the details of the sampled rows. Thumbnails are made of images in the rows where `images` is set.
///
/// # Errors
/// Returns an error when a part cannot be read.
pub(super) async fn add_details(
    output: &Location,
    parts: &[ShardParts],
    builder: &mut ReportBuilder,
    images: bool,
) -> anyhow::Result<ImageHints> {
    let mut by_part: BTreeMap<usize, Vec<(u64, &mut SampledCaption)>> = BTreeMap::new();
    for sampled in builder.sampled() {
        if let Some(RowPlace { part, row }) = sampled.place {
            by_part.entry(part).or_default().push((row, sampled));
        }
    }
    let mut hints = ImageHints::new();
    let columns: &[&str] =
        if images { &["candidates", "sha256", "url", "image"] } else { &["candidates", "sha256", "url"] };
    for (part, mut rows) in by_part {
        rows.sort_by_key(|(row, _)| *row);
        let positions: Vec<u64> = rows.iter().map(|(row, _)| *row).collect();
        let part = &parts[part].captions;
        let mut reader = PartReader::open_rows(output.child(&part.path), part, columns, &positions).await?;
        let mut rows = rows.into_iter();
        while let Some(batch) = reader.next().await? {
            for (at, (_, sampled)) in (0..batch.num_rows()).zip(rows.by_ref()) {
                sampled.row.candidates = candidates(&batch, at)?;
                let hint = ImageHint {
                    sha256: text(&batch, "sha256", at).unwrap_or_default(),
                    url: text(&batch, "url", at),
                };
                hints.insert((sampled.row.shard.clone(), sampled.row.key.clone()), hint);
                if let Some(image) = image(&batch, at).filter(|_| images) {
                    sampled.picture = Some(tokio::task::spawn_blocking(move || Picture::of(&image)).await?);
                }
            }
        }
    }
    Ok(hints)
}

fn text(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let texts: &StringArray = column(batch, name).ok()?;
    texts.is_valid(row).then(|| texts.value(row).to_owned())
}

fn candidates(batch: &RecordBatch, row: usize) -> anyhow::Result<Vec<(String, Option<f32>)>> {
    if batch.column_by_name("candidates").is_none() {
        return Ok(Vec::new());
    }
    let lists: &ListArray = column(batch, "candidates")?;
    if lists.is_null(row) {
        return Ok(Vec::new());
    }
    let list = lists.value(row);
    let Some(fields) = list.as_any().downcast_ref::<StructArray>() else { return Ok(Vec::new()) };
    let texts = fields.column_by_name("text").and_then(|c| c.as_any().downcast_ref::<StringArray>());
    let scores = fields.column_by_name("similarity").and_then(|c| c.as_any().downcast_ref::<Float32Array>());
    let (Some(texts), Some(scores)) = (texts, scores) else { return Ok(Vec::new()) };
    let one = |i: usize| (texts.value(i).to_owned(), scores.is_valid(i).then(|| scores.value(i)));
    Ok((0..list.len()).map(one).collect())
}

fn image(batch: &RecordBatch, row: usize) -> Option<Vec<u8>> {
    let images: &StructArray = column(batch, "image").ok()?;
    let bytes: &BinaryArray = images.column_by_name("bytes")?.as_any().downcast_ref()?;
    (images.is_valid(row) && bytes.is_valid(row)).then(|| bytes.value(row).to_vec())
}
