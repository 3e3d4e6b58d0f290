//! Images to be captioned.

use std::borrow::Cow;

use image::{DynamicImage, RgbImage};
use recaption_image::{DecodeError, DecodeOptions, Pixels, Preprocess, prepare, prepare_rgb};

/// An image to be captioned: the bytes of a file, or pixels.
///
/// ```
/// use image::RgbImage;
/// use recaption_onnx::ImageInput;
///
/// let file: &[u8] = b"the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF";
/// assert!(matches!(ImageInput::from(file), ImageInput::File(_)));
/// let pixels = RgbImage::new(640, 480);
/// assert!(matches!(ImageInput::from(&pixels), ImageInput::Rgb { width: 640, height: 480, .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageInput<'a> {
    /// The bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file, recognised by content.
    File(Cow<'a, [u8]>),
    /// Upright u8 RGB pixels `[height, width, 3]`, row-major.
    Rgb {
        /// Width in pixels, at least 1.
        width: u32,
        /// Height in pixels, at least 1.
        height: u32,
        /// `height * width * 3` bytes.
        data: Cow<'a, [u8]>,
    },
}

impl ImageInput<'_> {
    /// Decodes the image, if it is a file, and resizes it to the model's size.
    pub(super) fn prepare(
        &self,
        preprocess: &Preprocess,
        options: &DecodeOptions,
    ) -> Result<Pixels, DecodeError> {
        match self {
            Self::File(bytes) => prepare(bytes, None, preprocess, options).map(|prepared| prepared.pixels),
            Self::Rgb { width, height, data } => prepare_rgb(*width, *height, data, preprocess),
        }
    }
}

impl<'a> From<&'a [u8]> for ImageInput<'a> {
    fn from(file: &'a [u8]) -> Self {
        Self::File(file.into())
    }
}

impl<'a> From<&'a Vec<u8>> for ImageInput<'a> {
    fn from(file: &'a Vec<u8>) -> Self {
        Self::File(file.as_slice().into())
    }
}

impl<'a> From<&'a RgbImage> for ImageInput<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self::Rgb { width: image.width(), height: image.height(), data: image.as_raw().as_slice().into() }
    }
}

impl<'a> From<&'a DynamicImage> for ImageInput<'a> {
    /// Borrows RGB pixels of 8 bits; converts others. Alpha is dropped.
    fn from(image: &'a DynamicImage) -> Self {
        match image {
            DynamicImage::ImageRgb8(rgb) => rgb.into(),
            other => Self::Rgb {
                width: other.width(),
                height: other.height(),
                data: other.to_rgb8().into_raw().into(),
            },
        }
    }
}
