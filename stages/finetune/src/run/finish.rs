//! The end of a run: the model in open_clip's format, exported to ONNX, held against burn on held-out samples, described.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::{DType, Device};
use recaption_onnx::{
    Precision,
    checkpoint::Dtype,
    export,
    model::SpecialIds,
    runtime::SessionOptions,
    verify::{Check, CheckStatus, verify},
};
use safetensors::View;

use super::{Run, Validation, card, validate};
use crate::{
    batch::Batch,
    model::{Coca, Parameters},
    open_clip::{OpenClip, Stored, write_whole},
};

/// Folder of the trained model in open_clip's format.
pub const MODEL: &str = "model";
/// The model card.
const CARD: &str = "README.md";
/// Folder of its export.
pub const ONNX: &str = "onnx";
/// Samples on which ONNX is held against burn.
const VERIFIED: usize = 8;

/// What a run left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The model in open_clip's format.
    pub model: PathBuf,
    /// Its export.
    pub onnx: PathBuf,
    /// Steps that the model has seen.
    pub step: u64,
    /// Its losses on held-out data, as saved; none without such data.
    pub validation: Option<Validation>,
    /// ONNX against burn.
    pub checks: Vec<String>,
}

/// Writes the best model (the last one without validation) and everything that follows from it.
pub fn finish(run: Run<'_>) -> anyhow::Result<Finished> {
    let out = &run.recipe.run.out;
    let (model, onnx) = (out.join(MODEL), out.join(ONNX));
    let device = run.device.clone().inner();
    let (step, saved) = match run.progress.best {
        Some((step, _)) => (step, run.source.with_values(OpenClip::read(&run.best_folder(step))?.values)),
        None => (run.progress.step, run.source.with_values(run.judged().parameters.to_host())),
    };
    // An older card must not describe the new weights.
    let _ = std::fs::remove_file(model.join(CARD));
    saved.write(&model)?;
    // What was saved, with the rounding of its type, is what is judged.
    let saved = OpenClip::read(&model)?;
    let trained = vec![false; saved.list.len()];
    let parameters = Parameters::new(saved.list.clone(), saved.values.clone(), &trained, &device);
    let coca = Coca::new(saved.config, parameters).context("the saved model is no CoCa")?;
    let weights = run.recipe.weights();
    let validation = (!run.validation.is_empty())
        .then(|| validate(&coca, &run.validation, run.recipe.run.part(), &weights, &device));
    export(&model, &onnx, Precision::Fp32)?;
    let exported = recaption_onnx::ModelFolder::open(&onnx)?;
    let checks = match run.validation.first() {
        Some(batch) => {
            let golden = out.join("golden.safetensors");
            let few = batch.parts(VERIFIED).swap_remove(0);
            write_golden(&golden, &coca, &few, &device)?;
            let checks = verify(&exported, &golden, &SessionOptions::default())
                .context("the trained model is saved and exported, but could not be verified")?;
            let failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
            let told: Vec<String> = checks.iter().map(tell).collect();
            anyhow::ensure!(
                !failed,
                "{}: the exported model differs from the trained one: {told:?}",
                onnx.display()
            );
            told
        }
        None => vec!["unchecked: no `data.validation` to compare on".to_owned()],
    };
    let finished = Finished { model: model.clone(), onnx, step, validation, checks };
    let card = card::card(run.recipe, &run.progress, &saved, &exported, &finished)?;
    write_whole(&model.join(CARD), card.as_bytes())?;
    Ok(finished)
}

fn tell(check: &Check) -> String {
    let word = match check.status {
        CheckStatus::Pass => "ok",
        CheckStatus::Fail => "FAIL",
        CheckStatus::Unchecked => "unchecked",
    };
    format!("{word} {}: {}", check.tensor, check.detail)
}

/// What burn computes, in the form that `recaption verify` reads.
///
/// # Errors
/// When the files cannot be written.
pub fn write_golden(path: &Path, model: &Coca, batch: &Batch, device: &Device) -> anyhow::Result<()> {
    let c = &model.config;
    let inputs = batch.to_device(c, device);
    let [n, length] = inputs.texts.ids.dims();
    let output = model.without_autodiff().forward(inputs.patches, &inputs.texts, true, true);
    let ids: Vec<i64> = inputs.texts.ids.cast(DType::I64).into_data_as::<i64>().try_into_vec()?;
    let text = output.text_features.context("no text features")?;
    let logits = output.logits.context("no logits")?;
    let side = c.vision.image_size;
    let floats = |x: burn::tensor::Tensor<2>, shape: &[usize]| -> anyhow::Result<Raw> {
        let values: Vec<f32> = x.into_data_as::<f32>().try_into_vec()?;
        Ok(Raw::Floats(Stored::new("golden", shape, &values, Dtype::F32)?))
    };
    let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let tensors = vec![
        ("images", Raw::Bytes(Dtype::U8, vec![n, side, side, 3], batch.pixels.clone())),
        ("text", Raw::Bytes(Dtype::I64, vec![n, length], ids)),
        ("image_features", floats(output.image_features, &[n, c.embed_dim])?),
        ("text_features", floats(text, &[n, c.embed_dim])?),
        ("logits", floats(logits, &[n, length - 1, c.text.vocab_size])?),
    ];
    write_whole(path, &safetensors::serialize(tensors, None)?)?;
    let special = SpecialIds::of_vocabulary(c.text.vocab_size);
    let settings = serde_json::json!({ "sot": special.start, "eos": special.end, "pad": special.pad });
    Ok(write_whole(&path.with_extension("json"), format!("{settings}\n").as_bytes())?)
}

/// A tensor for safetensors.
enum Raw {
    Floats(Stored),
    Bytes(Dtype, Vec<usize>, Vec<u8>),
}

impl View for Raw {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(stored) => View::dtype(stored),
            Self::Bytes(dtype, ..) => *dtype,
        }
    }
    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(stored) => View::shape(stored),
            Self::Bytes(_, shape, _) => shape,
        }
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        match self {
            Self::Floats(stored) => View::data(stored),
            Self::Bytes(_, _, bytes) => bytes.into(),
        }
    }
    fn data_len(&self) -> usize {
        match self {
            Self::Floats(stored) => View::data_len(stored),
            Self::Bytes(_, _, bytes) => bytes.len(),
        }
    }
}
