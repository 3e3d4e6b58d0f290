//! A decoded image between the decoders and the resizer.

use image::metadata::Orientation;

/// The u8 channels of a decoded image. Channels stay apart while resizing, so alpha is dropped and grey replicated on
/// the small result: the outcome is that of Pillow's `convert("RGB")` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
}

impl Channels {
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// What a decoder says about the pixels that it left in the scratch buffer, `[height, width, channels]` row-major u8.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raster {
    /// Stored width in pixels, at least 1.
    pub width: u32,
    /// Stored height in pixels, at least 1.
    pub height: u32,
    pub channels: Channels,
    pub orientation: Orientation,
}

impl Raster {
    /// The number of bytes that belong to the image.
    pub fn len(&self) -> usize {
        self.width as usize * self.height as usize * self.channels.count()
    }
}
