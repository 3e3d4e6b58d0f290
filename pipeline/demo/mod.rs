//! `recaption demo`: the whole pipeline on images of our own, without network and without files but the binary.
//!
//! Draws scenes, writes webdataset shards, exports the bundled captioners, runs the pipeline three times as `recaption run`
//! would (the base, which scores all captions, and the two fine-tuned to short and to descriptive captions), reads the Parquet
//! back, and shows what became of the alt texts: on the terminal and, with the images, as a page.

mod folder;
mod page;
mod rows;
mod sources;
mod table;
mod text;

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use recaption_onnx::{Bundled, Precision, export};

use self::{folder::CaptionerPaths, table::TableRow};
use crate::{
    config::{Layers, RunConfig},
    run::{ExitCode, Reporter, RunOptions},
    runtime::run_to_end,
    scenes::{self, Scene, TextKind, sample, sample_index},
    terminal::print,
};

/// Default number of scenes.
pub const DEFAULT_SCENES: u64 = 200;
/// Default seed of the scenes.
pub const DEFAULT_SEED: u64 = 20_231_019;
/// Largest number of scenes per shard.
const SHARD_SCENES: u64 = 1000;
/// Smallest number of shards, so that several are read at the same time.
const MIN_SHARDS: u64 = 2;

/// Runs the demo in `dir`.
///
/// # Errors
/// Fails when `dir` belongs to something else, a file cannot be written, ONNX Runtime is missing, or a run fails.
pub fn demo(dir: &Path, scenes: u64, seed: u64) -> anyhow::Result<ExitCode> {
    // Loaded first: without the library, drawing would waste the user's time.
    recaption_onnx::runtime::load_library()?;
    folder::claim(dir)?;
    let shards = folder::shards(dir);
    let truth = draw_shards(&shards, scenes, seed)?;
    print(&format!("drew {scenes} scenes with alt texts into {}\n", shards.display()));
    for captioner in Bundled::ALL {
        export_bundled(captioner, &CaptionerPaths::new(captioner, dir))?;
    }
    for captioner in Bundled::ALL {
        let options = RunOptions { overwrite: true, ..RunOptions::default() };
        let report =
            run_to_end(&run_config(captioner, dir)?, options, Reporter::Auto, &std::sync::Arc::default())?;
        let output = CaptionerPaths::new(captioner, dir).output;
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
    let outputs = Bundled::ALL.map(|captioner| CaptionerPaths::new(captioner, dir).output);
    let rows = rows::read(outputs, truth)?;
    let table = TableRow::of_all_sources(&rows);
    print(&text::examples(&rows));
    print(&text::table(&rows, &table));
    let page = folder::page(dir);
    std::fs::write(&page, page::page(&rows, &table)?)
        .with_context(|| format!("cannot write {}", page.display()))?;
    print(&format!("\nwith the images   {}\n", page.display()));
    Ok(ExitCode::Done)
}

/// Writes the shards; returns the scene of every key.
fn draw_shards(dir: &Path, scenes: u64, seed: u64) -> anyhow::Result<BTreeMap<String, Scene>> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let shards = scenes.div_ceil(SHARD_SCENES).max(MIN_SHARDS.min(scenes));
    let mut truth = BTreeMap::new();
    for shard in 0..shards {
        let count = u32::try_from(scenes * (shard + 1) / shards - scenes * shard / shards)?;
        let shard = u32::try_from(shard)?;
        let path = dir.join(format!("{shard:05}.tar"));
        scenes::write_shard_file(&path, seed, shard, count, TextKind::Alt)?;
        for i in 0..count {
            truth.insert(scenes::key(shard, i), sample(seed, sample_index(shard, i)).0);
        }
    }
    Ok(truth)
}

fn export_bundled(captioner: Bundled, paths: &CaptionerPaths) -> anyhow::Result<()> {
    captioner
        .write_checkpoint(&paths.checkpoint)
        .with_context(|| format!("cannot write the checkpoint {}", paths.checkpoint.display()))?;
    let model = export(&paths.checkpoint, &paths.model, Precision::Fp32)?;
    print(&format!(
        "exported {} ({} parameters) to {}\n",
        captioner.name(),
        model.spec.parameters,
        paths.model.display()
    ));
    Ok(())
}

/// Builds the configuration of `recaption run` over the demo's shards. The base scores all captions, its own too.
fn run_config(captioner: Bundled, dir: &Path) -> anyhow::Result<RunConfig> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let paths = CaptionerPaths::new(captioner, dir);
    let mut layers = Layers::default();
    layers.set("model.captioner", text(&paths.model), "demo")?;
    layers.set("model.scorer", text(&CaptionerPaths::new(Bundled::Base, dir).model), "demo")?;
    layers.set("input.shards", text(&folder::shards(dir)), "demo")?;
    layers.set("output.url", text(&paths.output), "demo")?;
    Ok(RunConfig::build(&layers)?)
}
