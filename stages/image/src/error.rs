//! Why an image could not be prepared.

use thiserror::Error;

/// Why an image could not be prepared. Every variant is a rejected sample, never a reason to stop a run. The caller adds shard and
/// key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A format, or a variant of a format, that is recognised and not decoded.
    #[error("{format} is not supported{}", note(.detail))]
    Unsupported {
        /// The format's usual name, e.g. "HEIC".
        format: String,
        /// The unsupported feature; may be empty.
        detail: String,
    },
    /// An incomplete or damaged image.
    #[error("{0}", sentence(.format, .why))]
    Corrupt {
        /// The format's usual name; empty for an unknown format.
        format: &'static str,
        /// The problem, which follows the format's name in the message.
        why: String,
    },
    /// More pixels than [`DecodeOptions::max_pixels`](crate::DecodeOptions::max_pixels). Nothing was allocated for them.
    #[error("{width} x {height} pixels are more than the limit of {limit}")]
    TooManyPixels {
        /// Stored width in pixels.
        width: u32,
        /// Stored height in pixels.
        height: u32,
        /// The limit, pixels.
        limit: u64,
    },
    /// More memory than [`DecodeOptions::budget_bytes`](crate::DecodeOptions::budget_bytes). Nothing was allocated for it.
    #[error(
        "{width} x {height} pixels of this kind take {bytes} bytes to decode, more than {setting} = {limit} allows"
    )]
    TooManyBytes {
        /// Stored width in pixels.
        width: u32,
        /// Stored height in pixels.
        height: u32,
        /// Bytes that decoding needs.
        bytes: u64,
        /// The limit, bytes.
        limit: u64,
        /// Name of the limit's setting: [`DecodeOptions::budget_setting`](crate::DecodeOptions::budget_setting).
        setting: &'static str,
    },
    /// A shorter side below [`DecodeOptions::min_side`](crate::DecodeOptions::min_side).
    #[error("{width} x {height} pixels: the shorter side is below the limit of {min_side}")]
    TooSmall {
        /// Stored width in pixels.
        width: u32,
        /// Stored height in pixels.
        height: u32,
        /// The limit, pixels.
        min_side: u32,
    },
}

impl DecodeError {
    pub(super) fn corrupt(format: &'static str, why: impl Into<String>) -> Self {
        Self::Corrupt { format, why: why.into() }
    }

    pub(super) fn unsupported(format: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Unsupported { format: format.into(), detail: detail.into() }
    }

    /// Returns the error of a file with `found` of `expected` bytes.
    pub(super) fn ends_early(format: &'static str, found: usize, expected: u64) -> Self {
        Self::corrupt(
            format,
            format!("ends after {} of {} bytes", thousands(found as u64), thousands(expected)),
        )
    }
}

fn note(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn sentence(format: &str, why: &str) -> String {
    if format.is_empty() { why.to_owned() } else { format!("{format} {why}") }
}

/// Formats `88120` as `88,120`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
