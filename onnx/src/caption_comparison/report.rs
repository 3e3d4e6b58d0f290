//! Result of comparing captions.

/// Smallest share of captions that must be equal.
pub const MIN_EQUAL_SHARE: f64 = 0.98;

/// Two captions of one image that differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Number of the image.
    pub image: usize,
    /// Index of the first token that differs, 0 for the one after the start token and the prompt.
    pub position: usize,
    /// The reference's token there; `None` if its caption has ended.
    pub reference_id: Option<i64>,
    /// The device's token there; `None` if its caption has ended.
    pub device_id: Option<i64>,
    /// Distance of the reference's logit of the device's token below that of its own; standard deviations of the row. `None` if it
    /// was not examined.
    pub gap: Option<f32>,
    /// Whether the gap is within the tolerance.
    pub is_explained: bool,
}

/// Result of a comparison.
#[derive(Clone, Debug)]
pub struct CaptionComparison {
    /// Number of images.
    pub images: usize,
    /// Images whose captions have equal ids.
    pub equal: usize,
    /// Captions that differ, in the order of images.
    pub differences: Vec<Difference>,
    /// Largest gap that explains a difference, standard deviations of a row of logits.
    pub tolerance: f32,
    /// Largest difference of a logit at equal prefixes, standard deviations of the row.
    pub logit_deviation: f32,
    /// Smallest cosine of two rows of logits at equal prefixes.
    pub logit_cosine: f32,
    /// Rows of logits compared.
    pub logit_rows: usize,
    /// Smallest cosine of an image's features.
    pub feature_cosine: f32,
    /// Bounds of the precision that do not hold, as messages.
    pub broken_bounds: Vec<String>,
    /// Seconds of captioning, without loading: the reference's, the device's.
    pub seconds: [f64; 2],
}

impl CaptionComparison {
    /// Returns the share of equal captions, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.equal as f64 / self.images.max(1) as f64
    }

    /// Returns the number of differences within the tolerance.
    #[must_use]
    pub fn explained(&self) -> usize {
        self.differences.iter().filter(|difference| difference.is_explained).count()
    }

    /// Returns the number of differences that exceed the tolerance or were not examined.
    #[must_use]
    pub fn unexplained(&self) -> usize {
        self.differences.len() - self.explained()
    }

    /// Returns the largest gap of the examined differences; standard deviations of the row.
    #[must_use]
    pub fn max_gap(&self) -> f32 {
        self.differences.iter().filter_map(|difference| difference.gap).fold(0.0, f32::max)
    }

    /// Returns whether the device computes what the reference computes: at least [`MIN_EQUAL_SHARE`] of the captions are equal, every
    /// difference is explained, and all bounds hold.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.images > 0
            && self.share() >= MIN_EQUAL_SHARE
            && self.unexplained() == 0
            && self.broken_bounds.is_empty()
    }
}
