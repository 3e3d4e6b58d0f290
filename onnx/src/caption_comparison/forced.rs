//! Teacher forcing on both sides: equal prefixes, and the logits after each of their ids.

use std::collections::BTreeMap;

use super::side::{ForcedText, Side};
use crate::{
    caption::CaptionSettings,
    runtime::{Decoder, ImageEncoder, RowUpdate, RuntimeError},
    verify::compare::{Comparison, max_or_nan, standard_deviation},
};

/// Images that are read in one batch.
const BATCH: usize = 64;

/// One side's graphs.
struct Reader {
    encoder: ImageEncoder,
    decoder: Decoder,
    vocabulary: usize,
}

impl Reader {
    fn load(side: Side<'_>, settings: &CaptionSettings) -> Result<Self, RuntimeError> {
        Ok(Self {
            encoder: ImageEncoder::load(side.model, side.options)?,
            decoder: Decoder::load(side.model, side.options, settings.cache_length(), 1)?,
            vocabulary: side.model.spec.dimensions.vocab_size,
        })
    }

    /// Loads the image of every text into a slot.
    fn load_images(&mut self, pixels: &[u8], texts: &[ForcedText]) -> Result<(), RuntimeError> {
        let each = self.encoder.image_bytes();
        let images: Vec<u8> =
            texts.iter().flat_map(|text| &pixels[text.image * each..][..each]).copied().collect();
        let encoded = self.encoder.encode(&images)?;
        let places: Vec<(usize, usize)> = (0..texts.len()).map(|i| (i, i)).collect();
        self.decoder.resize(texts.len(), &[])?;
        self.decoder.load_images(&places, &encoded)
    }
}

/// Reads the texts on both sides, the reference first. Returns the differences of the device's logits from the reference's and,
/// by image, the reference's gap between the two diverging tokens, in standard deviations of the row.
///
/// # Errors
/// When a graph cannot be loaded or fails.
pub(super) fn read(
    sides: [Side<'_>; 2],
    settings: &CaptionSettings,
    pixels: &[u8],
    texts: &[ForcedText],
) -> Result<(Comparison, BTreeMap<usize, f32>), RuntimeError> {
    let [reference, device] = sides;
    let (mut reference, mut device) = (Reader::load(reference, settings)?, Reader::load(device, settings)?);
    let width = reference.vocabulary;
    let (mut comparison, mut gaps) = (Comparison::new(), BTreeMap::new());
    for texts in texts.chunks(BATCH) {
        reference.load_images(pixels, texts)?;
        device.load_images(pixels, texts)?;
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        for position in 0..longest {
            let update = |text: &ForcedText| text.ids.get(position).map(|id| RowUpdate { id: *id, position });
            let updates: Vec<Option<RowUpdate>> = texts.iter().map(update).collect();
            let want = reference.decoder.step(&updates)?;
            let got = device.decoder.step(&updates)?;
            for (row, text) in texts.iter().enumerate().filter(|(_, text)| position < text.ids.len()) {
                let want = &want[row * width..(row + 1) * width];
                comparison.add(&got[row * width..(row + 1) * width], want);
                if position + 1 == text.ids.len()
                    && let Some(diverging) = text.diverging
                {
                    gaps.insert(text.image, gap(want, diverging));
                }
            }
        }
    }
    Ok((comparison, gaps))
}

/// Returns the distance of the logits of two ids in standard deviations of the row; infinity if an id is out of range.
fn gap(logits: &[f32], ids: [i64; 2]) -> f32 {
    let [own, other] = ids.map(|id| usize::try_from(id).ok().and_then(|id| logits.get(id)));
    match (own, other) {
        // The first was selected, so a negative gap is as wrong as a large one.
        (Some(own), Some(other)) => max_or_nan(0.0, (own - other).abs() / standard_deviation(logits)),
        _ => f32::INFINITY,
    }
}
