//! Rejects: samples without a caption, each with a reason from a closed set.

use serde::{Deserialize, Serialize};

/// Reason of a reject, as written to the `reason` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The sample has no image, or only a link without bytes.
    MissingImage,
    /// The image has an unsupported format, or is not an image.
    UnsupportedFormat,
    /// The image is truncated or damaged.
    CorruptImage,
    /// Width times height, by the image's header, exceeds the limit.
    TooManyPixels,
    /// The shorter side is below the limit.
    TooSmall,
    /// The encoded image has more bytes than the limit.
    TooLarge,
    /// The similarity of image and caption is below the filter's threshold.
    BelowSimilarity,
    /// The probability that image and caption match is below the filter's threshold.
    BelowItm,
    /// Every candidate violates a text rule.
    CaptionRule,
    /// The key, which the input declares, occurred before in this shard. The first sample is kept.
    DuplicateKey,
    /// The shard is truncated or damaged, and its tail cannot be read.
    DamagedShard,
    /// The model failed on this image.
    ModelError,
    /// The image could not be fetched: a transient failure in every attempt.
    FetchFailed,
    /// The image cannot be fetched: a permanent failure of its server, such as status 404, or a URL that is malformed or not
    /// allowed.
    UrlRefused,
    /// The image's server opts out of use by machines (`X-Robots-Tag`).
    OptedOut,
}

impl RejectReason {
    /// All reasons, in the order of reports.
    pub const ALL: [Self; 15] = [
        Self::MissingImage,
        Self::UnsupportedFormat,
        Self::CorruptImage,
        Self::TooManyPixels,
        Self::TooSmall,
        Self::TooLarge,
        Self::BelowSimilarity,
        Self::BelowItm,
        Self::CaptionRule,
        Self::DuplicateKey,
        Self::DamagedShard,
        Self::ModelError,
        Self::FetchFailed,
        Self::UrlRefused,
        Self::OptedOut,
    ];

    /// Returns whether another attempt at the same sample may succeed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::ModelError | Self::FetchFailed)
    }

    /// Returns the setting that may have caused such a reject although rows do not depend on it, and its value in records that
    /// lack it. If it has changed, the sample is processed again.
    #[must_use]
    pub fn setting(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::UrlRefused => Some(("fetch.allow_private", "false")),
            Self::TooManyPixels => Some(("input.decode_bytes", "1073741824")),
            Self::TooLarge => Some(("fetch.max_bytes", "33554432")),
            _ => None,
        }
    }

    /// Returns whether such a reject is a failure of data, network or model, and not the effect of a filter or a limit.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::MissingImage
                | Self::UnsupportedFormat
                | Self::CorruptImage
                | Self::DuplicateKey
                | Self::DamagedShard
                | Self::ModelError
                | Self::FetchFailed
                | Self::UrlRefused
        )
    }

    /// Returns the name in the `reason` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingImage => "missing_image",
            Self::UnsupportedFormat => "unsupported_format",
            Self::CorruptImage => "corrupt_image",
            Self::TooManyPixels => "too_many_pixels",
            Self::TooSmall => "too_small",
            Self::TooLarge => "too_large",
            Self::BelowSimilarity => "below_similarity",
            Self::BelowItm => "below_itm",
            Self::CaptionRule => "caption_rule",
            Self::DuplicateKey => "duplicate_key",
            Self::DamagedShard => "damaged_shard",
            Self::ModelError => "model_error",
            Self::FetchFailed => "fetch_failed",
            Self::UrlRefused => "url_refused",
            Self::OptedOut => "opted_out",
        }
    }
}

impl std::fmt::Display for RejectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row of `rejects/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reject {
    /// Key; empty for a damaged tail without one.
    pub key: String,
    /// Reason.
    pub reason: RejectReason,
    /// The problem in words and numbers.
    pub detail: String,
    /// The chosen caption before the filter, or the best one if all violate a rule; `None` if none was generated.
    pub caption: Option<String>,
    /// Cosine of image and caption, [-1, 1].
    pub similarity: Option<f32>,
    /// Original caption of the input.
    pub org_caption: Option<String>,
}

impl Reject {
    /// Returns the reject of a sample without any caption. `detail` says what exactly, in words and numbers.
    #[must_use]
    pub fn new(key: impl Into<String>, reason: RejectReason, detail: impl Into<String>) -> Self {
        let (key, detail) = (key.into(), detail.into());
        Self { key, reason, detail, caption: None, similarity: None, org_caption: None }
    }

    /// Adds the caption that was generated, and its similarity in [-1, 1] if it was scored.
    #[must_use]
    pub fn with_caption(self, caption: impl Into<String>, similarity: Option<f32>) -> Self {
        Self { caption: Some(caption.into()), similarity, ..self }
    }

    /// Adds the caption that the input has, if it has one.
    #[must_use]
    pub fn with_org_caption(self, org_caption: Option<impl Into<String>>) -> Self {
        Self { org_caption: org_caption.map(Into::into), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_hold_captions_only_where_they_are_added() {
        let reject = Reject::new("k", RejectReason::BelowSimilarity, "0.1 < 0.2");
        assert_eq!((reject.key.as_str(), reject.detail.as_str()), ("k", "0.1 < 0.2"));
        assert_eq!((&reject.caption, reject.similarity, &reject.org_caption), (&None, None, &None));
        let reject = reject.with_caption("a dog", Some(0.1)).with_org_caption(Some("dog"));
        assert_eq!((reject.caption.as_deref(), reject.similarity), (Some("a dog"), Some(0.1)));
        assert_eq!(reject.org_caption.as_deref(), Some("dog"));
    }

    #[test]
    fn serde_and_parquet_names_are_equal() {
        for reason in RejectReason::ALL {
            let json = serde_json::to_string(&reason).expect("plain enum");
            assert_eq!(json, format!("\"{reason}\""));
        }
    }
}
