//! The model card: what the model is, what it was trained on and how, what it scores, and the digests of all of it.

use std::fmt::Write;

use recaption_onnx::ModelFolder;
use recaption_schemas::sha256_hex;

use super::{Finished, Progress};
use crate::{
    config::{Initialisation, Recipe},
    open_clip::OpenClip,
};

/// The card of a trained model, Markdown with the hub's front matter.
pub fn card(
    recipe: &Recipe,
    progress: &Progress,
    saved: &OpenClip,
    onnx: &ModelFolder,
    finished: &Finished,
) -> anyhow::Result<String> {
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
    writeln!(text, "## Scores on held-out data\n")?;
    match &finished.validation {
        Some(v) => writeln!(
            text,
            "| samples | contrastive loss | caption loss | captions right at every id |\n|---|---|---|---|\n| {} | {:.4} | {:.4} | {:.2} % |\n",
            v.samples,
            v.contrastive,
            v.caption,
            100.0 * v.exact
        )?,
        None => writeln!(text, "The recipe named no held-out data.\n")?,
    }
    writeln!(text, "ONNX against burn, on held-out samples: {}.\n", finished.checks.join("; "))?;
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
        finished.step
    )?;
    writeln!(text, "```toml\n{}```\n", toml::to_string(&recipe.redacted())?)?;
    writeln!(text, "## Digests\n")?;
    let file =
        |name: &str| -> anyhow::Result<String> { Ok(sha256_hex(&std::fs::read(finished.model.join(name))?)) };
    writeln!(text, "| file | SHA-256 |\n|---|---|")?;
    for name in ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"] {
        writeln!(text, "| {name} | {} |", file(name)?)?;
    }
    writeln!(text, "| ONNX export (fp32), model.json | {} |", onnx.digest)?;
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
