//! A decoded image between the decoders and the resizer.

use image::metadata::Orientation;

use super::buffer::grown;
use super::geometry::Turn;

/// The u8 channels of a decoded image. Channels are resized separately, so that dropping alpha and replicating grey on the small
/// result equals Pillow's `convert("RGB")` before. Only `Grey` and `Rgba` are resized, see [`Raster::widen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
}

impl Channels {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// The layout of the pixels in the scratch buffer, `[height, width, channels]` u8, row-major.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raster {
    /// Stored width in pixels, at least 1.
    pub(crate) width: u32,
    /// Stored height in pixels, at least 1.
    pub(crate) height: u32,
    pub(crate) channels: Channels,
    pub(crate) orientation: Orientation,
}

impl Raster {
    /// Returns width and height after orientation, pixels.
    pub(crate) fn upright(&self) -> (u32, u32) {
        Turn::from(self.orientation).upright(self.width, self.height)
    }

    /// Returns the number of bytes of the image.
    pub(crate) fn len(&self) -> usize {
        self.width as usize * self.height as usize * self.channels.count()
    }

    /// Extends pixels of two or three channels to four, in place: every pixel type of the resizer takes the compiler half a minute,
    /// and four bytes are resized faster than three.
    pub(crate) fn widen(&mut self, pixels: &mut Vec<u8>) {
        let count = self.width as usize * self.height as usize;
        match self.channels {
            Channels::Grey | Channels::Rgba => return,
            Channels::GreyAlpha => spread::<2>(grown(pixels, 4 * count), count, |[v, a]| [v, v, v, a]),
            Channels::Rgb => spread::<3>(grown(pixels, 4 * count), count, |[r, g, b]| [r, g, b, 255]),
        }
        self.channels = Channels::Rgba;
    }
}

/// Extends pixels from the last to the first, so that none is overwritten before it is read.
fn spread<const N: usize>(pixels: &mut [u8], count: usize, widen: impl Fn([u8; N]) -> [u8; 4]) {
    for i in (0..count).rev() {
        let mut narrow = [0; N];
        narrow.copy_from_slice(&pixels[i * N..][..N]);
        pixels[i * 4..][..4].copy_from_slice(&widen(narrow));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_widened_in_place() {
        let mut raster =
            Raster { width: 3, height: 1, channels: Channels::Rgb, orientation: Orientation::NoTransforms };
        let mut pixels = vec![1, 2, 3, 4, 5, 6, 7, 8, 9];
        raster.widen(&mut pixels);
        assert_eq!(
            (raster.channels, pixels),
            (Channels::Rgba, vec![1, 2, 3, 255, 4, 5, 6, 255, 7, 8, 9, 255])
        );
        raster.channels = Channels::GreyAlpha;
        let mut pixels = vec![1, 2, 3, 4, 5, 6];
        raster.widen(&mut pixels);
        assert_eq!((raster.channels, pixels), (Channels::Rgba, vec![1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6]));
    }
}
