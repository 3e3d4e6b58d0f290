//! Which images are decoded, and how.

use crate::error::DecodeError;

/// Default of [`DecodeOptions::max_pixels`]: Pillow's `Image.MAX_IMAGE_PIXELS`, a quarter of a gigabyte in RGB.
pub const DEFAULT_MAX_PIXELS: u64 = 89_478_485;
/// Default of [`DecodeOptions::min_side`]: off.
pub const DEFAULT_MIN_SIDE: u32 = 0;
/// Default of [`DecodeOptions::budget_bytes`]: 1 GiB, enough for every 8-bit image within the
/// default of [`DecodeOptions::max_pixels`].
pub const DEFAULT_BUDGET_BYTES: u64 = 1 << 30;

/// Default of [`DecodeOptions::exif_orientation`]: models expect upright images.
pub const DEFAULT_EXIF_ORIENTATION: bool = true;

/// Limits on the images that are decoded, and whether they are turned upright.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Most pixels, width times height as stored. Checked by the header, before anything is allocated for them.
    pub max_pixels: u64,
    /// Least length of the shorter side, pixels; 0 turns the check off.
    pub min_side: u32,
    /// Memory for images in decoding, all threads of the process together, bytes. A thread that needs more than is free waits.
    pub budget_bytes: u64,
    /// Name under which the caller configures `budget_bytes`, for messages.
    pub budget_setting: &'static str,
    /// Whether EXIF orientation is applied. If not, pixels, width and height are as stored.
    pub exif_orientation: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            max_pixels: DEFAULT_MAX_PIXELS,
            min_side: DEFAULT_MIN_SIDE,
            budget_bytes: DEFAULT_BUDGET_BYTES,
            budget_setting: "budget_bytes",
            exif_orientation: DEFAULT_EXIF_ORIENTATION,
        }
    }
}

impl DecodeOptions {
    /// Checks the stored size of an image.
    pub(crate) fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(DecodeError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.min(height) < self.min_side {
            return Err(DecodeError::TooSmall { width, height, min_side: self.min_side });
        }
        Ok(())
    }
}
