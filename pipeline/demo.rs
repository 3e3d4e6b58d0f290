//! `recaption demo`: the whole way on pictures of our own, without network or files but the binary.
//!
//! Draws scenes, writes webdataset shards, exports the bundled captioner, runs the pipeline as `recaption run` would, and
//! reads the Parquet back to show captions beside the truth.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use arrow_array::{Array, Float32Array, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use recaption_onnx::{Precision, bundled, export};

use crate::{
    cli,
    config::{Layers, RunConfig},
    run::{ExitCode, Reporter, RunOptions},
    scenes::{Text, descriptive, names_true_object, sample, sample_index},
};

/// Scenes drawn unless told otherwise.
pub const DEFAULT_SCENES: u64 = 200;
/// Seed of the demo's scenes.
pub const DEFAULT_SEED: u64 = 20_231_019;
/// Scenes per shard, at most.
const SHARD_SCENES: u64 = 1000;
/// Shards at least, so that there is something to do side by side.
const MIN_SHARDS: u64 = 2;
/// Rows of the table.
const TABLE_ROWS: usize = 12;

/// File that tells a demo's folder from others.
const MARKER: &str = ".recaption-demo";

/// Where things lie.
struct Places {
    shards: PathBuf,
    checkpoint: PathBuf,
    model: PathBuf,
    output: PathBuf,
}

/// Runs the demo in `dir`.
///
/// # Errors
/// When a file cannot be written, ONNX Runtime is missing, or the run fails.
pub fn demo(dir: &Path, scenes: u64, seed: u64) -> anyhow::Result<ExitCode> {
    let places = Places {
        shards: dir.join("shards"),
        checkpoint: dir.join("checkpoint"),
        model: dir.join("model"),
        output: dir.join("output"),
    };
    // The library is asked for first: drawing in vain would waste the user's time.
    recaption_onnx::runtime::load_library()?;
    claim(dir)?;
    let truth = draw_shards(&places.shards, scenes, seed)?;
    bundled::write_checkpoint(&places.checkpoint).context("cannot write the bundled checkpoint")?;
    let model = export(&places.checkpoint, &places.model, Precision::Fp32)?;
    cli::print(&format!(
        "drew {scenes} scenes into {}\nexported {} ({} parameters) to {}\n\n",
        places.shards.display(),
        bundled::NAME,
        model.spec.parameters,
        places.model.display()
    ));
    let config = configure(&places)?;
    let report = cli::run_to_end(&config, RunOptions { overwrite: true }, Reporter::Auto)?;
    let captions = read_captions(&places.output)?;
    show(&captions, &truth);
    cli::print(&format!("\n{report}parquet   {}/captions/*.parquet\n", places.output.display()));
    Ok(report.exit_code())
}

/// Makes `dir` the demo's own. What an earlier demo left is cleared: shards and rows of other scenes would be shown too.
/// A folder that holds anything else is refused.
fn claim(dir: &Path) -> anyhow::Result<()> {
    let marker = dir.join(MARKER);
    if marker.exists() {
        for old in ["shards", "output"].map(|name| dir.join(name)).iter().filter(|old| old.exists()) {
            std::fs::remove_dir_all(old).with_context(|| format!("cannot clear {}", old.display()))?;
        }
    } else if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        anyhow::bail!("{} is not empty and not of an earlier demo; choose another --dir", dir.display());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    std::fs::write(&marker, "`recaption demo` replaces what is in this folder.\n")
        .with_context(|| format!("cannot write {}", marker.display()))
}

/// Writes the shards; returns every key's scene index.
fn draw_shards(dir: &Path, scenes: u64, seed: u64) -> anyhow::Result<BTreeMap<String, crate::scenes::Scene>> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let shards = scenes.div_ceil(SHARD_SCENES).max(MIN_SHARDS.min(scenes));
    let mut truth = BTreeMap::new();
    for shard in 0..shards {
        let count = u32::try_from(scenes * (shard + 1) / shards - scenes * shard / shards)?;
        let shard = u32::try_from(shard)?;
        let path = dir.join(format!("{shard:05}.tar"));
        cli::scenes::write_file(&path, seed, shard, count, Text::Alt)?;
        for i in 0..count {
            truth.insert(crate::scenes::key(shard, i), sample(seed, sample_index(shard, i)).0);
        }
    }
    Ok(truth)
}

fn configure(places: &Places) -> anyhow::Result<RunConfig> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut layers = Layers::default();
    layers.set("model.captioner", text(&places.model), "demo")?;
    layers.set("input.shards", text(&places.shards), "demo")?;
    layers.set("output.url", text(&places.output), "demo")?;
    Ok(RunConfig::build(&layers)?)
}

/// What the table shows of one row.
struct Shown {
    key: String,
    caption: String,
    similarity: f32,
    original: String,
}

fn read_captions(output: &Path) -> anyhow::Result<Vec<Shown>> {
    let folder = output.join("captions");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("no captions in {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    paths.sort();
    let mut rows = Vec::new();
    for path in paths {
        let file = File::open(&path)?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            rows.extend(shown(&batch?)?);
        }
    }
    Ok(rows)
}

fn shown(batch: &RecordBatch) -> anyhow::Result<Vec<Shown>> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
    let text = |name: &str| -> anyhow::Result<&StringArray> {
        column(name)?.as_any().downcast_ref().with_context(|| format!("column {name} is no text"))
    };
    let similarity: &Float32Array =
        column("similarity")?.as_any().downcast_ref().context("column similarity is no number")?;
    let (key, caption, original) = (text("key")?, text("caption")?, text("org_caption")?);
    Ok((0..batch.num_rows())
        .map(|i| Shown {
            key: key.value(i).to_owned(),
            caption: caption.value(i).to_owned(),
            similarity: similarity.value(i),
            original: if original.is_null(i) { String::new() } else { original.value(i).to_owned() },
        })
        .collect())
}

fn show(rows: &[Shown], truth: &BTreeMap<String, crate::scenes::Scene>) {
    for row in rows.iter().take(TABLE_ROWS) {
        let scene = truth.get(&row.key).map(descriptive).unwrap_or_default();
        cli::print(&format!(
            "{}  similarity {:.3}\n  alt text  {}\n  caption   {}\n  truth     {scene}\n",
            row.key, row.similarity, row.original, row.caption
        ));
    }
    let named =
        rows.iter().filter(|r| truth.get(&r.key).is_some_and(|s| names_true_object(s, &r.caption))).count();
    let by_alt_text =
        rows.iter().filter(|r| truth.get(&r.key).is_some_and(|s| names_true_object(s, &r.original))).count();
    let percent = |n: usize| 100.0 * n as f64 / rows.len().max(1) as f64;
    cli::print(&format!(
        "\n{} captions; {:.1} % name a true object (of the alt texts {:.1} % do)\n",
        rows.len(),
        percent(named),
        percent(by_alt_text)
    ));
}
