//! Counts over all rows, in bounded memory.

use std::collections::BTreeMap;

use super::{
    frequent::Frequent,
    histogram::SimilarityHistogram,
    source::{ReportCaption, ReportReject},
    texts::TextStatistics,
};

/// Image sizes counted, at most, at the same time.
const MAX_SIZES: usize = 100_000;
/// Upper bounds of the classes of the shorter side, pixels; the last class has none.
pub(super) const SIDE_CLASSES: [u32; 9] = [64, 128, 256, 384, 512, 768, 1024, 1536, 2048];

/// What is counted over all rows.
#[derive(Debug)]
pub(super) struct Statistics {
    /// Rows with a caption.
    pub(super) captions: u64,
    /// Similarities of chosen captions.
    pub(super) similarity: SimilarityHistogram,
    /// Similarities of original captions.
    pub(super) org_similarity: SimilarityHistogram,
    /// Probabilities that chosen captions match.
    pub(super) itm: SimilarityHistogram,
    /// Probabilities that original captions match.
    pub(super) org_itm: SimilarityHistogram,
    /// Rows with both similarities.
    pub(super) compared: u64,
    /// Rows whose chosen caption is more similar than the original one.
    pub(super) improved: u64,
    /// Chosen captions.
    pub(super) synthetic: TextStatistics,
    /// Original captions.
    pub(super) original: TextStatistics,
    /// Images by the class of their shorter side, see [`SIDE_CLASSES`].
    pub(super) sides: [u64; SIDE_CLASSES.len() + 1],
    /// Images by size.
    pub(super) sizes: Frequent<Box<str>>,
    /// Pixels of all images.
    pub(super) pixels: u128,
    /// Rejects by reason.
    pub(super) reasons: BTreeMap<String, u64>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            captions: 0,
            similarity: SimilarityHistogram::default(),
            org_similarity: SimilarityHistogram::default(),
            itm: SimilarityHistogram::default(),
            org_itm: SimilarityHistogram::default(),
            compared: 0,
            improved: 0,
            synthetic: TextStatistics::default(),
            original: TextStatistics::default(),
            sides: [0; SIDE_CLASSES.len() + 1],
            sizes: Frequent::new(MAX_SIZES),
            pixels: 0,
            reasons: BTreeMap::new(),
        }
    }
}

impl Statistics {
    /// Counts a row with a caption.
    pub(super) fn push_caption(&mut self, row: &ReportCaption) {
        self.captions += 1;
        self.similarity.push(row.similarity);
        self.org_similarity.push(row.org_similarity);
        self.itm.push(row.itm);
        self.org_itm.push(row.org_itm);
        if let (Some(new), Some(old)) = (row.similarity, row.org_similarity) {
            self.compared += 1;
            self.improved += u64::from(new > old);
        }
        self.synthetic.push(&row.caption);
        if let Some(original) = &row.org_caption {
            self.original.push(original);
        }
        let side = row.width.min(row.height);
        let class = SIDE_CLASSES.iter().position(|bound| side < *bound).unwrap_or(SIDE_CLASSES.len());
        self.sides[class] += 1;
        self.sizes.add(format!("{} \u{d7} {}", row.width, row.height).as_str(), 1);
        self.pixels += u128::from(row.width) * u128::from(row.height);
    }

    /// Counts a reject.
    pub(super) fn push_reject(&mut self, reject: &ReportReject) {
        if let Some(count) = self.reasons.get_mut(&reject.reason) {
            *count += 1;
        } else {
            self.reasons.insert(reject.reason.clone(), 1);
        }
    }

    /// Returns the number of rejects.
    pub(super) fn rejects(&self) -> u64 {
        self.reasons.values().sum()
    }
}
