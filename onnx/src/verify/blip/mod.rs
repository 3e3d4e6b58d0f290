//! A BLIP against tensors that transformers computed. One verdict per tensor of the golden; a tensor that is an input of the
//! comparison, or unknown, is listed as unchecked.

mod bounds;
mod captions;
mod checks;
mod generation;
mod golden;
mod retrieval;
mod rounded;

use std::path::Path;

use recaption_image::prepare_rgb;
use safetensors::Dtype;

use self::{
    bounds::Bounds,
    checks::{check_numbers, check_rows, normalised},
    generation::Captions,
    golden::{Golden, unusable},
};
use super::{
    compare::Comparison,
    forced::{ForcedDecoder, log_probability},
    report::{Check, VerifyError},
};
use crate::{
    model::{Architecture, ModelFolder},
    runtime::{Encoded, ImageEncoder, RuntimeError, SessionOptions},
    tokenizer::Tokenizer,
};

/// Tensors that comparisons start from.
const INPUTS: [&str; 4] = ["images", "raw_image", "text", "attention_mask"];

/// Compares every tensor of the golden that the model computes.
///
/// # Errors
/// When the golden cannot be read or the model cannot be run; a difference is not an error.
pub(super) fn verify(
    model: &ModelFolder,
    path: &Path,
    options: &SessionOptions,
) -> Result<Vec<Check>, VerifyError> {
    if model.spec.architecture == Architecture::BlipRetrieval {
        return retrieval::verify(model, path, options);
    }
    let data = std::fs::read(path).map_err(|e| unusable(path, e.to_string()))?;
    let golden = Golden::parse(&data, path, model)?;
    let mut encoder = ImageEncoder::load(model, options)?;
    let encoded = encoder.encode(&golden.images)?;
    let tokenizer = if model.has_tokenizer() { Some(load_tokenizer(model)?) } else { None };
    let bounds = Bounds::of(model, options);
    let verifier = Verifier { path, model, options, golden: &golden, encoded, tokenizer, bounds };
    let mut checks = verifier.pixels()?;
    checks.extend(verifier.image_tokens(&mut encoder)?);
    checks.extend(verifier.logits()?);
    checks.extend(verifier.tokenizer_checks()?);
    checks.extend(verifier.captions()?);
    let mut unknown = Vec::new();
    for name in golden.file.names() {
        if let Some(input) = INPUTS.iter().find(|input| **input == name) {
            checks.push(Check::unchecked(input, "an input of the comparison"));
        } else if checks.iter().all(|check| check.tensor != name) {
            unknown.push(format!("`{name}`"));
        }
    }
    if !unknown.is_empty() {
        let what = format!("not compared with anything: {}", unknown.join(", "));
        checks.push(Check::unchecked("others", &what));
    }
    Ok(checks)
}

fn load_tokenizer(model: &ModelFolder) -> Result<Tokenizer, RuntimeError> {
    Tokenizer::load(model).map_err(|error| RuntimeError::Input(error.to_string()))
}

/// A model, a golden that fits it, and what both share.
struct Verifier<'a> {
    path: &'a Path,
    model: &'a ModelFolder,
    options: &'a SessionOptions,
    golden: &'a Golden<'a>,
    /// The golden's images, encoded.
    encoded: Encoded,
    tokenizer: Option<Tokenizer>,
    bounds: Bounds,
}

impl Verifier<'_> {
    fn unusable(&self) -> impl Fn(String) -> VerifyError {
        |what| unusable(self.path, what)
    }

    /// Checks how images are resized and normalised.
    fn pixels(&self) -> Result<Vec<Check>, VerifyError> {
        let (file, side) = (&self.golden.file, self.model.spec.image_size as usize);
        let rows = |count| [Some(count), Some(3), Some(side), Some(side)];
        let mut checks = Vec::new();
        if file.has("pixel_values") {
            let want = file.floats("pixel_values", &rows(self.golden.count)).map_err(self.unusable())?.1;
            checks.push(normalised(self.model, "pixel_values", &self.golden.images, &want));
        }
        if !file.has("raw_image") {
            return Ok(checks);
        }
        let (shape, raw) =
            file.tensor("raw_image", Dtype::U8, &[None, None, Some(3)]).map_err(self.unusable())?;
        let (width, height) = (shape[1] as u32, shape[0] as u32);
        let squashed = prepare_rgb(width, height, &raw, &self.model.spec.preprocessing)
            .map_err(|error| unusable(self.path, format!("tensor `raw_image`: {error}")))?;
        if file.has("raw_squashed") {
            let want = file
                .tensor("raw_squashed", Dtype::U8, &[Some(side), Some(side), Some(3)])
                .map_err(self.unusable())?
                .1;
            let differing = squashed.as_slice().iter().zip(&want).filter(|(a, b)| a != b).count();
            let detail =
                format!("{differing} of {} bytes differ, {width} x {height} pixels resized", want.len());
            checks.push(Check::new("raw_squashed", differing == 0, detail));
        }
        if file.has("raw_pixel_values") {
            let want = file.floats("raw_pixel_values", &rows(1)).map_err(self.unusable())?.1;
            checks.push(normalised(self.model, "raw_pixel_values", squashed.as_slice(), &want));
        }
        Ok(checks)
    }

    /// Checks the tokens that the decoder attends to.
    fn image_tokens(&self, encoder: &mut ImageEncoder) -> Result<Option<Check>, VerifyError> {
        const TENSOR: &str = "vision_hidden";
        if !self.golden.file.has(TENSOR) {
            return Ok(None);
        }
        let tokens = self.model.decoder().map_err(RuntimeError::from)?.image_tokens;
        let shape = [Some(self.golden.count), Some(tokens), None];
        let (shape, want) = self.golden.file.floats(TENSOR, &shape).map_err(self.unusable())?;
        let got = encoder.image_tokens(&self.golden.images)?;
        Ok(Some(check_rows(TENSOR, &Comparison::of_rows(&got, &want, shape[2]), self.bounds.image_tokens)))
    }

    /// Checks logits and log-probabilities of given texts, read through the KV cache, up to and including the end token's row.
    fn logits(&self) -> Result<Vec<Check>, VerifyError> {
        let (file, count, d) = (&self.golden.file, self.golden.count, &self.model.spec.dimensions);
        if !file.has("text") || !(file.has("logits") || file.has("text_logprob")) {
            return Ok(Vec::new());
        }
        let end = self.model.spec.special_ids.end;
        let rows = file.ids("text", Some(count), d.vocab_size).map_err(self.unusable())?;
        let up_to_end = |row: &Vec<i64>| match row.iter().position(|id| *id == end) {
            Some(at) => row[..=at].to_vec(),
            None => row.clone(),
        };
        let texts: Vec<Vec<i64>> = rows.iter().map(up_to_end).collect();
        let length = rows[0].len();
        let logits = match file.has("logits") {
            true => {
                let shape = [Some(count), Some(length), Some(d.vocab_size)];
                Some(file.floats("logits", &shape).map_err(self.unusable())?.1)
            }
            false => None,
        };
        let mut forced = ForcedDecoder::load(self.model, self.options, length, (count, &self.encoded))?;
        let (mut comparison, mut sums) = (Comparison::new(), vec![0.0; count]);
        forced.read(&texts, length, |row, position, got| {
            if let Some(want) = &logits {
                comparison.add(got, &want[(row * length + position) * got.len()..][..got.len()]);
            }
            if let Some(next) = texts[row].get(position + 1) {
                sums[row] += log_probability(got, *next);
            }
        })?;
        let mut checks = Vec::new();
        if logits.is_some() {
            checks.push(check_rows("logits", &comparison, self.bounds.logits));
        }
        if file.has("text_logprob") {
            let want = file.floats("text_logprob", &[Some(count)]).map_err(self.unusable())?.1;
            let got: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
            checks.push(check_numbers("text_logprob", &got, &want, self.bounds.log_probability));
        }
        Ok(checks)
    }

    /// Checks the ids of texts, and of the prompt.
    fn tokenizer_checks(&self) -> Result<Vec<Check>, VerifyError> {
        let (settings, file) = (&self.golden.settings, &self.golden.file);
        let Some(tokenizer) = &self.tokenizer else {
            return Ok(vec![Check::unchecked("tokenizer_cases", "the model has no tokenizer")]);
        };
        let encode = |text: &str| -> Result<Vec<i64>, RuntimeError> {
            let encoded = tokenizer.encode(text).map_err(|e| RuntimeError::Input(e.to_string()))?;
            // The start token is the decoder's, where the golden has [CLS].
            Ok(encoded.ids[1..].to_vec())
        };
        let mut checks = Vec::new();
        if !settings.tokenizer_cases.is_empty() {
            let mut wrong = Vec::new();
            for case in &settings.tokenizer_cases {
                if encode(&case.text)? != case.ids[1..] {
                    wrong.push(format!("`{}`", case.text.escape_debug()));
                }
            }
            let mut detail = format!("{} texts, {} differ", settings.tokenizer_cases.len(), wrong.len());
            if let Some(first) = wrong.first() {
                detail += &format!(", first {first}");
            }
            checks.push(Check::new("tokenizer_cases", wrong.is_empty(), detail));
        }
        if let Some(text) = settings.prompt_text.as_ref().filter(|_| file.has("prompt")) {
            let vocabulary = self.model.spec.dimensions.vocab_size;
            let want = file.ids("prompt", Some(self.golden.count), vocabulary).map_err(self.unusable())?;
            let got = encode(text)?;
            let equal = want.iter().filter(|row| row[1..] == got).count();
            checks.push(Check::new(
                "prompt",
                equal == want.len(),
                format!("{equal} of {} rows equal", want.len()),
            ));
        }
        Ok(checks)
    }

    /// Checks generated captions.
    fn captions(&self) -> Result<Vec<Check>, VerifyError> {
        Captions {
            path: self.path,
            model: self.model,
            options: self.options,
            golden: self.golden,
            encoded: &self.encoded,
            bounds: &self.bounds,
        }
        .checks(self.tokenizer.as_ref())
    }
}
