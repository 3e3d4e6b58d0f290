//! JPEG, decoded strictly: an image that ends early is an error, not an image that is partly grey.

mod markers;
mod segments;

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use self::markers::{Colour, Markers, Padding};
use crate::{
    budget::{self, Share},
    buffer::grown,
    error::DecodeError,
    options::DecodeOptions,
    raster::{Channels, Raster},
};

const JPEG: &str = "JPEG";
/// Largest side that a JPEG's 16-bit header can state, pixels.
const MAX_SIDE: usize = 65_535;
/// Most scans of a progressive JPEG. Encoders write about 10; each may cover the whole image, so that this bounds the time that a
/// small file takes.
const MAX_SCANS: usize = 100;

/// Decodes `bytes` into `pixels` (grown as needed), using `clean` as scratch.
///
/// # Errors
/// See [`crate::prepare`].
pub(super) fn decode(
    bytes: &[u8],
    options: &DecodeOptions,
    clean: &mut Vec<u8>,
    pixels: &mut Vec<u8>,
) -> Result<(Raster, Share), DecodeError> {
    let markers = Markers::walk(bytes)?;
    options.check(markers.width, markers.height)?;
    let (channels, output) = match markers.colour {
        Colour::Grey => (Channels::Grey, ColorSpace::Luma),
        // The decoder converts nothing if the requested colour space is the assumed one.
        Colour::Rgb if !markers.rgb_ids => (Channels::Rgb, ColorSpace::YCbCr),
        // With a fourth byte, which is dropped from the small result, resizing takes half the time.
        Colour::YCbCr if !markers.rgb_ids => (Channels::Rgba, ColorSpace::RGBA),
        // CMYK counts as inverted, as Adobe writes and Pillow reads it, with or without a marker.
        Colour::Rgb | Colour::YCbCr | Colour::Cmyk | Colour::Ycck => (Channels::Rgb, ColorSpace::RGB),
    };
    let orientation =
        markers.exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let raster = Raster { width: markers.width, height: markers.height, channels, orientation };
    let size = u64::from(markers.width) * u64::from(markers.height);
    // Progressive images are held as coefficients of two bytes; without an end marker there are two copies.
    let coefficients = if markers.progressive { 2 * 3 * size } else { 0 };
    let needed = 4 * size * if markers.ended { 1 } else { 2 } + coefficients + bytes.len() as u64;
    let share = budget::take(needed, options, (markers.width, markers.height))?;
    let pixels = grown(pixels, raster.len());
    markers.clean(Padding::Ones, clean);
    pass(clean, output, pixels).map_err(|error| explain(&markers, &error))?;
    if !markers.ended {
        // Without an end marker the image is complete if the decoder does not use the padding.
        let first = pixels.to_vec();
        markers.clean(Padding::Zeros, clean);
        pass(clean, output, pixels).map_err(|error| explain(&markers, &error))?;
        if first != pixels {
            return Err(markers.truncated("in the middle of its image data"));
        }
    }
    Ok((raster, share))
}

fn pass(clean: &[u8], output: ColorSpace, pixels: &mut [u8]) -> Result<(), DecodeErrors> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(output);
    JpegDecoder::new_with_options(ZCursor::new(clean), options).decode_into(pixels)
}

fn explain(markers: &Markers, error: &DecodeErrors) -> DecodeError {
    if let DecodeErrors::Unsupported(scheme) = error {
        DecodeError::unsupported(JPEG, format!("{scheme:?}"))
    } else if markers.ended {
        DecodeError::corrupt(JPEG, format!("has broken or incomplete image data ({error})"))
    } else {
        markers.truncated("in the middle of its image data")
    }
}
