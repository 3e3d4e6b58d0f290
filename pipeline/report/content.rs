//! What a report shows, complete and independent of where it came from.

use super::{
    source::{ReportCaption, ReportReject, ReportSource},
    statistics::Statistics,
    thumbnail::Picture,
};

/// A caption of the sample.
#[derive(Debug)]
pub(super) struct SampledCaption {
    /// The row. Its image is not needed once there is a picture.
    pub(super) row: ReportCaption,
    /// Its image, once it was looked for.
    pub(super) picture: Option<Picture>,
    /// Where the row is in an output.
    pub(super) place: Option<RowPlace>,
}

impl SampledCaption {
    /// Returns whether its image is shown.
    pub(super) fn has_image(&self) -> bool {
        matches!(self.picture, Some(Picture::Shown { .. }))
    }
}

/// Where a row is in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowPlace {
    /// Number of the part, in the order in which parts are read.
    pub(super) part: usize,
    /// Position in the part.
    pub(super) row: u64,
}

/// A finished report.
#[derive(Debug)]
pub(crate) struct Report {
    /// What is known of the rows as a whole.
    pub(super) source: ReportSource,
    /// Seed of the sample.
    pub(super) seed: u64,
    /// Counts over all rows.
    pub(super) statistics: Statistics,
    /// The sample, in a random order.
    pub(super) captions: Vec<SampledCaption>,
    /// Examples of rejects, the most frequent reason first.
    pub(super) rejects: Vec<ReportReject>,
}
