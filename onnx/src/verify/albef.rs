//! An ALBEF against tensors that its authors' code computed. One verdict per tensor of the golden: what is computed in inference is compared,
//! inputs and what only a training step computes (losses, gradients, hard negatives) are listed as unchecked.
//!
//! A golden has no JSON file: ids and sizes are the model's.

use std::path::Path;

use safetensors::Dtype;

use super::{
    compare::Comparison,
    criteria::Criteria,
    names::static_name,
    report::{Check, VerifyError},
    tensor_file::TensorFile,
};
use crate::{
    model::{MLM_FILE, ModelFolder},
    runtime::{ImageEncoder, MatchStart, Matcher, RuntimeError, SessionOptions, TextEncoder, WordPredictor},
};

/// Tensors that comparisons start from.
const INPUTS: [&str; 4] = ["images", "ids", "attention_mask", "masked_ids"];
/// Tensors that only training has, and prefixes of such.
const TRAINING: [&str; 5] = ["mlm_labels", "negative_image", "negative_text", "loss_", "grad."];
/// Images per call of the graph that predicts words, whose logits are large.
const WORD_BATCH: usize = 8;

/// Rows of ids of one length.
type Rows = Vec<Vec<i64>>;

/// Compares every tensor of the golden that the model computes.
///
/// # Errors
/// When the golden cannot be read, lacks an input of what it compares, or the model cannot be run; a difference is not an error.
pub(super) fn verify(
    model: &ModelFolder,
    path: &Path,
    options: &SessionOptions,
) -> Result<Vec<Check>, VerifyError> {
    let unusable = |what: String| VerifyError::Golden { path: path.display().to_string(), what };
    let data = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
    let file = TensorFile::parse(&data).map_err(&unusable)?;
    let verifier = Verifier {
        model,
        options,
        file: &file,
        criteria: Criteria::of(model.spec.precision, options.execution),
    };
    let mut checks = verifier.checks().map_err(|error| match error {
        Problem::Golden(what) => unusable(what),
        Problem::Runtime(error) => error.into(),
    })?;
    for name in file.names() {
        if checks.iter().any(|check| check.tensor == name) {
            continue;
        }
        let reason = if INPUTS.contains(&name) {
            "an input of the comparison"
        } else if TRAINING.iter().any(|known| name.starts_with(known)) {
            "part of a training step, which an exported model does not compute"
        } else {
            "not compared with anything"
        };
        checks.push(Check::unchecked(static_name(name), reason));
    }
    Ok(checks)
}

/// What ends a comparison.
enum Problem {
    /// The golden does not fit; a message without the file's name.
    Golden(String),
    /// The model cannot be run.
    Runtime(RuntimeError),
}

impl From<String> for Problem {
    fn from(what: String) -> Self {
        Self::Golden(what)
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error)
    }
}

/// A model and a golden.
struct Verifier<'a> {
    model: &'a ModelFolder,
    options: &'a SessionOptions,
    file: &'a TensorFile<'a>,
    criteria: Criteria,
}

/// What the model makes of the golden's images.
struct Images {
    /// Images, `N`.
    count: usize,
    /// `[N, E]`.
    features: Vec<f32>,
    /// `[N, Q, W]`.
    tokens: Vec<f32>,
}

impl Verifier<'_> {
    /// Checks what inference computes; every one of those tensors has a verdict, also where the golden lacks it.
    fn checks(&self) -> Result<Vec<Check>, Problem> {
        let images = if ["image_features", "itm_logits", "mlm_logits"].iter().any(|name| self.file.has(name))
        {
            Some(self.images()?)
        } else {
            None
        };
        let texts = if ["text_features", "itm_logits"].iter().any(|name| self.file.has(name)) {
            self.texts()?
        } else {
            Vec::new()
        };
        let ids: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
        let width = self.model.spec.dimensions.embed_dim;
        let mut checks = Vec::new();
        let mut compare = |name, check: &dyn Fn() -> Result<Check, Problem>| {
            let has = self.file.has(name);
            checks.push(if has { check()? } else { Check::unchecked(name, "not in the golden") });
            Ok::<(), Problem>(())
        };
        compare("image_features", &|| {
            let images = images.as_ref().ok_or_else(no_images)?;
            let want = self.file.floats("image_features", &[Some(images.count), Some(width)])?.1;
            let comparison = Comparison::of_rows(&images.features, &want, width);
            Ok(Check::of_rows("image_features", &comparison, self.criteria.features))
        })?;
        compare("text_features", &|| {
            let want = self.file.floats("text_features", &[Some(ids.len()), Some(width)])?.1;
            let got = TextEncoder::load(self.model, self.options)?.encode(&ids)?;
            let comparison = Comparison::of_rows(&got, &want, width);
            Ok(Check::of_rows("text_features", &comparison, self.criteria.features))
        })?;
        compare("itm_logits", &|| {
            let images = images.as_ref().ok_or_else(no_images)?;
            let want = self.file.floats("itm_logits", &[Some(images.count), Some(2)])?.1;
            if ids.len() != images.count {
                return Err(Problem::Golden(format!(
                    "{} texts for {} images: pairs need as many",
                    ids.len(),
                    images.count
                )));
            }
            let mut matcher = Matcher::load(self.model, self.options, MatchStart::default())?;
            let got = matcher.logits(&images.tokens, &ids)?;
            let comparison = Comparison::of_rows(got.as_flattened(), &want, want.len());
            Ok(Check::of_rows("itm_logits", &comparison, self.criteria.logits))
        })?;
        compare("mlm_logits", &|| self.words(images.as_ref().ok_or_else(no_images)?))?;
        Ok(checks)
    }

    /// Encodes the golden's images.
    fn images(&self) -> Result<Images, Problem> {
        let side = Some(self.model.spec.image_size as usize);
        let (shape, pixels) = self.file.tensor("images", Dtype::U8, &[None, side, side, Some(3)])?;
        if shape[0] == 0 {
            return Err(Problem::Golden("there are no images to compare".into()));
        }
        let mut encoder = ImageEncoder::load(self.model, self.options)?;
        let features = encoder.encode(&pixels)?.features;
        Ok(Images { count: shape[0], features, tokens: encoder.image_tokens(&pixels)? })
    }

    /// Reads rows of ids that fit the context.
    fn rows(&self, name: &str, count: Option<usize>) -> Result<Rows, Problem> {
        let d = &self.model.spec.dimensions;
        let rows = self.file.ids(name, count, d.vocab_size)?;
        let length = rows.first().map_or(0, Vec::len);
        if length > d.context_length {
            let context = d.context_length;
            return Err(Problem::Golden(format!(
                "rows of `{name}` have {length} ids, more than the context of {context}"
            )));
        }
        Ok(rows)
    }

    /// Returns which of the ids are no padding: the golden's mask, or else by the id of padding in `like`.
    fn mask(&self, like: &Rows) -> Result<Rows, Problem> {
        if !self.file.has("attention_mask") {
            let pad = self.model.spec.special_ids.pad;
            let row = |row: &Vec<i64>| row.iter().map(|id| i64::from(*id != pad)).collect();
            return Ok(like.iter().map(row).collect());
        }
        let rows = self.file.ids("attention_mask", Some(like.len()), 2)?;
        match rows.iter().zip(like).all(|(mask, row)| mask.len() == row.len()) {
            true => Ok(rows),
            false => Err(Problem::Golden("`attention_mask` and ids differ in length".into())),
        }
    }

    /// Reads the golden's texts, without their padding.
    fn texts(&self) -> Result<Rows, Problem> {
        let rows = self.rows("ids", None)?;
        let masks = self.mask(&rows)?;
        let special = self.model.spec.special_ids;
        let mut texts = Vec::with_capacity(rows.len());
        for (at, (row, mask)) in rows.iter().zip(&masks).enumerate() {
            let length = mask.iter().filter(|bit| **bit == 1).count();
            let text = &row[..length];
            let is_text = text.first() == Some(&special.start) && !text.contains(&special.pad);
            if !is_text || mask[..length].contains(&0) {
                return Err(Problem::Golden(format!(
                    "text {at} of `ids` does not begin with [CLS] (id {}), or has padding (id {}) before its end",
                    special.start, special.pad
                )));
            }
            texts.push(text.to_vec());
        }
        Ok(texts)
    }

    /// Checks the prediction of masked words, at every place, padding included.
    fn words(&self, images: &Images) -> Result<Check, Problem> {
        const TENSOR: &str = "mlm_logits";
        if !self.model.spec.files.iter().any(|file| file.name == MLM_FILE) {
            let reason =
                "the model has no head that predicts masked words: its checkpoint is a retrieval checkpoint";
            return Ok(Check::unchecked(TENSOR, reason));
        }
        let rows = self.rows("masked_ids", Some(images.count))?;
        let mask = match self.file.has("ids") {
            true => self.mask(&self.rows("ids", Some(images.count))?)?,
            false => self.mask(&rows)?,
        };
        let (length, vocab) = (rows[0].len(), self.model.spec.dimensions.vocab_size);
        let want = self.file.floats(TENSOR, &[Some(images.count), Some(length), Some(vocab)])?.1;
        let mut predictor = WordPredictor::load(self.model, self.options)?;
        let mut comparison = Comparison::new();
        let each = images.tokens.len() / images.count;
        for (batch, want) in want.chunks(WORD_BATCH * length * vocab).enumerate() {
            let (from, count) = (batch * WORD_BATCH, want.len() / (length * vocab));
            let tokens = &images.tokens[from * each..(from + count) * each];
            let got = predictor.logits(tokens, &rows[from..from + count], &mask[from..from + count])?;
            if got.len() != want.len() {
                comparison.mismatched += 1;
            }
            for (got, want) in got.chunks_exact(vocab).zip(want.chunks_exact(vocab)) {
                comparison.add(got, want);
            }
        }
        Ok(Check::of_rows(TENSOR, &comparison, self.criteria.logits))
    }
}

fn no_images() -> Problem {
    Problem::Golden("no tensor `images`".into())
}
