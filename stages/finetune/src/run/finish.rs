//! The end of a run: the model's directory, its ONNX export, verified against burn on held-out samples, and the card.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::{DType, Device};
use recaption_onnx::{
    Precision, export,
    runtime::SessionOptions,
    verify::{Check, CheckStatus, verify},
};

use super::{
    albef_golden::write_albef_golden,
    card::{CardFacts, card},
    golden::write_golden,
    learner::Learner,
    training::Training,
    validate::Validation,
};
use crate::{batch::Batch, file::write_atomically};

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
    /// Folder of the model, in open_clip's format or an ALBEF's.
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
    let recipe = run.recipe;
    let model = recipe.run.out.join(MODEL);
    let device = run.device.clone().inner();
    let (step, values) = match run.progress.best {
        Some((step, _)) => (step, run.source.read_values(&run.best_folder(step))?),
        None => (run.progress.step, run.model_to_save().parameters().to_host()),
    };
    // An older card must not describe the new weights.
    let _ = std::fs::remove_file(model.join(CARD));
    run.source.write(recipe, values, &model, false)?;
    // The model as saved, with the rounding of its type, is validated and exported.
    let values = run.source.read_values(&model)?;
    let frozen = vec![false; run.source.list().len()];
    let saved = run.source.learner(values, &frozen, DType::F32, &device)?;
    let validation = (!run.validation.is_empty()).then(|| saved.validate(recipe, &run.validation, &device));
    let few = run.validation.first().map(|batch| batch.parts(VERIFY_SAMPLES).swap_remove(0));
    let golden = recipe.run.out.join("golden.safetensors");
    let onnx = recipe.run.out.join(ONNX);
    let checks = export_and_verify(&saved, &model, &onnx, &golden, few.as_ref(), &device)?;
    let trained = TrainedModel { model, onnx, step, validation, checks };
    let facts = CardFacts {
        recipe,
        progress: &run.progress,
        saved: &saved,
        model: &trained.model,
        onnx: &trained.onnx,
        step: trained.step,
        validation: trained.validation,
        checks: &trained.checks,
    };
    let card = card(&facts)?;
    write_atomically(&trained.model.join(CARD), card.as_bytes())?;
    Ok(trained)
}

/// Exports the trained model and compares it with burn on some samples.
fn export_and_verify(
    saved: &Learner,
    model: &Path,
    onnx: &Path,
    golden: &Path,
    few: Option<&Batch>,
    device: &Device,
) -> anyhow::Result<Vec<String>> {
    export(model, onnx, Precision::Fp32)?;
    let exported = recaption_onnx::ModelFolder::open(onnx)?;
    let Some(few) = few else {
        return Ok(vec!["unchecked: the recipe has no `data.validation` to compare on".to_owned()]);
    };
    match saved {
        Learner::Coca(coca) => write_golden(golden, coca, few, device)?,
        Learner::Albef(albef) => write_albef_golden(golden, albef, few, device)?,
    }
    let checks = verify(&exported, golden, &SessionOptions::default())
        .context("the trained model is saved and exported, but verifying it failed")?;
    let failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
    let results: Vec<String> = checks.iter().map(describe).collect();
    anyhow::ensure!(
        !failed,
        "{}: the exported model differs from the trained one: {results:?}",
        onnx.display()
    );
    Ok(results)
}

fn describe(check: &Check) -> String {
    let word = match check.status {
        CheckStatus::Pass => "ok",
        CheckStatus::Fail => "FAIL",
        CheckStatus::Unchecked => "unchecked",
    };
    format!("{word} {}: {}", check.tensor, check.detail)
}
