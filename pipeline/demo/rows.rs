//! What the three runs wrote, read back from their Parquet and laid beside the truth.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use arrow_array::{Array, Float32Array, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::scenes::Scene;

/// A text of a picture.
#[derive(Clone, Debug)]
pub struct Said {
    /// The text.
    pub text: String,
    /// Its similarity to the picture, as the judge sees it, -1 to 1.
    pub similarity: f32,
}

/// A picture and everything that is said of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its key.
    pub key: String,
    /// The truth.
    pub scene: Scene,
    /// What the shard said.
    pub alt: Said,
    /// What the base says.
    pub base: Said,
    /// What the captioner of short captions says.
    pub short: Said,
    /// What the captioner of descriptive captions says.
    pub descriptive: Said,
}

/// A caption, and the original one.
type Pair = (Said, Said);

/// Rows of the outputs of base, short and descriptive captioner, in the order of their keys.
///
/// # Errors
/// When an output cannot be read, or lacks a picture that was drawn.
pub fn read(outputs: [PathBuf; 3], truth: BTreeMap<String, Scene>) -> anyhow::Result<Vec<Row>> {
    let [mut base, mut short, mut descriptive] = {
        let [base, short, descriptive] = &outputs;
        [read_output(base)?, read_output(short)?, read_output(descriptive)?]
    };
    let rows = truth.into_iter().map(|(key, scene)| {
        let take = |output: &mut BTreeMap<String, Pair>| {
            output.remove(&key).with_context(|| format!("key {key} has no caption"))
        };
        let ((base, alt), (short, _), (descriptive, _)) =
            (take(&mut base)?, take(&mut short)?, take(&mut descriptive)?);
        Ok(Row { key, scene, alt, base, short, descriptive })
    });
    rows.collect()
}

fn read_output(output: &Path) -> anyhow::Result<BTreeMap<String, Pair>> {
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

fn read_batch(batch: &RecordBatch, pairs: &mut BTreeMap<String, Pair>) -> anyhow::Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
    let text = |name: &str| -> anyhow::Result<&StringArray> {
        column(name)?.as_any().downcast_ref().with_context(|| format!("column {name} is no text"))
    };
    let number = |name: &str| -> anyhow::Result<&Float32Array> {
        column(name)?.as_any().downcast_ref().with_context(|| format!("column {name} is no number"))
    };
    let (key, captions, originals) = (text("key")?, text("caption")?, text("org_caption")?);
    let (similarities, of_originals) = (number("similarity")?, number("org_similarity")?);
    for i in 0..batch.num_rows() {
        // All of the demo's samples have an alt text.
        if originals.is_null(i) || of_originals.is_null(i) {
            anyhow::bail!("key {} lost its alt text", key.value(i));
        }
        let said = |texts: &StringArray, similarities: &Float32Array| Said {
            text: texts.value(i).to_owned(),
            similarity: similarities.value(i),
        };
        pairs.insert(key.value(i).to_owned(), (said(captions, similarities), said(originals, of_originals)));
    }
    Ok(())
}
