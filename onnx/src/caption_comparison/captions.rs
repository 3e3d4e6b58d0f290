//! Greedy captions of many images, as in a run: images are added as others end.

use std::time::Instant;

use super::side::Side;
use crate::{
    caption::{Admission, CaptionSettings, Captioner},
    runtime::RuntimeError,
};

/// Captions of one side.
pub(super) struct Captions {
    /// Ids of every image's caption, without start token and prompt.
    pub(super) ids: Vec<Vec<i64>>,
    /// `[N, E]`.
    pub(super) features: Vec<f32>,
    /// Duration without loading, seconds.
    pub(super) seconds: f64,
}

impl Captions {
    /// Captions `pixels`, u8 RGB `[N, S, S, 3]`.
    ///
    /// # Errors
    /// When `pixels` is not a whole number of images or none, or a graph fails.
    pub(super) fn generate(
        side: Side<'_>,
        settings: &CaptionSettings,
        pixels: &[u8],
    ) -> Result<Self, RuntimeError> {
        let mut captioner = Captioner::load(side.model, side.options, settings.clone())?;
        let each = captioner.image_bytes();
        if pixels.is_empty() || !pixels.len().is_multiple_of(each) {
            return Err(RuntimeError::Input(format!(
                "{} bytes are not a whole number of images of {each} bytes: this model reads u8 RGB [N, {size}, {size}, 3]",
                pixels.len(),
                size = side.model.spec.image_size
            )));
        }
        let images = pixels.len() / each;
        let (mut ids, mut features) = (vec![Vec::new(); images], vec![Vec::new(); images]);
        let began = Instant::now();
        let mut next = 0;
        while next < images || captioner.active() > 0 {
            // Slots are refilled a quarter at a time, as in a run.
            if captioner.free_slots() >= (captioner.max_slots() / 4).max(1) {
                while next < images && captioner.free_slots() > 0 {
                    let batch = side.options.execution.encode_batch(side.model);
                    let count = captioner.free_slots().min(batch).min(images - next);
                    let admission = |image: usize| Admission { ticket: image as u64, seed: 0 };
                    let admissions: Vec<Admission> = (next..next + count).map(admission).collect();
                    captioner.admit(&admissions, &pixels[next * each..(next + count) * each])?;
                    next += count;
                }
            }
            for generated in captioner.step()? {
                let image = generated.ticket as usize;
                let best = generated.candidates.into_iter().next();
                ids[image] = best.map(|caption| caption.ids).unwrap_or_default();
                features[image] = generated.image_features;
            }
        }
        Ok(Self { ids, features: features.concat(), seconds: began.elapsed().as_secs_f64() })
    }
}
