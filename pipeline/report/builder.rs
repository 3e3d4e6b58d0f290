//! Collects what a report shows: statistics over all rows, and a sample.

use std::collections::BTreeMap;

use super::{
    content::{Report, RowPlace, SampledCaption},
    sample::Sample,
    source::{ReportCaption, ReportReject, ReportSource},
    statistics::Statistics,
    thumbnail::Picture,
};

/// Default number of captions in the sample.
pub(crate) const DEFAULT_SAMPLES: usize = 400;
/// Largest number of captions in the sample.
pub(crate) const MAX_SAMPLES: usize = 4000;
/// Examples of each reason of rejects.
const REJECTS_PER_REASON: usize = 24;
/// Reasons that have examples: a run knows fewer.
const MAX_REASONS: usize = 64;

/// Takes captions and rejects, in any order. Memory is bounded whatever their number.
#[derive(Debug)]
pub(crate) struct ReportBuilder {
    source: ReportSource,
    seed: u64,
    statistics: Statistics,
    captions: Sample<SampledCaption>,
    rejects: BTreeMap<String, Sample<ReportReject>>,
}

impl ReportBuilder {
    /// Begins a report whose sample of [`DEFAULT_SAMPLES`] captions is drawn by `seed`.
    #[must_use]
    pub(crate) fn new(source: ReportSource, seed: u64) -> Self {
        Self::with_samples(source, seed, DEFAULT_SAMPLES)
    }

    /// Begins a report with a sample of at most `samples` captions, and of [`MAX_SAMPLES`].
    #[must_use]
    pub(crate) fn with_samples(source: ReportSource, seed: u64, samples: usize) -> Self {
        Self {
            source,
            seed,
            statistics: Statistics::default(),
            captions: Sample::new(seed, samples.min(MAX_SAMPLES)),
            rejects: BTreeMap::new(),
        }
    }

    /// Adds a row with a caption.
    pub(crate) fn add_caption(&mut self, caption: ReportCaption) {
        self.add_row(caption, None);
    }

    /// Adds a row whose details can be read later at its place.
    pub(super) fn add_row(&mut self, caption: ReportCaption, place: Option<RowPlace>) {
        self.statistics.push_caption(&caption);
        let (shard, key) = (caption.shard.clone(), caption.key.clone());
        self.captions.offer(&shard, &key, || SampledCaption { row: caption, picture: None, place });
    }

    /// Adds a sample without a caption.
    pub(crate) fn add_reject(&mut self, reject: ReportReject) {
        self.statistics.push_reject(&reject);
        if !self.rejects.contains_key(&reject.reason) {
            if self.rejects.len() >= MAX_REASONS {
                return;
            }
            self.rejects.insert(reject.reason.clone(), Sample::new(self.seed, REJECTS_PER_REASON));
        }
        if let Some(sample) = self.rejects.get_mut(&reject.reason) {
            let (shard, key) = (reject.shard.clone(), reject.key.clone());
            sample.offer(&shard, &key, || reject);
        }
    }

    /// Returns the captions of the sample so far, so that details can be added.
    pub(super) fn sampled(&mut self) -> impl Iterator<Item = &mut SampledCaption> {
        self.captions.iter_mut()
    }

    /// Ends the report, and makes thumbnails of the sample's images that have none yet.
    #[must_use]
    pub(crate) fn finish(self) -> Report {
        let mut captions: Vec<SampledCaption> = self.captions.into_items().collect();
        for sampled in &mut captions {
            if let (None, Some(image)) = (&sampled.picture, sampled.row.image.take()) {
                sampled.picture = Some(Picture::of(&image));
            }
        }
        let mut reasons: Vec<(String, Sample<ReportReject>)> = self.rejects.into_iter().collect();
        let count = |reason: &str| self.statistics.reasons.get(reason).copied().unwrap_or(0);
        reasons.sort_by_key(|(reason, _)| std::cmp::Reverse(count(reason)));
        let rejects = reasons.into_iter().flat_map(|(_, sample)| sample.into_items()).collect();
        Report { source: self.source, seed: self.seed, statistics: self.statistics, captions, rejects }
    }
}
