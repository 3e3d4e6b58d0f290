//! The model card: what the model is for, its scores, how it was trained, and the digests of its files.

use std::{fmt::Write, path::Path};

use recaption_schemas::sha256_hex;

use super::{learner::Learner, state::TrainingProgress, validate::Validation};
use crate::{
    albef_files,
    config::{Initialisation, Recipe},
    model::albef::table,
};

/// What every captioner can and cannot do.
const INTENDED_USE: &str = "\
Captions images like those that it was trained on. On other images its captions may be wrong while its own similarity stays \
high: score them with another model (`recaption run --scorer`).";

/// What every scorer can and cannot do.
const SCORER_USE: &str = "\
Scores how well a text fits an image, by similarity and by matching, on images and texts like those that it was trained on.";
/// Files of a CoCa whose digests are stated.
const COCA_FILES: [&str; 3] = ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"];

/// What a card is written from.
pub(super) struct CardFacts<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) progress: &'a TrainingProgress,
    /// The model as saved.
    pub(super) saved: &'a Learner,
    /// Folder of the ONNX export.
    pub(super) onnx: &'a Path,
    /// Folder of the model.
    pub(super) model: &'a Path,
    /// Step that the model is from.
    pub(super) step: u64,
    /// Losses on held-out data, if there is any.
    pub(super) validation: Option<Validation>,
    /// Results of comparing ONNX with burn.
    pub(super) checks: &'a [String],
}

/// Writes the card of a trained model, Markdown with the hub's front matter.
///
/// # Errors
/// Fails when a file whose digest it states cannot be read.
pub(super) fn card(facts: &CardFacts<'_>) -> anyhow::Result<String> {
    let CardFacts { recipe, progress, saved, .. } = facts;
    let mut text = String::new();
    let (kind, matter, intended) = match saved {
        Learner::Coca(_) => (
            "CoCa",
            "library_name: open_clip\npipeline_tag: image-to-text\ntags: [coca, recaption]",
            INTENDED_USE,
        ),
        Learner::Albef(_) => {
            ("ALBEF", "pipeline_tag: zero-shot-image-classification\ntags: [albef, recaption]", SCORER_USE)
        }
    };
    let side = saved.preprocess().size;
    // Momentum copies and queues are no part of the model that is used.
    let counted = saved.parameters().list().iter().filter(|p| table::is_trained(&p.name));
    writeln!(text, "---\n{matter}\n---\n")?;
    let name = recipe.run.out.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    writeln!(text, "# {name}\n")?;
    writeln!(
        text,
        "{} {kind} of {:.2} million parameters for images of {side} x {side} pixels, trained by `recaption-finetune` {}.\n",
        if kind == "CoCa" { "A" } else { "An" },
        counted.map(recaption_onnx::checkpoint::Parameter::count).sum::<usize>() as f64 / 1e6,
        env!("CARGO_PKG_VERSION")
    )?;
    writeln!(text, "## Intended use\n\n{intended}\n")?;
    push_scores(&mut text, facts.validation)?;
    writeln!(text, "ONNX compared with burn on held-out samples: {}.\n", facts.checks.join("; "))?;
    writeln!(text, "## Training\n")?;
    let data = &progress.counts;
    writeln!(
        text,
        "{} of {} steps of {} samples, {} epochs, {:.0} s of training. The weights are those of step {}. Samples: {data}.\n",
        progress.step,
        recipe.optimizer.steps,
        recipe.run.batch_size,
        progress.position.epoch,
        progress.seconds,
        facts.step
    )?;
    writeln!(text, "```toml\n{}```\n", toml::to_string(&recipe.redacted())?)?;
    push_digests(&mut text, facts)?;
    if recipe.model.init == Initialisation::Checkpoint {
        let weights = match saved {
            Learner::Coca(_) => "open_clip_model.safetensors",
            Learner::Albef(_) => albef_files::WEIGHTS,
        };
        let source = std::fs::read(recipe.model.checkpoint.join(weights))?;
        writeln!(text, "\nTraining began with weights of SHA-256 {}.", sha256_hex(&source))?;
    }
    writeln!(
        text,
        "\nThe list of training shards (names, sizes, entity tags) has SHA-256 {}.",
        progress.inputs
    )?;
    Ok(text)
}

/// Appends the scores on held-out data.
fn push_scores(text: &mut String, validation: Option<Validation>) -> anyhow::Result<()> {
    writeln!(text, "## Scores on held-out data\n")?;
    match validation {
        Some(v) if v.matching.is_some() => writeln!(
            text,
            "| samples | contrastive loss | matching loss | loss of masked words | masked words right |\n|---|---|---|---|---|\n| {} | {:.4} | {:.4} | {:.4} | {:.2} % |\n",
            v.samples,
            v.contrastive,
            v.matching.unwrap_or(f64::NAN),
            v.caption,
            100.0 * v.exact
        )?,
        Some(v) => writeln!(
            text,
            "| samples | contrastive loss | caption loss | captions exactly right |\n|---|---|---|---|\n| {} | {:.4} | {:.4} | {:.2} % |\n",
            v.samples,
            v.contrastive,
            v.caption,
            100.0 * v.exact
        )?,
        None => writeln!(text, "The recipe has no held-out data.\n")?,
    }
    Ok(())
}

/// Appends the digests of the model's files.
fn push_digests(text: &mut String, facts: &CardFacts<'_>) -> anyhow::Result<()> {
    writeln!(text, "## Digests\n")?;
    let file =
        |name: &str| -> anyhow::Result<String> { Ok(sha256_hex(&std::fs::read(facts.model.join(name))?)) };
    writeln!(text, "| file | SHA-256 |\n|---|---|")?;
    let albef = [&[albef_files::CONFIG, albef_files::WEIGHTS][..], &albef_files::TOKENIZER].concat();
    let names = match facts.saved {
        Learner::Coca(_) => COCA_FILES.to_vec(),
        Learner::Albef(_) => albef.into_iter().filter(|name| facts.model.join(name).exists()).collect(),
    };
    for name in names {
        writeln!(text, "| {name} | {} |", file(name)?)?;
    }
    let digest = recaption_onnx::ModelFolder::open(facts.onnx)?.digest;
    writeln!(text, "| ONNX export (fp32), model.json | {digest} |")?;
    Ok(())
}
