//! Captions of the three runs, read back from their Parquet and joined with the true scenes.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use arrow_array::{Array, Float32Array, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::scenes::Scene;

/// A caption of an image with its similarity.
#[derive(Clone, Debug)]
pub(super) struct ScoredCaption {
    pub(super) text: String,
    /// Similarity of image and text by the demo's scorer, in [-1, 1].
    pub(super) similarity: f32,
}

/// An image with all its captions.
#[derive(Clone, Debug)]
pub(super) struct DemoRow {
    pub(super) key: String,
    /// The scene, of which the true captions are known.
    pub(super) scene: Scene,
    /// The alt text, the input's original caption.
    pub(super) alt: ScoredCaption,
    /// Caption of the base.
    pub(super) base: ScoredCaption,
    /// Caption of the captioner of short captions.
    pub(super) short: ScoredCaption,
    /// Caption of the captioner of descriptive captions.
    pub(super) descriptive: ScoredCaption,
}

/// A generated caption and the original one.
type RowCaptions = (ScoredCaption, ScoredCaption);

/// Joins the outputs of base, short and descriptive captioner by key, in the order of the keys.
///
/// # Errors
/// Fails when an output cannot be read or lacks a key of `truth`.
pub(super) fn read(outputs: [PathBuf; 3], truth: BTreeMap<String, Scene>) -> anyhow::Result<Vec<DemoRow>> {
    let [mut base, mut short, mut descriptive] = {
        let [base, short, descriptive] = &outputs;
        [read_output(base)?, read_output(short)?, read_output(descriptive)?]
    };
    let rows = truth.into_iter().map(|(key, scene)| {
        let take = |output: &mut BTreeMap<String, RowCaptions>| {
            output.remove(&key).with_context(|| format!("key {key} has no caption"))
        };
        let ((base, alt), (short, _), (descriptive, _)) =
            (take(&mut base)?, take(&mut short)?, take(&mut descriptive)?);
        Ok(DemoRow { key, scene, alt, base, short, descriptive })
    });
    rows.collect()
}

fn read_output(output: &Path) -> anyhow::Result<BTreeMap<String, RowCaptions>> {
    let folder = output.join("captions");
    let mut pairs = BTreeMap::new();
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("no captions in {}", folder.display()))?;
    for path in entries.filter_map(|entry| entry.ok().map(|e| e.path())) {
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
                read_batch(&batch?, &mut pairs)?;
            }
        }
    }
    Ok(pairs)
}

fn read_batch(batch: &RecordBatch, pairs: &mut BTreeMap<String, RowCaptions>) -> anyhow::Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
    let text = |name: &str| -> anyhow::Result<&StringArray> {
        column(name)?.as_any().downcast_ref().with_context(|| format!("column {name} is not a string"))
    };
    let number = |name: &str| -> anyhow::Result<&Float32Array> {
        column(name)?.as_any().downcast_ref().with_context(|| format!("column {name} is not a float"))
    };
    let (key, captions, originals) = (text("key")?, text("caption")?, text("org_caption")?);
    let (similarities, org_similarities) = (number("similarity")?, number("org_similarity")?);
    for i in 0..batch.num_rows() {
        // All of the demo's samples have an alt text.
        if originals.is_null(i) || org_similarities.is_null(i) {
            anyhow::bail!("key {} has no alt text or similarity of it", key.value(i));
        }
        let caption = |texts: &StringArray, similarities: &Float32Array| ScoredCaption {
            text: texts.value(i).to_owned(),
            similarity: similarities.value(i),
        };
        pairs.insert(
            key.value(i).to_owned(),
            (caption(captions, similarities), caption(originals, org_similarities)),
        );
    }
    Ok(())
}
