//! JPEG, strictly: a picture that ends early is an error, never a picture with a grey rest.

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::DecodeOptions;
use super::budget::{self, Share};
use super::error::DecodeError;
use super::jpeg_markers::{Colour, Markers, Padding};
use super::raster::{Channels, Raster};
use super::resample::grown;

const JPEG: &str = "JPEG";
/// The largest side that a JPEG's 16-bit header can state.
const MAX_SIDE: usize = 65_535;
/// The most scans of a progressive JPEG. Encoders write about 10; each one may walk the whole picture, so this bounds
/// the time that a small file can take.
const MAX_SCANS: usize = 100;

/// Decodes `bytes` into `pixels` (grown as needed), using `clean` as scratch.
///
/// # Errors
/// See [`super::prepare`].
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
        // Asked for what it takes the components to be, the decoder leaves them as they are.
        Colour::Rgb if !markers.rgb_ids => (Channels::Rgb, ColorSpace::YCbCr),
        // With a fourth byte, which is dropped on the small result, resizing takes half the time.
        Colour::YCbCr if !markers.rgb_ids => (Channels::Rgba, ColorSpace::RGBA),
        // CMYK is taken as inverted, as Adobe writes it and as Pillow reads it, marker or not.
        Colour::Rgb | Colour::YCbCr | Colour::Cmyk | Colour::Ycck => (Channels::Rgb, ColorSpace::RGB),
    };
    let orientation =
        markers.exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let raster = Raster { width: markers.width, height: markers.height, channels, orientation };
    let size = u64::from(markers.width) * u64::from(markers.height);
    // Progressive pictures are held as coefficients, two bytes each; without an end marker there are two of them.
    let coefficients = if markers.progressive { 2 * 3 * size } else { 0 };
    let needed = 4 * size * if markers.ended { 1 } else { 2 } + coefficients + bytes.len() as u64;
    let share = budget::take(needed, options.budget_bytes, (markers.width, markers.height))?;
    let pixels = grown(pixels, raster.len());
    markers.clean(Padding::Ones, clean);
    pass(clean, output, pixels).map_err(|error| explain(&markers, &error))?;
    if !markers.ended {
        // No end marker: whole all the same if the decoder never used what was put after the data.
        let first = pixels.to_vec();
        markers.clean(Padding::Zeros, clean);
        pass(clean, output, pixels).map_err(|error| explain(&markers, &error))?;
        if first != pixels {
            return Err(markers.cut("in the middle of its image data"));
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
        markers.cut("in the middle of its image data")
    }
}
