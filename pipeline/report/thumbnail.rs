//! Small JPEGs of images, made here: nothing of the stored bytes reaches a page.

use image::{ExtendedColorType, ImageEncoder, RgbImage, codecs::jpeg::JpegEncoder, imageops};
use recaption_image::{DecodeOptions, Interpolation, Preprocess, ResizeMode, prepare};

/// Longer side of a thumbnail, pixels.
const SIDE: u32 = 240;
/// JPEG's quality of thumbnails, of 100.
const QUALITY: u8 = 72;

/// An image of a sample, as far as it can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Picture {
    /// A thumbnail.
    Shown {
        /// JPEG.
        jpeg: Vec<u8>,
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
    /// None, with the reason in a few words.
    Missing(String),
}

impl Picture {
    /// Decodes an image as a run would, and makes its thumbnail.
    pub(super) fn of(image: &[u8]) -> Self {
        // The whole image, stretched to a square; its sides are restored below.
        let squash = Preprocess {
            size: SIDE,
            resize_mode: ResizeMode::Squash,
            interpolation: Interpolation::Bilinear,
        };
        let options = DecodeOptions { min_side: 0, ..DecodeOptions::default() };
        let prepared = match prepare(image, None, &squash, &options) {
            Ok(prepared) => prepared,
            Err(error) => return Self::Missing(format!("the image cannot be decoded: {error}")),
        };
        let longer = prepared.width.max(prepared.height).max(1);
        let side = SIDE.min(longer);
        let scaled = |length: u32| {
            let scaled = u64::from(length) * u64::from(side) / u64::from(longer);
            u32::try_from(scaled).unwrap_or(side).clamp(1, side)
        };
        let (width, height) = (scaled(prepared.width), scaled(prepared.height));
        let Some(square) = RgbImage::from_raw(SIDE, SIDE, prepared.pixels.into_vec()) else {
            return Self::Missing("the image cannot be resized".to_owned());
        };
        let small = imageops::resize(&square, width, height, imageops::FilterType::Triangle);
        let mut jpeg = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
        match encoder.write_image(&small, width, height, ExtendedColorType::Rgb8) {
            Ok(()) => Self::Shown { jpeg, width, height },
            Err(error) => Self::Missing(format!("no thumbnail can be made: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbnails_keep_the_aspect_ratio_and_are_small() {
        let image = RgbImage::from_fn(900, 300, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, 7]));
        let mut png = std::io::Cursor::new(Vec::new());
        image.write_to(&mut png, image::ImageFormat::Png).expect("a PNG");
        let Picture::Shown { jpeg, width, height } = Picture::of(png.get_ref()) else {
            panic!("no thumbnail")
        };
        assert_eq!((width, height), (240, 80));
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.len() < 20_000, "{} bytes", jpeg.len());
        assert!(matches!(Picture::of(b"<svg onload=alert(1)>"), Picture::Missing(_)));
    }
}
