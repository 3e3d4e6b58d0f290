//! A BLIP that scores against tensors that transformers computed: embeddings, cosines, and matching logits and probabilities of every
//! image with every text, with `[CLS]` and with `[ENC]` at the texts' start.

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;

use super::{
    bounds::Bounds,
    checks::{check_rows, normalised},
    golden::unusable,
};
use crate::{
    model::ModelFolder,
    runtime::{ImageEncoder, MatchStart, Matcher, RuntimeError, SessionOptions, TextEncoder},
    tokenizer::Tokenizer,
    verify::{
        compare::Comparison,
        report::{Check, VerifyError},
        tensor_file::TensorFile,
    },
};

/// The JSON file next to a golden.
#[derive(Deserialize)]
struct Settings {
    cls: i64,
    enc: i64,
    sep: i64,
    pad: i64,
    #[serde(default)]
    texts: Vec<String>,
}

/// The tensors of one start token.
struct Names {
    start: MatchStart,
    ids: &'static str,
    hidden: &'static str,
    features: &'static str,
    cosine: &'static str,
    logits: &'static str,
    probabilities: &'static str,
}

const NAMES: [Names; 2] = [
    Names {
        start: MatchStart::Cls,
        ids: "text_cls",
        hidden: "text_hidden_cls",
        features: "text_features_cls",
        cosine: "cosine_cls",
        logits: "itm_logits_cls",
        probabilities: "itm_prob_cls",
    },
    Names {
        start: MatchStart::Enc,
        ids: "text_enc",
        hidden: "text_hidden_enc",
        features: "text_features_enc",
        cosine: "cosine_enc",
        logits: "itm_logits_enc",
        probabilities: "itm_prob_enc",
    },
];

/// A model and a golden that fits it.
struct Verifier<'a> {
    model: &'a ModelFolder,
    options: &'a SessionOptions,
    path: &'a Path,
    file: TensorFile<'a>,
    settings: Settings,
    /// Images, `N`.
    count: usize,
    /// `[N, E]`.
    features: Vec<f32>,
    /// `[N, Q, W]`.
    tokens: Vec<f32>,
    bounds: Bounds,
}

/// Compares every tensor of the golden that the model computes.
///
/// # Errors
/// When the golden cannot be read or the model cannot be run; a difference is not an error.
pub(super) fn verify(
    model: &ModelFolder,
    path: &Path,
    options: &SessionOptions,
) -> Result<Vec<Check>, VerifyError> {
    let data = std::fs::read(path).map_err(|e| unusable(path, e.to_string()))?;
    let file = TensorFile::parse(&data).map_err(|what| unusable(path, what))?;
    let json = path.with_extension("json");
    let text = std::fs::read(&json).map_err(|e| unusable(&json, e.to_string()))?;
    let settings: Settings = serde_json::from_slice(&text).map_err(|e| unusable(&json, e.to_string()))?;
    let (special, sizes) = (model.spec.special_ids, model.fusion().map_err(RuntimeError::from)?);
    let ours = (special.start, sizes.enc_id, special.end, special.pad);
    let theirs = (settings.cls, settings.enc, settings.sep, settings.pad);
    if ours != theirs {
        return Err(unusable(&json, format!("special ids {theirs:?} differ from the model's {ours:?}")));
    }
    let side = Some(model.spec.image_size as usize);
    let (shape, images) =
        file.tensor("images", Dtype::U8, &[None, side, side, Some(3)]).map_err(|w| unusable(path, w))?;
    let mut encoder = ImageEncoder::load(model, options)?;
    let features = encoder.encode(&images)?.features;
    let tokens = encoder.image_tokens(&images)?;
    let bounds = Bounds::of(model, options);
    let verifier =
        Verifier { model, options, path, file, settings, count: shape[0], features, tokens, bounds };
    let mut checks = verifier.images(&images)?;
    for names in &NAMES {
        checks.extend(verifier.texts(names)?);
    }
    for name in ["images", "attention_mask"] {
        if verifier.file.has(name) {
            checks.push(Check::unchecked(name, "an input of the comparison"));
        }
    }
    Ok(checks)
}

impl Verifier<'_> {
    fn floats(&self, name: &str, shape: &[Option<usize>]) -> Result<Vec<f32>, VerifyError> {
        Ok(self.file.floats(name, shape).map_err(|what| unusable(self.path, what))?.1)
    }

    fn images(&self, images: &[u8]) -> Result<Vec<Check>, VerifyError> {
        let (side, n) = (Some(self.model.spec.image_size as usize), Some(self.count));
        let sizes = self.model.fusion().map_err(RuntimeError::from)?;
        let mut checks = Vec::new();
        if self.file.has("pixel_values") {
            let want = self.floats("pixel_values", &[n, Some(3), side, side])?;
            checks.push(normalised(self.model, "pixel_values", images, &want));
        }
        if self.file.has("vision_hidden") {
            let width = sizes.image_width;
            let want = self.floats("vision_hidden", &[n, Some(sizes.image_tokens), Some(width)])?;
            let comparison = Comparison::of_rows(&self.tokens, &want, width);
            checks.push(check_rows("vision_hidden", &comparison, self.bounds.image_tokens));
        }
        if self.file.has("image_features") {
            let width = self.model.spec.dimensions.embed_dim;
            let want = self.floats("image_features", &[n, Some(width)])?;
            let comparison = Comparison::of_rows(&self.features, &want, width);
            checks.push(check_rows("image_features", &comparison, self.bounds.features));
        }
        Ok(checks)
    }

    /// Checks everything of texts with one start token.
    fn texts(&self, names: &Names) -> Result<Vec<Check>, VerifyError> {
        if !self.file.has(names.ids) {
            return Ok(Vec::new());
        }
        let d = &self.model.spec.dimensions;
        let rows = self.file.ids(names.ids, None, d.vocab_size).map_err(|what| unusable(self.path, what))?;
        let (count, length) = (Some(rows.len()), rows[0].len());
        let texts: Vec<Vec<i64>> = rows.iter().map(|row| self.up_to_end(row)).collect();
        let mut checks = vec![self.tokenized(names, &texts)?];
        let mut encoder = TextEncoder::load(self.model, self.options)?;
        if self.file.has(names.hidden) {
            let width = self.model.fusion().map_err(RuntimeError::from)?.text_width;
            let want = self.floats(names.hidden, &[count, Some(length), Some(width)])?;
            let comparison = Comparison::of_rows(&encoder.text_tokens(&rows)?, &want, width);
            checks.push(check_rows(names.hidden, &comparison, self.bounds.text_tokens));
        }
        let ids: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
        let features = encoder.encode(&ids)?;
        if self.file.has(names.features) {
            let want = self.floats(names.features, &[count, Some(d.embed_dim)])?;
            let comparison = Comparison::of_rows(&features, &want, d.embed_dim);
            checks.push(check_rows(names.features, &comparison, self.bounds.features));
        }
        let pairs = [Some(self.count), count];
        if self.file.has(names.cosine) {
            let want = self.floats(names.cosine, &pairs)?;
            let got = self.cosines(&features);
            checks.push(check_rows(
                names.cosine,
                &Comparison::of_rows(&got, &want, rows.len()),
                self.bounds.cosines,
            ));
        }
        self.matches(names, &ids, &mut checks)?;
        Ok(checks)
    }

    fn up_to_end(&self, row: &[i64]) -> Vec<i64> {
        let end = row.iter().position(|id| *id == self.settings.sep).map_or(row.len(), |at| at + 1);
        row[..end].to_vec()
    }

    /// Checks that the tokenizer gives the texts' ids, but for the start token.
    fn tokenized(&self, names: &Names, want: &[Vec<i64>]) -> Result<Check, VerifyError> {
        if self.settings.texts.len() != want.len() {
            return Ok(Check::unchecked(names.ids, "the JSON file has no texts"));
        }
        let failed = |e: crate::tokenizer::TokenizerError| RuntimeError::Input(e.to_string());
        let tokenizer = Tokenizer::load(self.model).map_err(failed)?;
        let mut equal = 0;
        for (text, want) in self.settings.texts.iter().zip(want) {
            equal += usize::from(tokenizer.encode(text).map_err(failed)?.ids[1..] == want[1..]);
        }
        Ok(Check::new(names.ids, equal == want.len(), format!("{equal} of {} texts equal", want.len())))
    }

    /// Returns the cosine of every image with every text.
    fn cosines(&self, texts: &[f32]) -> Vec<f32> {
        let width = self.model.spec.dimensions.embed_dim;
        let dot = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
        };
        let images = self.features.chunks_exact(width);
        images.flat_map(|image| texts.chunks_exact(width).map(move |text| dot(image, text))).collect()
    }

    fn matches(&self, names: &Names, texts: &[&[i64]], checks: &mut Vec<Check>) -> Result<(), VerifyError> {
        let (n, m) = (Some(self.count), Some(texts.len()));
        let mut matcher = Matcher::load(self.model, self.options, names.start)?;
        let every: Vec<&[i64]> = (0..self.count).flat_map(|_| texts.iter().copied()).collect();
        let logits = matcher.logits(&self.tokens, &every)?;
        if self.file.has(names.logits) {
            let want = self.floats(names.logits, &[n, m, Some(2)])?;
            let comparison = Comparison::of_rows(logits.as_flattened(), &want, 2 * texts.len());
            checks.push(check_rows(names.logits, &comparison, self.bounds.matches));
        }
        if self.file.has(names.probabilities) {
            let want = self.floats(names.probabilities, &[n, m])?;
            let got: Vec<f32> = logits.iter().map(|pair| match_probability(*pair)).collect();
            checks.push(check_rows(
                names.probabilities,
                &Comparison::of_rows(&got, &want, texts.len()),
                self.bounds.probabilities,
            ));
        }
        Ok(())
    }
}

/// Returns the probability of a match: the second part of the logits' softmax.
fn match_probability([other, matched]: [f32; 2]) -> f32 {
    (1.0 / (1.0 + f64::from(other - matched).exp())) as f32
}
