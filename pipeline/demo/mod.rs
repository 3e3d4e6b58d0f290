//! `recaption demo`: the whole way on pictures of our own, without network or files but the binary.
//!
//! Draws scenes, writes webdataset shards, exports the bundled captioners, runs the pipeline three times as `recaption run`
//! would (the base, which judges all, and the two that were fine-tuned to short and to descriptive captions), reads the
//! Parquet back, and shows what became of the alt texts: on the terminal and, with the pictures, as a page.

mod page;
mod rows;
mod summary;
mod text;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use recaption_onnx::{Bundled, Precision, export};

use self::{rows::Row, summary::Summary};
use crate::{
    cli,
    config::{Layers, RunConfig},
    run::{ExitCode, Reporter, RunOptions, RunReport},
    scenes::{Scene, Text, sample, sample_index},
};
use crate::{runtime::run_to_end, terminal::print};

/// Scenes drawn unless told otherwise.
pub const DEFAULT_SCENES: u64 = 200;
/// Seed of the demo's scenes.
pub const DEFAULT_SEED: u64 = 20_231_019;
/// Scenes per shard, at most.
const SHARD_SCENES: u64 = 1000;
/// Shards at least, so that there is something to do side by side.
const MIN_SHARDS: u64 = 2;

/// File that tells a demo's folder from others.
const MARKER: &str = ".recaption-demo";
/// The shards' folder.
const SHARDS: &str = "shards";
/// The page.
const PAGE: &str = "report.html";

/// Where a captioner's things lie.
struct Places {
    checkpoint: PathBuf,
    model: PathBuf,
    output: PathBuf,
}

impl Places {
    fn of(captioner: Bundled, dir: &Path) -> Self {
        let [checkpoint, model, output] = match captioner {
            Bundled::Base => ["checkpoint", "model", "output"],
            Bundled::Ssc => ["checkpoint-short", "model-short", "out-short"],
            Bundled::Dsc => ["checkpoint-descriptive", "model-descriptive", "out-descriptive"],
        }
        .map(|name| dir.join(name));
        Self { checkpoint, model, output }
    }
}

/// Runs the demo in `dir`.
///
/// # Errors
/// When a file cannot be written, ONNX Runtime is missing, or a run fails.
pub fn demo(dir: &Path, scenes: u64, seed: u64) -> anyhow::Result<ExitCode> {
    // The library is asked for first: drawing in vain would waste the user's time.
    recaption_onnx::runtime::load_library()?;
    claim(dir)?;
    let shards = dir.join(SHARDS);
    let truth = draw_shards(&shards, scenes, seed)?;
    print(&format!("drew {scenes} scenes with alt texts into {}\n", shards.display()));
    for captioner in Bundled::ALL {
        export_bundled(captioner, &Places::of(captioner, dir))?;
    }
    for captioner in Bundled::ALL {
        let report = run(captioner, dir)?;
        let output = Places::of(captioner, dir).output;
        if report.exit_code() != ExitCode::Done {
            print(&format!("{}\n{report}", captioner.name()));
            return Ok(report.exit_code());
        }
        print(&format!(
            "{:<17} {} captions in {:.1} s   {}/captions/*.parquet\n",
            captioner.name(),
            report.counts.captioned,
            report.seconds,
            output.display()
        ));
    }
    let rows = rows::read(Bundled::ALL.map(|captioner| Places::of(captioner, dir).output), truth)?;
    let summaries = Summary::of_all(&rows);
    print(&text::story(&rows));
    print(&text::table(&rows, &summaries));
    let page = dir.join(PAGE);
    std::fs::write(&page, page::page(&rows, &summaries)?)
        .with_context(|| format!("cannot write {}", page.display()))?;
    print(&format!("\nwith the pictures   {}\n", page.display()));
    Ok(ExitCode::Done)
}

/// Makes `dir` the demo's own. What an earlier demo left is cleared: shards and rows of other scenes would be shown too.
/// A folder that holds anything else is refused.
fn claim(dir: &Path) -> anyhow::Result<()> {
    let marker = dir.join(MARKER);
    if marker.exists() {
        let outputs = Bundled::ALL.map(|captioner| Places::of(captioner, dir).output);
        for old in outputs.into_iter().chain([dir.join(SHARDS)]).filter(|old| old.exists()) {
            std::fs::remove_dir_all(&old).with_context(|| format!("cannot clear {}", old.display()))?;
        }
    } else if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        anyhow::bail!("{} is not empty and not of an earlier demo; choose another --dir", dir.display());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    std::fs::write(&marker, "`recaption demo` replaces what is in this folder.\n")
        .with_context(|| format!("cannot write {}", marker.display()))
}

/// Writes the shards; returns every key's scene.
fn draw_shards(dir: &Path, scenes: u64, seed: u64) -> anyhow::Result<BTreeMap<String, Scene>> {
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

fn export_bundled(captioner: Bundled, places: &Places) -> anyhow::Result<()> {
    captioner
        .write_checkpoint(&places.checkpoint)
        .with_context(|| format!("cannot write the checkpoint {}", places.checkpoint.display()))?;
    let model = export(&places.checkpoint, &places.model, Precision::Fp32)?;
    print(&format!(
        "exported {} ({} parameters) to {}\n",
        captioner.name(),
        model.spec.parameters,
        places.model.display()
    ));
    Ok(())
}

/// `recaption run` over the demo's shards. The base judges, also itself.
fn run(captioner: Bundled, dir: &Path) -> anyhow::Result<RunReport> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let places = Places::of(captioner, dir);
    let mut layers = Layers::default();
    layers.set("model.captioner", text(&places.model), "demo")?;
    layers.set("model.scorer", text(&Places::of(Bundled::Base, dir).model), "demo")?;
    layers.set("input.shards", text(&dir.join(SHARDS)), "demo")?;
    layers.set("output.url", text(&places.output), "demo")?;
    let config = RunConfig::build(&layers)?;
    run_to_end(&config, RunOptions { overwrite: true, ..RunOptions::default() }, Reporter::Auto)
}

/// Who a caption is from, in the order of all tables, with where it lies in a row.
type Teller = (&'static str, fn(&Row) -> &rows::Said);

const TELLERS: [Teller; 4] = [
    ("alt texts", |row| &row.alt),
    ("base", |row| &row.base),
    ("ssc: short", |row| &row.short),
    ("dsc: descriptive", |row| &row.descriptive),
];
