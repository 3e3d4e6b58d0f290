//! Greedy captions with continuous batching: a finished row leaves its slot at once and a waiting image takes it.
//!
//! Stands between `Image` and `Candidates`; runs on the one thread that owns it. Bounded by `max_slots`: that many images
//! hold cross-attention keys and values, `max_slots * Decoder::slot_bytes` bytes in all. Nothing is dropped here: every
//! admitted image comes out of [`Captioner::step`] once.

use super::next_token::best_token;
use crate::{
    model::{ModelFolder, SpecialIds},
    runtime::{Decoder, Encoded, ImageEncoder, RuntimeError, SessionOptions, SlotUpdate},
};

/// How captions are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptionSettings {
    /// Most generated tokens, end token included; open_clip's `seq_len - 1`.
    pub max_tokens: usize,
    /// Fewest tokens before the end token; open_clip's `min_seq_len - 1`.
    pub min_tokens: usize,
    /// Most images decoded together.
    pub max_slots: usize,
}

/// One finished caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The number given to [`Captioner::admit`].
    pub ticket: u64,
    /// Generated ids with the end token, without the start token.
    pub ids: Vec<i64>,
    /// Sum of the model's own log-probabilities, end token included.
    pub logprob: f32,
    /// The image's contrastive embedding, L2-normalised, `[E]`.
    pub image_features: Vec<f32>,
}

struct Slot {
    generated: Generated,
    logprob: f64,
}

/// Image encoder, decoder and the rows in between.
pub struct Captioner {
    encoder: ImageEncoder,
    decoder: Decoder,
    special: SpecialIds,
    settings: CaptionSettings,
    slots: Vec<Option<Slot>>,
}

impl Captioner {
    /// Loads both graphs.
    ///
    /// # Errors
    /// When the library or a graph cannot be loaded, or the settings do not fit the model.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: CaptionSettings,
    ) -> Result<Self, RuntimeError> {
        if settings.max_slots == 0 || settings.min_tokens >= settings.max_tokens {
            return Err(RuntimeError::Input(format!(
                "caption settings need min_tokens < max_tokens and at least one slot, got {settings:?}"
            )));
        }
        Ok(Self {
            encoder: ImageEncoder::load(model, options)?,
            decoder: Decoder::load(model, options, settings.max_tokens)?,
            special: model.spec.special_ids,
            settings,
            slots: Vec::new(),
        })
    }

    /// Images being decoded.
    #[must_use]
    pub fn active(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Images that [`Captioner::admit`] takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.settings.max_slots - self.active()
    }

    /// Bytes of one image's pixels.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.encoder.image_bytes()
    }

    /// Encodes images and begins their captions. `pixels` is `[tickets.len(), S, S, 3]` u8 RGB.
    ///
    /// # Errors
    /// When there are more images than [`Captioner::room`], or the encoder fails: then none was admitted.
    pub fn admit(&mut self, tickets: &[u64], pixels: &[u8]) -> Result<(), RuntimeError> {
        if tickets.len() > self.room() || pixels.len() != tickets.len() * self.image_bytes() {
            return Err(RuntimeError::Input(format!(
                "{} images in {} bytes do not fit {} free slots",
                tickets.len(),
                pixels.len(),
                self.room()
            )));
        }
        let encoded = self.encoder.encode(pixels)?;
        self.place(tickets, &encoded)
    }

    fn place(&mut self, tickets: &[u64], encoded: &Encoded) -> Result<(), RuntimeError> {
        let needed = self.active() + tickets.len();
        if needed > self.slots.len() {
            self.resize(needed)?;
        }
        let width = encoded.features.len() / tickets.len();
        let mut free =
            (0..self.slots.len()).filter(|i| self.slots[*i].is_none()).collect::<Vec<_>>().into_iter();
        for (index, (ticket, features)) in
            tickets.iter().zip(encoded.features.chunks_exact(width)).enumerate()
        {
            let Some(slot) = free.next() else { break };
            self.decoder.load_image(slot, encoded, index)?;
            let generated = Generated {
                ticket: *ticket,
                ids: Vec::new(),
                logprob: 0.0,
                image_features: features.to_vec(),
            };
            self.slots[slot] = Some(Slot { generated, logprob: 0.0 });
        }
        Ok(())
    }

    /// Brings the number of slots to a power of two that holds `needed`, within the maximum.
    fn resize(&mut self, needed: usize) -> Result<(), RuntimeError> {
        let size = needed.next_power_of_two().min(self.settings.max_slots);
        let keep: Vec<usize> = (0..self.slots.len()).filter(|i| self.slots[*i].is_some()).collect();
        self.decoder.resize(size, &keep)?;
        let mut kept: Vec<Option<Slot>> = self.slots.drain(..).filter(Option::is_some).collect();
        kept.resize_with(size, || None);
        self.slots = kept;
        Ok(())
    }

    /// Decodes one token of every active image; returns the captions that ended.
    ///
    /// # Errors
    /// When the decoder fails or yields no numbers; the images in hand are then unfinished.
    pub fn step(&mut self) -> Result<Vec<Generated>, RuntimeError> {
        let active = self.active();
        if active == 0 {
            return Ok(Vec::new());
        }
        // Empty slots cost as much as full ones; half of them empty means that no more images came.
        if active.next_power_of_two() < self.slots.len() && 2 * active <= self.slots.len() {
            self.resize(active)?;
        }
        let updates: Vec<Option<SlotUpdate>> = self
            .slots
            .iter()
            .map(|slot| {
                slot.as_ref().map(|slot| SlotUpdate {
                    id: slot.generated.ids.last().copied().unwrap_or(self.special.start),
                    position: slot.generated.ids.len(),
                })
            })
            .collect();
        let logits = self.decoder.step(&updates)?;
        let vocab = logits.len() / self.slots.len();
        let mut done = Vec::new();
        for (place, row) in self.slots.iter_mut().zip(logits.chunks_exact_mut(vocab)) {
            let Some(slot) = place else { continue };
            advance(slot, row, self.special, &self.settings)?;
            if slot.generated.ids.last() == Some(&self.special.end)
                && let Some(slot) = place.take()
            {
                done.push(Generated { logprob: slot.logprob as f32, ..slot.generated });
            }
        }
        Ok(done)
    }

    /// Forgets all images in hand, after an error.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
    }
}

/// Appends the next token. At the last place the end token is written whatever the model says, as open_clip does.
fn advance(
    slot: &mut Slot,
    row: &mut [f32],
    special: SpecialIds,
    settings: &CaptionSettings,
) -> Result<(), RuntimeError> {
    let (pad, end) = (special.pad as usize, special.end as usize);
    let generated = slot.generated.ids.len();
    let not_numbers = || RuntimeError::Input("the decoder's logits are not finite numbers".into());
    let token = if generated + 1 == settings.max_tokens {
        let raw_end = row[end];
        let any = best_token(row, &[]).ok_or_else(not_numbers)?;
        // In this order the difference of two large logits is exact, or nearly so.
        super::NextToken { id: end, logprob: (raw_end - row[any.id]) + any.logprob }
    } else if generated < settings.min_tokens {
        best_token(row, &[pad, end]).ok_or_else(not_numbers)?
    } else {
        best_token(row, &[pad]).ok_or_else(not_numbers)?
    };
    // The last place takes the end token unseen; its logit may be -inf.
    if !token.logprob.is_finite() {
        return Err(not_numbers());
    }
    slot.generated.ids.push(token.id as i64);
    slot.logprob += f64::from(token.logprob);
    Ok(())
}
