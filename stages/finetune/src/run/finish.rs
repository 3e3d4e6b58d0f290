//! The end of a run: the model in open_clip's format, its ONNX export, verified against burn on held-out samples, and its card.

use std::path::PathBuf;

use anyhow::Context;
use recaption_onnx::{
    Precision, export,
    runtime::SessionOptions,
    verify::{Check, CheckStatus, verify},
};

use super::{
    card::{CardFacts, card},
    golden::write_golden,
    training::Training,
    validate::{Validation, validate},
};
use crate::{
    file::write_atomically,
    model::{Coca, Parameters},
    open_clip::OpenClip,
};

/// Folder of the trained model in open_clip's format.
pub(super) const MODEL: &str = "model";
/// The model card.
const CARD: &str = "README.md";
/// Folder of the ONNX export.
pub(super) const ONNX: &str = "onnx";
/// Number of samples on which ONNX is compared with burn.
const VERIFY_SAMPLES: usize = 8;

/// A finished run's model.
#[derive(Clone, Debug)]
pub struct TrainedModel {
    /// Folder of the model in open_clip's format.
    pub model: PathBuf,
    /// Folder of the ONNX export.
    pub onnx: PathBuf,
    /// Step that the model is from.
    pub step: u64,
    /// Losses of the saved model on held-out data; `None` without such data.
    pub validation: Option<Validation>,
    /// Results of comparing ONNX with burn.
    pub checks: Vec<String>,
}

/// Writes the best model, or the last one without validation, and everything that follows from it.
///
/// # Errors
/// Fails when a file cannot be written, or the export differs from the trained model.
pub(super) fn finish(run: Training<'_>) -> anyhow::Result<TrainedModel> {
    let out = &run.recipe.run.out;
    let (model, onnx) = (out.join(MODEL), out.join(ONNX));
    let device = run.device.clone().inner();
    let (step, saved) = match run.progress.best {
        Some((step, _)) => (step, run.source.with_values(OpenClip::read(&run.best_folder(step))?.values)),
        None => (run.progress.step, run.source.with_values(run.model_to_save().parameters.to_host())),
    };
    // An older card must not describe the new weights.
    let _ = std::fs::remove_file(model.join(CARD));
    saved.write(&model)?;
    // The model as saved, with the rounding of its type, is validated and exported.
    let saved = OpenClip::read(&model)?;
    let frozen = vec![false; saved.list.len()];
    let parameters = Parameters::new(saved.list.clone(), saved.values.clone(), &frozen, &device);
    let coca = Coca::new(saved.config, parameters).context("the saved model is not a CoCa")?;
    let weights = run.recipe.weights();
    let validation = (!run.validation.is_empty())
        .then(|| validate(&coca, &run.validation, run.recipe.run.part(), &weights, &device));
    export(&model, &onnx, Precision::Fp32)?;
    let exported = recaption_onnx::ModelFolder::open(&onnx)?;
    let checks = match run.validation.first() {
        Some(batch) => {
            let golden = out.join("golden.safetensors");
            let few = batch.parts(VERIFY_SAMPLES).swap_remove(0);
            write_golden(&golden, &coca, &few, &device)?;
            let checks = verify(&exported, &golden, &SessionOptions::default())
                .context("the trained model is saved and exported, but verifying it failed")?;
            let failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
            let results: Vec<String> = checks.iter().map(describe).collect();
            anyhow::ensure!(
                !failed,
                "{}: the exported model differs from the trained one: {results:?}",
                onnx.display()
            );
            results
        }
        None => vec!["unchecked: the recipe has no `data.validation` to compare on".to_owned()],
    };
    let trained = TrainedModel { model: model.clone(), onnx, step, validation, checks };
    let facts = CardFacts {
        recipe: run.recipe,
        progress: &run.progress,
        saved: &saved,
        onnx: &exported,
        model: &trained.model,
        step: trained.step,
        validation: trained.validation,
        checks: &trained.checks,
    };
    let card = card(&facts)?;
    write_atomically(&model.join(CARD), card.as_bytes())?;
    Ok(trained)
}

fn describe(check: &Check) -> String {
    let word = match check.status {
        CheckStatus::Pass => "ok",
        CheckStatus::Fail => "FAIL",
        CheckStatus::Unchecked => "unchecked",
    };
    format!("{word} {}: {}", check.tensor, check.detail)
}
