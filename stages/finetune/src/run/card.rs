//! The model card: what the model is for, its scores, how it was trained, and the digests of its files.

use std::{fmt::Write, path::Path};

use recaption_onnx::ModelFolder;
use recaption_schemas::sha256_hex;

use super::{state::TrainingProgress, validate::Validation};
use crate::{
    config::{Initialisation, Recipe},
    open_clip::OpenClip,
};

/// What every captioner can and cannot do.
const INTENDED_USE: &str = "\
Captions images like those that it was trained on. On other images its captions may be wrong while its own similarity stays \
high: score them with another model (`recaption run --scorer`).";

/// What a card is written from.
pub(super) struct CardFacts<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) progress: &'a TrainingProgress,
    /// The model as saved.
    pub(super) saved: &'a OpenClip,
    /// The ONNX export.
    pub(super) onnx: &'a ModelFolder,
    /// Folder of the model in open_clip's format.
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
    let c = &saved.config;
    let mut text = String::new();
    writeln!(
        text,
        "---\nlibrary_name: open_clip\npipeline_tag: image-to-text\ntags: [coca, recaption]\n---\n"
    )?;
    let name = recipe.run.out.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    writeln!(text, "# {name}\n")?;
    writeln!(
        text,
        "A CoCa of {:.2} million parameters for images of {} x {} pixels, trained by `recaption-finetune` {}.\n",
        saved.list.iter().map(recaption_onnx::checkpoint::Parameter::count).sum::<usize>() as f64 / 1e6,
        c.vision.image_size,
        c.vision.image_size,
        env!("CARGO_PKG_VERSION")
    )?;
    writeln!(text, "## Intended use\n\n{INTENDED_USE}\n")?;
    writeln!(text, "## Scores on held-out data\n")?;
    match facts.validation {
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
        let source = std::fs::read(recipe.model.checkpoint.join("open_clip_model.safetensors"))?;
        writeln!(text, "\nTraining began with weights of SHA-256 {}.", sha256_hex(&source))?;
    }
    writeln!(
        text,
        "\nThe list of training shards (names, sizes, entity tags) has SHA-256 {}.",
        progress.inputs
    )?;
    Ok(text)
}

/// Appends the digests of the model's files.
fn push_digests(text: &mut String, facts: &CardFacts<'_>) -> anyhow::Result<()> {
    writeln!(text, "## Digests\n")?;
    let file =
        |name: &str| -> anyhow::Result<String> { Ok(sha256_hex(&std::fs::read(facts.model.join(name))?)) };
    writeln!(text, "| file | SHA-256 |\n|---|---|")?;
    for name in ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"] {
        writeln!(text, "| {name} | {} |", file(name)?)?;
    }
    writeln!(text, "| ONNX export (fp32), model.json | {} |", facts.onnx.digest)?;
    Ok(())
}
