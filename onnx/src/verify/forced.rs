//! Teacher forcing: the decoder reads given ids, and the logits after each of them are examined.

use super::compare::{max_or_nan, standard_deviation};
use crate::{
    model::{ModelFolder, SpecialIds},
    runtime::{Decoder, Encoded, RowUpdate, RuntimeError, SessionOptions},
};

/// A decoder with one image in every slot and one row per slot.
pub(crate) struct ForcedDecoder {
    decoder: Decoder,
    rows: usize,
    vocabulary: usize,
}

impl ForcedDecoder {
    /// Loads the decoder for texts of up to `length` ids and puts all `rows` images of `encoded` into its slots.
    ///
    /// # Errors
    /// As [`Decoder::load`] and [`Decoder::load_images`].
    pub(crate) fn load(
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

    /// Reads up to `positions` ids of `texts[i]` with image `i`; `visit` gets row, position and the logits `[V]` after the id at
    /// that position.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub(crate) fn read(
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

    /// Reads captions, each after `prefix`, the start token and a prompt; returns how the model ranks and scores the ids of each.
    ///
    /// # Errors
    /// As [`ForcedDecoder::read`].
    pub(crate) fn score_captions(
        &mut self,
        captions: &[Vec<i64>],
        prefix: &[i64],
        limits: &GenerationLimits,
    ) -> Result<Vec<CaptionScore>, RuntimeError> {
        // The last id is selected but not read.
        let read = |ids: &Vec<i64>| {
            let read = &ids[..ids.len().saturating_sub(1)];
            [prefix, read].concat()
        };
        let texts: Vec<Vec<i64>> = captions.iter().map(read).collect();
        let mut forced = vec![CaptionScore::default(); captions.len()];
        self.read(&texts, usize::MAX, |row, position, logits| {
            let Some(at) = (position + 1).checked_sub(prefix.len()) else { return };
            let Some(id) = captions[row].get(at) else { return };
            forced[row].gap = max_or_nan(forced[row].gap, limits.gap(logits, *id, at));
            forced[row].log_probability += log_probability(logits, *id);
        })?;
        Ok(forced)
    }
}

/// How a model ranks and scores the ids of a given caption.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CaptionScore {
    /// Largest distance of an id's logit below the best allowed one; standard deviations of the row.
    pub(crate) gap: f32,
    /// Sum of the ids' log-probabilities over the whole vocabulary.
    pub(crate) log_probability: f64,
}

/// Which ids a generation may select.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GenerationLimits {
    /// The model's special ids.
    pub(crate) special: SpecialIds,
    /// Smallest number of tokens before the end token.
    pub(crate) min_tokens: usize,
    /// Largest number of tokens, end token included.
    pub(crate) max_tokens: usize,
}

impl GenerationLimits {
    /// Returns whether `id` may be generated after `generated` others.
    pub(crate) fn allows(&self, id: usize, generated: usize) -> bool {
        let id = id as i64;
        id != self.special.pad && (id != self.special.end || generated >= self.min_tokens)
    }

    /// Returns the distance of the logit of `selected` below the best allowed one, in standard deviations of the row: 0 for the
    /// best, infinity for an id that is not allowed.
    pub(crate) fn gap(&self, logits: &[f32], selected: i64, generated: usize) -> f32 {
        // At the maximal length, greedy generation ends whatever the logits are.
        if selected == self.special.end && generated + 1 == self.max_tokens {
            return if logits.iter().all(|v| v.is_finite()) { 0.0 } else { f32::NAN };
        }
        let Some(selected) = usize::try_from(selected).ok().filter(|id| self.allows(*id, generated)) else {
            return f32::INFINITY;
        };
        let allowed = logits.iter().enumerate().filter(|(id, _)| self.allows(*id, generated));
        let best = allowed.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, max_or_nan);
        match best - logits[selected] {
            0.0 => 0.0,
            gap => gap / standard_deviation(logits),
        }
    }
}

/// Returns the log-probability of `id` over the whole vocabulary, natural logarithm.
pub(super) fn log_probability(logits: &[f32], id: i64) -> f64 {
    let selected = usize::try_from(id).ok().and_then(|id| logits.get(id)).map_or(f64::NAN, |v| f64::from(*v));
    selected - log_sum_of_exponentials(logits)
}

/// Returns `ln(sum(exp(logits)))`.
pub(crate) fn log_sum_of_exponentials(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, max_or_nan));
    largest + logits.iter().map(|v| (f64::from(*v) - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GenerationLimits =
        GenerationLimits { special: SpecialIds { pad: 0, start: 3, end: 4 }, min_tokens: 1, max_tokens: 4 };

    #[test]
    fn gap_is_measured_from_the_best_allowed_token() {
        let logits = [9.0, 1.0, 2.0, -1.0, 4.0];
        // The end token is the best, but not as the first one.
        assert_eq!(LIMITS.gap(&logits, 2, 0), 0.0);
        assert_eq!(LIMITS.gap(&logits, 4, 1), 0.0);
        let gap = LIMITS.gap(&logits, 2, 1);
        assert!((gap - 2.0 / standard_deviation(&logits)).abs() < 1e-6 && gap > 0.0);
        assert!(LIMITS.gap(&logits, 0, 1).is_infinite() && LIMITS.gap(&logits, 4, 0).is_infinite());
        assert_eq!(LIMITS.gap(&logits, 4, 3), 0.0);
    }

    #[test]
    fn gap_of_a_row_with_nan_is_nan() {
        let logits = [0.0, 1.0, f32::NAN, 0.5, 0.0];
        assert!(LIMITS.gap(&logits, 1, 1).is_nan() && LIMITS.gap(&logits, 4, 3).is_nan());
        assert!(log_sum_of_exponentials(&logits).is_nan());
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [500.0, 501.0, 499.0];
        let sum: f64 = (0..3).map(|id| log_probability(&logits, id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
    }
}
