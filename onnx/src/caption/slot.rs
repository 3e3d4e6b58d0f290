//! One image in a generator: its rows, and what becomes of them step by step.

use super::{
    beam::BeamSearch,
    context::RowContext,
    generated::{Admission, Generated},
    independent_rows::IndependentRows,
    settings::{CaptionSettings, Strategy},
    token_selection::{LogitsRequest, TopTokens},
};
use crate::runtime::{RowUpdate, RuntimeError};

/// The rows of one image, by strategy.
#[derive(Debug)]
enum ImageRows {
    Independent(IndependentRows),
    Beam(BeamSearch),
}

/// An image that is in flight.
#[derive(Debug)]
pub(super) struct Slot {
    /// [`Admission::ticket`] of the image.
    pub(super) ticket: u64,
    image_features: Vec<f32>,
    rows: ImageRows,
}

impl Slot {
    /// Starts the captions of an image with features `[E]`.
    pub(super) fn new(image: &Admission, image_features: Vec<f32>, settings: &CaptionSettings) -> Self {
        let rows = match settings.strategy {
            Strategy::Beam(beam) => ImageRows::Beam(BeamSearch::new(beam)),
            Strategy::Greedy | Strategy::Sample(_) => ImageRows::Independent(IndependentRows::new(
                image.seed,
                settings.rows_per_image(),
                settings.candidates,
            )),
        };
        Self { ticket: image.ticket, image_features, rows }
    }

    /// Appends what each row reads next and requests of its logits; `None` for idle rows.
    pub(super) fn append_step(
        &self,
        context: &RowContext<'_>,
        inputs: &mut Vec<Option<RowUpdate>>,
        requests: &mut Vec<Option<LogitsRequest>>,
    ) {
        match &self.rows {
            ImageRows::Independent(rows) => {
                rows.append_inputs(context.prefix, inputs);
                rows.append_requests(context, requests);
            }
            ImageRows::Beam(beam) => {
                beam.append_inputs(context.prefix, inputs);
                beam.append_requests(context, requests);
            }
        }
    }

    /// Gives every row its tokens; appends to `copies` the rows `(from, to)` of the image whose caches must be copied.
    /// Returns whether the image is finished.
    ///
    /// # Errors
    /// When a row that requested tokens got none.
    pub(super) fn advance(
        &mut self,
        tokens: &[TopTokens],
        context: &RowContext<'_>,
        copies: &mut Vec<(usize, usize)>,
    ) -> Result<bool, RuntimeError> {
        match &mut self.rows {
            ImageRows::Independent(rows) => rows.advance(tokens, context),
            ImageRows::Beam(beam) => beam.advance(tokens, context, copies),
        }
    }

    /// Returns the image's captions, at most `candidates`.
    pub(super) fn finish(self, candidates: usize) -> Generated {
        let candidates = match self.rows {
            ImageRows::Independent(rows) => rows.finish(),
            ImageRows::Beam(beam) => beam.finish(candidates),
        };
        Generated { ticket: self.ticket, candidates, image_features: self.image_features }
    }
}
