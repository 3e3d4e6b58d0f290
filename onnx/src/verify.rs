//! `recaption verify`: an exported model against reference tensors that open_clip computed.

use std::{collections::BTreeMap, path::Path};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{
    caption::{Admission, BeamSettings, CaptionSettings, Captioner, Decoded, Strategy},
    model::{ModelFolder, Precision},
    runtime::{Decoder, ImageEncoder, RowUpdate, RuntimeError, SessionOptions, TextEncoder},
};

/// Largest absolute difference of features, fp32.
pub const FEATURE_TOLERANCE: f32 = 1e-5;
/// Largest absolute difference of logits, fp32.
pub const LOGIT_TOLERANCE: f32 = 1e-4;
/// Largest absolute difference of beam scores, fp32.
pub const SCORE_TOLERANCE: f32 = 1e-4;
/// Smallest cosine of features, fp16.
pub const FP16_COSINE: f32 = 0.9995;

/// Why a comparison cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The golden files are unusable.
    #[error("golden {path}: {what}")]
    Golden {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The model fails.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What a comparison of one tensor found.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Within the tolerance.
    Pass,
    /// Outside it.
    Fail,
    /// Reported only.
    Unchecked,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The golden's tensor.
    pub tensor: &'static str,
    /// Verdict.
    pub outcome: Outcome,
    /// Numbers.
    pub detail: String,
}

/// Settings beside the tensors. `seq_len` and `min_seq_len` count the start token; a CLIP's golden has neither.
#[derive(Deserialize)]
struct Settings {
    sot: i64,
    eos: i64,
    pad: i64,
    #[serde(default)]
    seq_len: usize,
    #[serde(default)]
    min_seq_len: usize,
    #[serde(default = "default_beams")]
    num_beams: usize,
}

fn default_beams() -> usize {
    BeamSettings::default().beams
}

struct Golden {
    path: String,
    settings: Settings,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    bytes: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    ids: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Golden {
    fn load(path: &Path) -> Result<Self, VerifyError> {
        let name = path.display().to_string();
        let bad = |path: &Path, what: String| VerifyError::Golden { path: path.display().to_string(), what };
        let data = std::fs::read(path).map_err(|e| bad(path, e.to_string()))?;
        let file = SafeTensors::deserialize(&data).map_err(|e| bad(path, e.to_string()))?;
        let json = path.with_extension("json");
        let text =
            std::fs::read(&json).map_err(|e| bad(&json, format!("{e}; it holds the ids and lengths")))?;
        let settings = serde_json::from_slice(&text).map_err(|e| bad(&json, e.to_string()))?;
        let mut golden = Self {
            path: name,
            settings,
            tensors: BTreeMap::new(),
            bytes: BTreeMap::new(),
            ids: BTreeMap::new(),
        };
        for (name, view) in file.tensors() {
            let (shape, data) = (view.shape().to_vec(), view.data());
            match view.dtype() {
                Dtype::F32 => {
                    let values = data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                    golden.tensors.insert(name, (shape, values));
                }
                Dtype::I64 => {
                    let values = data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
                    golden.ids.insert(name, (shape, values));
                }
                Dtype::U8 => {
                    golden.bytes.insert(name, (shape, data.to_vec()));
                }
                other => return Err(bad(path, format!("tensor `{name}` is {other:?}"))),
            }
        }
        Ok(golden)
    }

    fn missing(&self, name: &str) -> VerifyError {
        VerifyError::Golden {
            path: self.path.clone(),
            what: format!("no tensor `{name}` of the expected type"),
        }
    }

    fn f32(&self, name: &str) -> Result<&(Vec<usize>, Vec<f32>), VerifyError> {
        self.tensors.get(name).ok_or_else(|| self.missing(name))
    }

    fn i64(&self, name: &str) -> Result<&(Vec<usize>, Vec<i64>), VerifyError> {
        self.ids.get(name).ok_or_else(|| self.missing(name))
    }

    fn u8(&self, name: &str) -> Result<&(Vec<usize>, Vec<u8>), VerifyError> {
        self.bytes.get(name).ok_or_else(|| self.missing(name))
    }

    /// Rows of `text` without padding.
    fn texts(&self) -> Result<Vec<&[i64]>, VerifyError> {
        let (shape, ids) = self.i64("text")?;
        Ok(ids
            .chunks_exact(shape[1])
            .map(|row| {
                let end = row.iter().position(|id| *id == self.settings.eos).map_or(row.len(), |at| at + 1);
                &row[..end]
            })
            .collect())
    }
}

/// Compares every tensor of the golden that the model has an answer to.
///
/// # Errors
/// When the golden or the model cannot be read or run; differences are no errors but [`Outcome::Fail`].
pub fn verify(
    model: &ModelFolder,
    golden: &Path,
    options: &SessionOptions,
) -> Result<Vec<Check>, VerifyError> {
    let golden = Golden::load(golden)?;
    let special = model.spec.special_ids;
    let s = &golden.settings;
    if (special.start, special.end, special.pad) != (s.sot, s.eos, s.pad) {
        return Err(VerifyError::Golden {
            path: golden.path.clone(),
            what: format!("special ids {:?} differ from the model's {special:?}", (s.sot, s.eos, s.pad)),
        });
    }
    let (_, images) = golden.u8("images")?;
    let encoded = ImageEncoder::load(model, options)?.encode(images)?;
    let mut text_encoder = TextEncoder::load(model, options)?;
    let text_features = text_encoder.encode(&golden.texts()?)?;
    let mut checks = vec![
        compare_features(model, "image_features", &encoded.features, &golden.f32("image_features")?.1),
        compare_features(model, "text_features", &text_features, &golden.f32("text_features")?.1),
    ];
    if model.spec.dimensions.decoder.is_none() {
        return Ok(checks);
    }
    checks.push(logits(model, options, &golden, &encoded)?);
    checks.push(match golden.ids.contains_key("greedy") {
        true => greedy(model, options, &golden, images)?,
        false => {
            let detail = "the golden has none".into();
            Check { tensor: "greedy", outcome: Outcome::Unchecked, detail }
        }
    });
    if golden.ids.contains_key("beam") {
        checks.extend(beam(model, options, &golden, images)?);
    }
    if golden.tensors.contains_key("image_tokens") {
        let detail = "no graph output; covered by the logits".into();
        checks.push(Check { tensor: "image_tokens", outcome: Outcome::Unchecked, detail });
    }
    Ok(checks)
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, worst)
}

/// The larger of two differences; not a number wins and stays, so that no comparison with it passes.
fn worst(m: f32, d: f32) -> f32 {
    if m.is_nan() || d <= m { m } else { d }
}

/// The smaller of two cosines, likewise.
fn least(m: f32, c: f32) -> f32 {
    if m.is_nan() || c >= m { m } else { c }
}

fn verdict(pass: bool) -> Outcome {
    if pass { Outcome::Pass } else { Outcome::Fail }
}

fn compare_features(model: &ModelFolder, tensor: &'static str, got: &[f32], want: &[f32]) -> Check {
    let width = model.spec.dimensions.embed_dim;
    if got.len() != want.len() {
        let detail = format!("{} values instead of {}", got.len(), want.len());
        return Check { tensor, outcome: Outcome::Fail, detail };
    }
    let difference = max_difference(got, want);
    let cosine = got
        .chunks_exact(width)
        .zip(want.chunks_exact(width))
        .map(|(a, b)| cosine(a, b))
        .fold(f32::INFINITY, least);
    let outcome = match model.spec.precision {
        Precision::Fp32 => verdict(difference <= FEATURE_TOLERANCE),
        Precision::Fp16 => verdict(cosine > FP16_COSINE),
        Precision::Int8 => Outcome::Unchecked,
    };
    let detail = format!("max abs difference {difference:.2e}, smallest cosine {cosine:.7}");
    Check { tensor, outcome, detail }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

/// Teacher forcing through the KV cache, up to and including the end token's row.
fn logits(
    model: &ModelFolder,
    options: &SessionOptions,
    golden: &Golden,
    encoded: &crate::runtime::Encoded,
) -> Result<Check, VerifyError> {
    let (shape, want) = golden.f32("logits")?;
    let [n, rows, vocab] = shape[..] else { return Err(golden.missing("logits")) };
    let texts = golden.texts()?;
    let mut decoder = Decoder::load(model, options, rows, 1)?;
    decoder.resize(n, &[])?;
    for i in 0..n {
        decoder.load_image(i, encoded, i)?;
    }
    let (mut difference, mut smallest, mut compared) = (0.0_f32, f32::INFINITY, 0);
    for position in 0..rows {
        let updates: Vec<_> =
            texts.iter().map(|t| t.get(position).map(|id| RowUpdate { id: *id, position })).collect();
        let got = decoder.step(&updates)?;
        for (i, got) in got.chunks_exact(vocab).enumerate().filter(|(i, _)| updates[*i].is_some()) {
            let want = &want[(i * rows + position) * vocab..][..vocab];
            difference = worst(difference, max_difference(got, want));
            smallest = least(smallest, cosine(got, want));
            compared += 1;
        }
    }
    let outcome = match model.spec.precision {
        Precision::Fp32 => verdict(difference <= LOGIT_TOLERANCE),
        Precision::Fp16 | Precision::Int8 => Outcome::Unchecked,
    };
    let detail =
        format!("max abs difference {difference:.2e} over {compared} rows, smallest cosine {smallest:.7}");
    Ok(Check { tensor: "logits", outcome, detail })
}

fn greedy(
    model: &ModelFolder,
    options: &SessionOptions,
    golden: &Golden,
    images: &[u8],
) -> Result<Check, VerifyError> {
    let (shape, want) = golden.i64("greedy")?;
    let s = &golden.settings;
    let settings = CaptionSettings::greedy(s.seq_len - 1, s.min_seq_len - 1, shape[0]);
    let captions = captions(model, options, settings, images)?;
    Ok(compare_ids(model, golden, "greedy", &captions, (shape[1], want)))
}

/// Beam search with transformers' defaults: ids, and scores as log-probability / length.
fn beam(
    model: &ModelFolder,
    options: &SessionOptions,
    golden: &Golden,
    images: &[u8],
) -> Result<[Check; 2], VerifyError> {
    let (shape, want) = golden.i64("beam")?;
    let scores = &golden.f32("beam_score")?.1;
    let s = &golden.settings;
    let settings = CaptionSettings {
        strategy: Strategy::Beam(BeamSettings { beams: s.num_beams, ..BeamSettings::default() }),
        ..CaptionSettings::greedy(s.seq_len - 1, s.min_seq_len - 1, shape[0])
    };
    let captions = captions(model, options, settings, images)?;
    let score = |c: &Decoded| c.logprob / c.ids.len() as f32;
    let difference = captions.iter().zip(scores).map(|(c, want)| (score(c) - want).abs()).fold(0.0, worst);
    let outcome = match model.spec.precision {
        Precision::Fp32 => verdict(difference <= SCORE_TOLERANCE && captions.len() == scores.len()),
        Precision::Fp16 | Precision::Int8 => Outcome::Unchecked,
    };
    let detail = format!("max abs difference {difference:.2e}");
    Ok([
        compare_ids(model, golden, "beam", &captions, (shape[1], want)),
        Check { tensor: "beam_score", outcome, detail },
    ])
}

/// The best caption of every image.
fn captions(
    model: &ModelFolder,
    options: &SessionOptions,
    settings: CaptionSettings,
    images: &[u8],
) -> Result<Vec<Decoded>, VerifyError> {
    let mut captioner = Captioner::load(model, options, settings)?;
    let admissions: Vec<Admission> =
        (0..captioner.max_slots() as u64).map(|ticket| Admission { ticket, seed: 0 }).collect();
    captioner.admit(&admissions, images)?;
    let mut captions = BTreeMap::new();
    while captioner.active() > 0 {
        for generated in captioner.step()? {
            captions.extend(generated.candidates.into_iter().next().map(|best| (generated.ticket, best)));
        }
    }
    Ok(captions.into_values().collect())
}

fn compare_ids(
    model: &ModelFolder,
    golden: &Golden,
    tensor: &'static str,
    captions: &[Decoded],
    (width, want): (usize, &[i64]),
) -> Check {
    let s = &golden.settings;
    let rows = captions.iter().zip(want.chunks_exact(width));
    let equal = rows.filter(|(caption, want)| {
        let mut row = vec![s.sot];
        row.extend(&caption.ids);
        row.resize(width, s.pad);
        row == *want
    });
    let (equal, all) = (equal.count(), want.len() / width);
    let outcome = match model.spec.precision {
        Precision::Fp32 => verdict(equal == all),
        Precision::Fp16 | Precision::Int8 => Outcome::Unchecked,
    };
    Check { tensor, outcome, detail: format!("{equal} of {all} rows equal") }
}
