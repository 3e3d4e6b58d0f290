//! Teacher forcing: given ids are read one after another, and the logits behind each are looked at.

use super::compare::{standard_deviation, worst};
use crate::{
    model::{ModelFolder, SpecialIds},
    runtime::{Decoder, Encoded, RowUpdate, RuntimeError, SessionOptions},
};

/// A decoder with one image in every slot and one row per slot.
pub struct ForcedDecoder {
    decoder: Decoder,
    rows: usize,
    vocabulary: usize,
}

impl ForcedDecoder {
    /// Loads the decoder for texts of up to `length` ids and puts all `rows` images of `encoded` into its slots.
    ///
    /// # Errors
    /// As [`Decoder::load`] and [`Decoder::load_images`].
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        length: usize,
        (rows, encoded): (usize, &Encoded),
    ) -> Result<Self, RuntimeError> {
        let mut decoder = Decoder::load(model, options, length, 1)?;
        decoder.resize(rows, &[])?;
        let places: Vec<(usize, usize)> = (0..rows).map(|i| (i, i)).collect();
        decoder.load_images(&places, encoded)?;
        Ok(Self { decoder, rows, vocabulary: model.spec.dimensions.vocab_size })
    }

    /// Reads `texts[i]` with image `i`, up to `positions` ids of it; `visit` gets row, position and logits `[V]` behind the id
    /// that stands there.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub fn read(
        &mut self,
        texts: &[Vec<i64>],
        positions: usize,
        mut visit: impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), RuntimeError> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0).min(positions);
        for position in 0..longest {
            let mut updates: Vec<Option<RowUpdate>> = texts
                .iter()
                .map(|text| text.get(position).map(|id| RowUpdate { id: *id, position }))
                .collect();
            updates.resize(self.rows, None);
            let logits = self.decoder.step(&updates)?;
            for (row, logits) in logits.chunks_exact(self.vocabulary).enumerate() {
                if updates[row].is_some() {
                    visit(row, position, logits);
                }
            }
        }
        Ok(())
    }

    /// Reads captions and tells for each how the model would have chosen and scored its ids.
    ///
    /// # Errors
    /// As [`ForcedDecoder::read`].
    pub fn judge_captions(
        &mut self,
        captions: &[Vec<i64>],
        rules: &GenerationRules,
    ) -> Result<Vec<ForcedCaption>, RuntimeError> {
        // The last id is chosen and not read.
        let read = |ids: &Vec<i64>| {
            let read = &ids[..ids.len().saturating_sub(1)];
            std::iter::once(rules.special.start).chain(read.iter().copied()).collect::<Vec<i64>>()
        };
        let texts: Vec<Vec<i64>> = captions.iter().map(read).collect();
        let mut forced = vec![ForcedCaption::default(); captions.len()];
        self.read(&texts, usize::MAX, |row, position, logits| {
            let Some(id) = captions[row].get(position) else { return };
            forced[row].gap = worst(forced[row].gap, rules.gap(logits, *id, position));
            forced[row].log_probability += log_probability(logits, *id);
        })?;
        Ok(forced)
    }
}

/// What a model makes of a caption that it was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForcedCaption {
    /// How far below the best allowed logit the chosen ids' lie, at most; standard deviations of the row.
    pub gap: f32,
    /// Sum of the ids' log-probabilities over the whole vocabulary.
    pub log_probability: f64,
}

/// What a generation may not choose.
#[derive(Clone, Copy, Debug)]
pub struct GenerationRules {
    /// The model's special ids.
    pub special: SpecialIds,
    /// Fewest tokens before the end token.
    pub min_tokens: usize,
    /// Most tokens, end token included.
    pub max_tokens: usize,
}

impl GenerationRules {
    /// Whether `id` may be generated behind `generated` others.
    pub fn allows(&self, id: usize, generated: usize) -> bool {
        let id = id as i64;
        id != self.special.pad && (id != self.special.end || generated >= self.min_tokens)
    }

    /// How far the logit of `chosen` lies below the best allowed one, in standard deviations of the row: 0 when it is the best.
    /// Infinite for an id that is not allowed.
    pub fn gap(&self, logits: &[f32], chosen: i64, generated: usize) -> f32 {
        // Where the length is reached, greedy decoding ends whatever the logits are.
        if chosen == self.special.end && generated + 1 == self.max_tokens {
            return if logits.iter().all(|v| v.is_finite()) { 0.0 } else { f32::NAN };
        }
        let Some(chosen) = usize::try_from(chosen).ok().filter(|id| self.allows(*id, generated)) else {
            return f32::INFINITY;
        };
        let allowed = logits.iter().enumerate().filter(|(id, _)| self.allows(*id, generated));
        let best = allowed.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, worst);
        match best - logits[chosen] {
            0.0 => 0.0,
            gap => gap / standard_deviation(logits),
        }
    }
}

/// Log-probability of `id` over the whole vocabulary, natural logarithm.
fn log_probability(logits: &[f32], id: i64) -> f64 {
    let chosen = usize::try_from(id).ok().and_then(|id| logits.get(id)).map_or(f64::NAN, |v| f64::from(*v));
    chosen - log_sum_of_exponentials(logits)
}

/// `ln(sum(exp(logits)))`.
pub fn log_sum_of_exponentials(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, worst));
    largest + logits.iter().map(|v| (f64::from(*v) - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: GenerationRules =
        GenerationRules { special: SpecialIds { pad: 0, start: 3, end: 4 }, min_tokens: 1, max_tokens: 4 };

    #[test]
    fn gaps_are_measured_from_the_best_allowed_token() {
        let logits = [9.0, 1.0, 2.0, -1.0, 4.0];
        // The end token is the best, but not as the first one.
        assert_eq!(RULES.gap(&logits, 2, 0), 0.0);
        assert_eq!(RULES.gap(&logits, 4, 1), 0.0);
        let gap = RULES.gap(&logits, 2, 1);
        assert!((gap - 2.0 / standard_deviation(&logits)).abs() < 1e-6 && gap > 0.0);
        assert!(RULES.gap(&logits, 0, 1).is_infinite() && RULES.gap(&logits, 4, 0).is_infinite());
        assert_eq!(RULES.gap(&logits, 4, 3), 0.0);
    }

    #[test]
    fn a_row_with_nan_has_no_gap() {
        let logits = [0.0, 1.0, f32::NAN, 0.5, 0.0];
        assert!(RULES.gap(&logits, 1, 1).is_nan() && RULES.gap(&logits, 4, 3).is_nan());
        assert!(log_sum_of_exponentials(&logits).is_nan());
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [500.0, 501.0, 499.0];
        let sum: f64 = (0..3).map(|id| log_probability(&logits, id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
    }
}
