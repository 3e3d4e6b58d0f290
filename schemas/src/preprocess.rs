//! Preprocessing of a model's images: open_clip's `preprocess_cfg`.

use serde::{Deserialize, Serialize};

/// How an image becomes the model's square (open_clip's `resize_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The shorter side becomes `size`, then the centre is cropped.
    Shortest,
    /// The longer side becomes `size`, then the rest is filled with this RGB colour.
    Longest {
        /// Fill colour, RGB.
        fill: [u8; 3],
    },
    /// Both sides become `size`, whatever the aspect ratio.
    Squash,
}

/// Resampling filter, with antialiasing, as Pillow computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Cubic convolution with a = -0.5.
    Bicubic,
    /// Triangle filter.
    Bilinear,
}

/// The images of a model: u8 RGB, `[size, size, 3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Side of the square, pixels.
    pub size: u32,
    /// Resize mode.
    pub resize_mode: ResizeMode,
    /// Resampling filter.
    pub interpolation: Interpolation,
}
