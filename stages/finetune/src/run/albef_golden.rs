//! Golden files of an ALBEF: burn's outputs, written for a comparison with ONNX, and a reference's losses and gradients, compared
//! with burn's.
//!
//! A golden file holds `images` u8 `[N, S, S, 3]`, `ids`, `attention_mask`, `masked_ids` and, for the outputs, `image_features`,
//! `text_features` `[N, E]`, `itm_logits` `[N, 2]` of the true pairs and `mlm_logits` `[N, T, V]` of the masked texts. One of a
//! training step also holds `mlm_labels`, `negative_image`, `negative_text`, the three losses and gradients `grad.NAME`.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use burn::tensor::{Device, Tensor};
use recaption_onnx::checkpoint::Dtype;
use safetensors::SafeTensors;

use crate::{
    albef_files::AlbefFiles,
    batch::{Batch, PatchSettings},
    file::write_atomically,
    model::{
        Parameters,
        albef::{Albef, TextBatch, table},
        host,
    },
    objective::albef::{AlbefInputs, IGNORED_LABEL, MaskedTexts, Negatives, losses, mask_texts},
    random::Random,
    stored_tensor::{FileTensor, StoredTensor},
};

/// Largest difference of an output or a loss.
const OUTPUT_TOLERANCE: f64 = 1e-4;
/// Largest difference of a gradient, as a share of the reference's norm.
const GRADIENT_TOLERANCE: f64 = 1e-3;
/// Norms below this are compared absolutely: the gradient of a key's bias is zero but for rounding.
const SMALLEST_NORM: f64 = 1e-3;
/// Probability that a token is masked in a written golden file: higher than in training, so that a few samples have some.
const MASK_PROBABILITY: f64 = 0.3;

/// The verdict on one output, loss or gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingCheck {
    /// Name in the golden file.
    pub tensor: String,
    /// Whether it is within the tolerance.
    pub passed: bool,
    /// Measured difference and tolerance.
    pub detail: String,
}

impl std::fmt::Display for TrainingCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.passed { "ok" } else { "FAIL" };
        write!(f, "{word} {}: {}", self.tensor, self.detail)
    }
}

/// Outputs of a batch, by a golden file's names: shape and values.
type Outputs = BTreeMap<&'static str, (Vec<usize>, Vec<f32>)>;

/// Writes burn's outputs for `batch` as a golden file.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn write_albef_golden(path: &Path, model: &Albef, batch: &Batch, device: &Device) -> anyhow::Result<()> {
    let c = &model.config;
    let (count, side) = (batch.len(), c.image_res);
    let masked = mask_texts(&batch.ids, c, MASK_PROBABILITY, &mut Random::new(0, &[]));
    let length = batch.ids.iter().map(Vec::len).max().unwrap_or(0);
    let padded = |rows: &[Vec<i64>], pad: i64| -> FileTensor {
        let at = |row: &Vec<i64>, i: usize| row.get(i).copied().unwrap_or(pad);
        let flat: Vec<i64> = rows.iter().flat_map(|row| (0..length).map(move |i| at(row, i))).collect();
        FileTensor::integers(&[count, length], &flat)
    };
    let attended: Vec<Vec<i64>> = batch.ids.iter().map(|row| vec![1; row.len()]).collect();
    let mut tensors = vec![
        ("images", FileTensor::Bytes(Dtype::U8, vec![count, side, side, 3], batch.pixels.clone())),
        ("ids", padded(&batch.ids, c.special_ids.pad)),
        ("attention_mask", padded(&attended, 0)),
        ("masked_ids", padded(&masked.ids, c.special_ids.pad)),
    ];
    for (name, (shape, values)) in outputs(&model.without_autodiff(), batch, &masked.ids, device)? {
        tensors.push((name, FileTensor::Floats(StoredTensor::new(name, &shape, &values, Dtype::F32)?)));
    }
    Ok(write_atomically(path, &safetensors::serialize(tensors, None)?)?)
}

/// Computes the outputs of a batch.
fn outputs(model: &Albef, batch: &Batch, masked: &[Vec<i64>], device: &Device) -> anyhow::Result<Outputs> {
    let (encoders, pad) = (model.encoders(), model.config.special_ids.pad);
    let image = encoders.image(batch.patches(&PatchSettings::of_albef(&model.config), device));
    let texts = TextBatch::new(&batch.ids, pad, device);
    let text = encoders.text(&texts);
    let matches = encoders.matches(text.clone(), &texts.lengths, image.clone());
    let masked = TextBatch::new(masked, pad, device);
    let fused = encoders.fuse(encoders.text(&masked), &masked.lengths, image.clone());
    let [count, length] = masked.ids.dims();
    let words = encoders.words(fused);
    let mut outputs = Outputs::new();
    let mut add = |name, x: Tensor<2>, shape: Option<Vec<usize>>| -> anyhow::Result<()> {
        let shape = shape.unwrap_or_else(|| x.dims().to_vec());
        outputs.insert(name, (shape, x.into_data_as::<f32>().try_into_vec()?));
        Ok(())
    };
    add("image_features", encoders.image_features(&image), None)?;
    add("text_features", encoders.text_features(&text), None)?;
    add("itm_logits", matches, None)?;
    add("mlm_logits", words, Some(vec![count, length, model.config.bert.vocab_size]))?;
    Ok(outputs)
}

/// Compares burn with the golden file of an ALBEF's training step: outputs and losses within 1e-4, gradients within 1e-3 of their
/// norm. `dir` holds the weights; momentum and alpha are its configuration's.
///
/// # Errors
/// Fails when a file cannot be read, or the golden file lacks an input or holds nothing to compare.
pub fn compare_albef(dir: &Path, golden: &Path) -> anyhow::Result<Vec<TrainingCheck>> {
    let bytes = std::fs::read(golden).with_context(|| format!("cannot read {}", golden.display()))?;
    let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{}", golden.display()))?;
    let file = GoldenFile { file, path: golden };
    let files = AlbefFiles::read(dir, None, 0)?;
    let trained: Vec<bool> = files.list.iter().map(|p| table::is_trained(&p.name)).collect();
    let device = Device::flex().autodiff();
    let parameters = Parameters::new(files.list, files.values, &trained, &device);
    let mut model = Albef { config: files.config, parameters };
    let batch = file.batch(&model)?;
    let masked = file.rows("masked_ids", &batch.ids)?;
    let mut checks = Vec::new();
    let plain = model.without_autodiff();
    for (name, (shape, values)) in outputs(&plain, &batch, &masked, &device.clone().inner())? {
        if file.has(name) {
            checks.push(compare_values(name, &values, &file.output(name, &shape)?));
        }
    }
    if file.has("mlm_labels") {
        check_step(&mut model, &batch, masked, &file, &device, &mut checks)?;
    }
    if checks.is_empty() {
        bail!("{}: no output, loss or gradient to compare", golden.display());
    }
    Ok(checks)
}

/// Computes the step of a golden file, and compares its losses and gradients.
fn check_step(
    model: &mut Albef,
    batch: &Batch,
    masked: Vec<Vec<i64>>,
    file: &GoldenFile<'_>,
    device: &Device,
    checks: &mut Vec<TrainingCheck>,
) -> anyhow::Result<()> {
    model.clamp_temperature();
    model.update_momentum(model.config.momentum);
    let labels = file.rows("mlm_labels", &batch.ids)?;
    let indices = |name: &str| -> anyhow::Result<Vec<usize>> {
        let values = file.integers(name)?;
        let valid = |i: i64| usize::try_from(i).ok().filter(|i| *i < batch.len());
        let indices: Option<Vec<usize>> = values.into_iter().map(valid).collect();
        indices.filter(|list| list.len() == batch.len()).with_context(|| {
            format!("{}: `{name}` must hold {} indices of the batch", file.path.display(), batch.len())
        })
    };
    let negatives = Negatives { images: indices("negative_image")?, texts: indices("negative_text")? };
    let masked = MaskedTexts::with_labels(masked, &labels);
    let inputs = AlbefInputs {
        patches: batch.patches(&PatchSettings::of_albef(&model.config), device),
        texts: &batch.ids,
        masked: &masked,
        negatives: Some(negatives),
        alpha: model.config.alpha,
    };
    let found = losses(model, inputs, &mut Random::new(0, &[]));
    let words = found.words.with_context(|| {
        format!("{}: every `mlm_labels` is {IGNORED_LABEL}: no word is predicted", file.path.display())
    })?;
    let compared = [("loss_ita", &found.contrastive), ("loss_itm", &found.matching), ("loss_mlm", &words)];
    for (name, loss) in compared {
        checks.push(compare_values(name, &host(loss), &file.floats(name)?));
    }
    let mut gradients = (found.contrastive + found.matching + words).backward();
    let gradients = model.parameters.take_gradients(&mut gradients);
    for (parameter, gradient) in model.parameters.list().iter().zip(&gradients) {
        let name = format!("grad.{}", parameter.name);
        if file.has(&name) {
            let values = gradient.as_ref().map(host).unwrap_or_default();
            checks.push(compare_gradients(&name, &values, &file.floats(&name)?));
        }
    }
    Ok(())
}

/// Compares values by their largest difference.
fn compare_values(name: &str, got: &[f32], want: &[f32]) -> TrainingCheck {
    let worst = got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, nan_max);
    verdict(name, got.len() == want.len(), worst, OUTPUT_TOLERANCE, "largest difference")
}

/// Compares gradients by the norm of their difference, relative to the reference's.
fn compare_gradients(name: &str, got: &[f32], want: &[f32]) -> TrainingCheck {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let apart = norm(&mut got.iter().zip(want).map(|(a, b)| a - b));
    let size = norm(&mut want.iter().copied());
    let relative = apart / size.max(SMALLEST_NORM);
    verdict(name, got.len() == want.len(), relative, GRADIENT_TOLERANCE, "relative difference of norms")
}

/// Returns the larger number, or NaN if one is.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn verdict(name: &str, same_size: bool, difference: f64, tolerance: f64, what: &str) -> TrainingCheck {
    let detail = match same_size {
        true => format!("{what} {difference:.1e}, at most {tolerance:.0e}"),
        false => "another number of values than the reference's".to_owned(),
    };
    TrainingCheck { tensor: name.to_owned(), passed: same_size && difference <= tolerance, detail }
}

/// A golden file's tensors.
struct GoldenFile<'a> {
    file: SafeTensors<'a>,
    path: &'a Path,
}

impl GoldenFile<'_> {
    fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_ok()
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> anyhow::Result<&[u8]> {
        let bad = || format!("{}: `{name}`", self.path.display());
        let tensor = self.file.tensor(name).with_context(bad)?;
        anyhow::ensure!(tensor.dtype() == dtype, "{} is {:?}, expected {dtype:?}", bad(), tensor.dtype());
        Ok(tensor.data())
    }

    fn floats(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let bytes = self.bytes(name, Dtype::F32)?;
        Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Reads an output. Texts end here where the longest one does: where the reference has further positions, which are all padding, they
    /// are left out.
    fn output(&self, name: &str, shape: &[usize]) -> anyhow::Result<Vec<f32>> {
        let values = self.floats(name)?;
        let stored = self.file.tensor(name)?.shape().to_vec();
        match (shape, stored.as_slice()) {
            ([count, length, width], [n, positions, w]) if (count, width) == (n, w) && positions > length => {
                let texts = values.chunks_exact(positions * w);
                Ok(texts.flat_map(|text| &text[..length * width]).copied().collect())
            }
            _ => Ok(values),
        }
    }

    fn integers(&self, name: &str) -> anyhow::Result<Vec<i64>> {
        let bytes = self.bytes(name, Dtype::I64)?;
        Ok(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    /// Reads images and texts; texts end where their attention mask does.
    fn batch(&self, model: &Albef) -> anyhow::Result<Batch> {
        let attended = self.integers("attention_mask")?;
        let ids = self.integers("ids")?;
        let pixels = self.bytes("images", Dtype::U8)?.to_vec();
        let count = pixels.len() / (3 * model.config.image_res.pow(2));
        let is_valid = count > 0 && ids.len().is_multiple_of(count) && ids.len() == attended.len();
        anyhow::ensure!(is_valid, "{}: `images`, `ids` and `attention_mask` do not fit", self.path.display());
        let length = ids.len() / count;
        let rows = ids.chunks_exact(length).zip(attended.chunks_exact(length));
        let text = |(ids, attended): (&[i64], &[i64])| -> anyhow::Result<Vec<i64>> {
            let end = attended.iter().position(|a| *a == 0).unwrap_or(length);
            let is_prefix = attended[end..].iter().all(|a| *a == 0);
            anyhow::ensure!(is_prefix && end > 0, "`attention_mask` must begin with ones, then zeros");
            Ok(ids[..end].to_vec())
        };
        let ids: Vec<Vec<i64>> = rows.map(text).collect::<anyhow::Result<_>>()?;
        let vocabulary = model.config.bert.vocab_size as i64;
        anyhow::ensure!(
            ids.iter().flatten().all(|id| (0..vocabulary).contains(id)),
            "{}: `ids` exceeds the vocabulary of {vocabulary}",
            self.path.display()
        );
        Ok(Batch { keys: (0..count).map(|i| i.to_string()).collect(), pixels, ids })
    }

    /// Reads rows of integers, each as long as the text it belongs to.
    fn rows(&self, name: &str, texts: &[Vec<i64>]) -> anyhow::Result<Vec<Vec<i64>>> {
        let values = self.integers(name)?;
        let is_valid = values.len().is_multiple_of(texts.len());
        let length = values.len() / texts.len();
        let is_valid = is_valid && texts.iter().all(|text| text.len() <= length);
        anyhow::ensure!(is_valid, "{}: `{name}` does not fit `ids`", self.path.display());
        Ok(values.chunks_exact(length).zip(texts).map(|(row, text)| row[..text.len()].to_vec()).collect())
    }
}
