//! `fusion.onnx`: image tokens and token ids -> whether image and text match (ITM).

use std::collections::BTreeMap;

use ort::{session::Session, value::TensorRef};

use super::{error::RuntimeError, options::SessionOptions, session};
use crate::model::{FUSION_FILE, FusionDimensions, IMAGE_TOKENS, ITM_LOGITS, ModelFolder};

/// The texts of an image are padded to a multiple of this many ids.
const LENGTH_STEP: usize = 8;
/// Images of a call on a CPU, at most. With one text each, 16 take 1.8 times as long per image as 8 (a BLIP of base size), with four 1.06
/// times.
const CPU_MAX_IMAGES: usize = 8;
/// Images of a call on a GPU, at most: keys and values of each take memory.
const GPU_MAX_IMAGES: usize = 16;
/// Texts of a call, at most, where it has several images.
const MAX_TEXTS: usize = 64;

/// Which token a text begins with where it is matched with an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatchStart {
    /// `[ENC]`, with which the authors of BLIP train and evaluate; `[CLS]` of an ALBEF, which has no other.
    #[default]
    Enc,
    /// `[CLS]`, as transformers and the authors' demonstration compute it.
    Cls,
}

/// An image and the texts that are matched with it.
#[derive(Clone, Copy, Debug)]
pub struct MatchImage<'a> {
    /// The image's tokens, f32 `[Q, W]`, of [`ImageEncoder`](super::ImageEncoder).
    pub tokens: &'a [f32],
    /// Its texts, each with its start and end ids and without padding; may be empty.
    pub texts: &'a [&'a [i64]],
}

/// A text encoder that attends to an image, with its matching head.
#[derive(Debug)]
pub struct Matcher {
    session: Session,
    sizes: FusionDimensions,
    context: usize,
    pad: i64,
    start: i64,
    /// Images of a call, at most; fewer after memory ran out.
    images: usize,
}

impl Matcher {
    /// Loads the graph, for texts that begin with `start`.
    ///
    /// # Errors
    /// When the model has no matching head, or the library or the graph cannot be loaded.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        start: MatchStart,
    ) -> Result<Self, RuntimeError> {
        let sizes = model.fusion()?;
        Ok(Self {
            session: session::create(model, FUSION_FILE, options)?,
            sizes,
            context: model.spec.dimensions.context_length,
            pad: model.spec.special_ids.pad,
            start: match start {
                MatchStart::Enc => sizes.enc_id,
                MatchStart::Cls => model.spec.special_ids.start,
            },
            images: if options.execution.is_gpu() { GPU_MAX_IMAGES } else { CPU_MAX_IMAGES },
        })
    }

    /// Matches every image with its own texts, in as few calls as their numbers and lengths allow. Returns the two logits of every
    /// text, image by image, in the order given.
    ///
    /// A text's logits depend on its image and on the longest of its image's texts, to whose length it is padded, and on nothing else:
    /// keys and values of an image are projected once for all of its texts. Bit for bit so on the CPU in fp32.
    ///
    /// # Errors
    /// When an image's tokens are not of the model's sizes, a text is empty or too long, or the graph fails.
    pub fn match_all(&mut self, images: &[MatchImage<'_>]) -> Result<Vec<Vec<[f32; 2]>>, RuntimeError> {
        // Images of one call have the same number of texts, padded to the same length.
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (i, image) in images.iter().enumerate() {
            if let Some(longest) = image.texts.iter().map(|text| text.len()).max() {
                let length = longest.next_multiple_of(LENGTH_STEP).min(self.context);
                groups.entry((image.texts.len(), length)).or_default().push(i);
            }
        }
        let mut logits = vec![Vec::new(); images.len()];
        for ((texts, length), members) in groups {
            let mut rest = members.as_slice();
            while !rest.is_empty() {
                let count = self.images.min(MAX_TEXTS / texts).clamp(1, rest.len());
                let (now, later) = rest.split_at(count);
                let tokens = now.iter().flat_map(|i| images[*i].tokens.iter().copied()).collect::<Vec<f32>>();
                let ids: Vec<&[i64]> = now.iter().flat_map(|i| images[*i].texts.iter().copied()).collect();
                match self.run(&tokens, &ids, length) {
                    Ok(rows) => {
                        for (i, rows) in now.iter().zip(rows.chunks_exact(texts)) {
                            logits[*i] = rows.to_vec();
                        }
                        rest = later;
                    }
                    Err(error) if error.is_out_of_memory() && count > 1 => {
                        self.images = count / 2;
                        tracing::warn!(images = self.images, %error, "out of memory; halved the batch of images that are matched");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(logits)
    }

    /// Returns the two logits of every text with its image, no match and match, in the order given. `tokens` f32 `[N, Q, W]` are
    /// those of [`ImageEncoder`](super::ImageEncoder), `texts` the same number for every image, image by image, each with its start and end
    /// ids and without padding. The first id of a text is replaced by the start that was chosen.
    ///
    /// # Errors
    /// When numbers do not fit, a text is empty or too long, or the graph fails.
    pub fn logits(&mut self, tokens: &[f32], texts: &[&[i64]]) -> Result<Vec<[f32; 2]>, RuntimeError> {
        self.run(tokens, texts, 0)
    }

    /// As [`Matcher::logits`], with texts padded to at least `length` ids.
    fn run(
        &mut self,
        tokens: &[f32],
        texts: &[&[i64]],
        length: usize,
    ) -> Result<Vec<[f32; 2]>, RuntimeError> {
        let FusionDimensions { image_tokens, image_width, .. } = self.sizes;
        let images = tokens.len() / (image_tokens * image_width);
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let fits = images > 0
            && tokens.len() == images * image_tokens * image_width
            && !texts.is_empty()
            && texts.len().is_multiple_of(images);
        if !fits || longest > self.context || texts.iter().any(|text| text.is_empty()) {
            return Err(RuntimeError::Input(format!(
                "{} texts of at most {longest} ids do not fit {images} images and a context of {}",
                texts.len(),
                self.context
            )));
        }
        let length = longest.max(length);
        let mut ids = vec![self.pad; texts.len() * length];
        for (row, text) in ids.chunks_exact_mut(length).zip(texts) {
            row[..text.len()].copy_from_slice(text);
            row[0] = self.start;
        }
        let failed = |source| RuntimeError::Run { graph: "fusion", rows: texts.len(), source };
        let image =
            TensorRef::from_array_view(([images, image_tokens, image_width], tokens)).map_err(failed)?;
        let ids = TensorRef::from_array_view(([texts.len(), length], ids.as_slice())).map_err(failed)?;
        let outputs = self.session.run(ort::inputs!["ids" => ids, IMAGE_TOKENS => image]).map_err(failed)?;
        let (_, logits) = outputs[ITM_LOGITS].try_extract_tensor::<f32>().map_err(failed)?;
        Ok(logits.as_chunks::<2>().0.to_vec())
    }
}
