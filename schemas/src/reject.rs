//! Why a sample has no caption row. The set of reasons is closed: every outcome is counted.

use serde::{Deserialize, Serialize};

/// Reason of a reject, as written to the `reason` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The sample has no image member, or it is a link without bytes.
    MissingImage,
    /// The bytes are an image format that is not supported, or no image at all.
    UnsupportedFormat,
    /// The bytes are cut or damaged.
    CorruptImage,
    /// Width x height, as the header claims it, is over the cap.
    TooManyPixels,
    /// The shorter side is below the configured minimum.
    TooSmall,
    /// The member has more bytes than the limit.
    TooLarge,
    /// Similarity of image and caption is below `filter.min_similarity`.
    BelowSimilarity,
    /// Every candidate broke a text rule.
    CaptionRule,
    /// The key, which the input declares, occurred before in this shard; the first is kept.
    DuplicateKey,
    /// The shard ends, or breaks, in the middle: its tail could not be read.
    DamagedShard,
    /// The model failed on this image alone.
    ModelError,
    /// The image could not be fetched, also after several attempts.
    FetchFailed,
    /// The image is not to be had: its server says so, or its address is none that is asked.
    UrlRefused,
    /// The image's server opts out of use by machines.
    OptedOut,
}

impl RejectReason {
    /// All reasons, in the order of reports.
    pub const ALL: [Self; 14] = [
        Self::MissingImage,
        Self::UnsupportedFormat,
        Self::CorruptImage,
        Self::TooManyPixels,
        Self::TooSmall,
        Self::TooLarge,
        Self::BelowSimilarity,
        Self::CaptionRule,
        Self::DuplicateKey,
        Self::DamagedShard,
        Self::ModelError,
        Self::FetchFailed,
        Self::UrlRefused,
        Self::OptedOut,
    ];

    /// Whether another attempt at the same sample may go better.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::ModelError | Self::FetchFailed)
    }

    /// The setting that may be why, though rows are not said to depend on it, with the value that it had before records told
    /// it: where it is another one now, the sample is worth another attempt.
    #[must_use]
    pub fn setting(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::UrlRefused => Some(("fetch.allow_private", "false")),
            Self::TooManyPixels => Some(("input.decode_bytes", "1073741824")),
            Self::TooLarge => Some(("fetch.max_bytes", "33554432")),
            _ => None,
        }
    }

    /// Whether such a reject says that something failed: decoding, the way, a model. What a filter or a limit rejects does
    /// not.
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

    /// The name written to Parquet.
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
    /// Webdataset key; empty for a broken tail that belongs to no key.
    pub key: String,
    /// Why.
    pub reason: RejectReason,
    /// What exactly, in words and numbers.
    pub detail: String,
    /// The caption that was chosen before the filter, or the best one where none could be, if it came that far.
    pub caption: Option<String>,
    /// Cosine of image and caption, [-1, 1].
    pub similarity: Option<f32>,
    /// What the input said.
    pub org_caption: Option<String>,
}

impl Reject {
    /// Creates a reject of a sample without captions.
    #[must_use]
    pub fn new(key: impl Into<String>, reason: RejectReason, detail: impl Into<String>) -> Self {
        let (key, detail) = (key.into(), detail.into());
        Self { key, reason, detail, caption: None, similarity: None, org_caption: None }
    }

    /// Adds the original caption of the input.
    #[must_use]
    pub fn with_org_caption(self, org_caption: Option<String>) -> Self {
        Self { org_caption, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_parquet_agree_on_every_name() {
        for reason in RejectReason::ALL {
            let json = serde_json::to_string(&reason).expect("plain enum");
            assert_eq!(json, format!("\"{reason}\""));
        }
    }
}
