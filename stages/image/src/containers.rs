//! PNG, WebP, GIF, BMP and TIFF, by the decoders of the `image` crate, within limits.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::budget::{self, Share};
use super::buffer::grown;
use super::error::DecodeError;
use super::options::DecodeOptions;
use super::raster::{Channels, Raster};
use super::repair;
use recaption_messages::ImageFormat;

/// Memory of a decoder beside the image, bytes: metadata, palettes, compressed chunks.
const SIDE_ALLOC: u64 = 64 << 20;
/// Copies of the image that a decoder may hold (TIFF holds one, a GIF frame another).
const WORKING_COPIES: u64 = 2;
/// Bytes of a RIFF file's header, and of a chunk's.
const RIFF_HEADER: usize = 12;
const CHUNK_HEADER: usize = 8;

/// Decodes `bytes` of the given format into `pixels` (grown as needed).
///
/// # Errors
/// See [`super::prepare`].
pub(super) fn decode(
    bytes: &[u8],
    format: ImageFormat,
    options: &DecodeOptions,
    pixels: &mut Vec<u8>,
) -> Result<(Raster, Share), DecodeError> {
    let name = name(format);
    let repaired = match format {
        ImageFormat::Png => repair::png(bytes),
        ImageFormat::WebP => repair::webp(bytes),
        _ => None,
    };
    let reader = Cursor::new(repaired.as_deref().unwrap_or(bytes));
    let failed = |error| explain(name, error);
    match format {
        ImageFormat::Png => {
            check_png(bytes)?;
            let cut = |error| match (repaired.is_some(), error) {
                (true, DecodeError::Corrupt { .. }) => {
                    DecodeError::corrupt(name, "ends in the middle of its data")
                }
                (_, error) => error,
            };
            let decoder =
                PngDecoder::with_limits(reader, at_most(SIDE_ALLOC)).map_err(failed).map_err(cut)?;
            read(decoder, name, options, pixels).map_err(cut)
        }
        ImageFormat::WebP => {
            check_riff(bytes)?;
            read(WebPDecoder::new(reader).map_err(failed)?, name, options, pixels)
        }
        ImageFormat::Gif => read(GifDecoder::new(reader).map_err(failed)?, name, options, pixels),
        ImageFormat::Bmp => read(BmpDecoder::new(reader).map_err(failed)?, name, options, pixels),
        ImageFormat::Tiff => read(TiffDecoder::new(reader).map_err(failed)?, name, options, pixels),
        ImageFormat::Jpeg => Err(DecodeError::unsupported("JPEG", "not decoded here")),
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
    }
}

fn at_most(max_alloc: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_alloc);
    limits
}

fn read(
    mut decoder: impl ImageDecoder,
    name: &'static str,
    options: &DecodeOptions,
    pixels: &mut Vec<u8>,
) -> Result<(Raster, Share), DecodeError> {
    let failed = |error| explain(name, error);
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(DecodeError::corrupt(name, format!("claims {width} x {height} pixels")));
    }
    options.check(width, height)?;
    let image_bytes = decoder.total_bytes();
    // The image, the decoder's copy if it has one, and the extended pixels that are resized.
    let copies = if matches!(name, "PNG" | "BMP") { 1 } else { WORKING_COPIES };
    let resized = u64::from(width) * u64::from(height) * 4;
    let needed = image_bytes.saturating_mul(copies).saturating_add(resized);
    let share = budget::take(needed, options, (width, height))?;
    let max_alloc = image_bytes.saturating_mul(WORKING_COPIES).saturating_add(SIDE_ALLOC);
    decoder.set_limits(at_most(max_alloc)).map_err(failed)?;
    // Broken metadata does not reject an image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (channels, wide) = match decoder.color_type() {
        ColorType::L8 => (Channels::Grey, false),
        ColorType::La8 => (Channels::GreyAlpha, false),
        ColorType::Rgb8 => (Channels::Rgb, false),
        ColorType::Rgba8 => (Channels::Rgba, false),
        ColorType::L16 => (Channels::Grey, true),
        ColorType::La16 => (Channels::GreyAlpha, true),
        ColorType::Rgb16 => (Channels::Rgb, true),
        ColorType::Rgba16 => (Channels::Rgba, true),
        other => return Err(DecodeError::unsupported(name, format!("pixels of type {other:?}"))),
    };
    let length = usize::try_from(image_bytes).map_err(|_| DecodeError::TooManyPixels {
        width,
        height,
        limit: options.max_pixels,
    })?;
    let pixels = grown(pixels, length);
    decoder.read_image(pixels).map_err(failed)?;
    if wide {
        high_bytes(pixels);
    }
    Ok((Raster { width, height, channels, orientation }, share))
}

/// Keeps the high byte of every native-endian 16-bit sample, in the first half of `samples`.
fn high_bytes(samples: &mut [u8]) {
    for at in 0..samples.len() / 2 {
        let sample = u16::from_ne_bytes([samples[2 * at], samples[2 * at + 1]]);
        samples[at] = (sample >> 8) as u8;
    }
}

/// Checks that the header is complete, for a specific message.
fn check_png(bytes: &[u8]) -> Result<(), DecodeError> {
    const HEADER: usize = 33;
    if bytes.len() < HEADER {
        return Err(DecodeError::corrupt("PNG", format!("ends after {} bytes, in its header", bytes.len())));
    }
    Ok(())
}

/// Checks that a RIFF file and its chunks are as long as they claim: the decoder allocates what a chunk claims.
fn check_riff(bytes: &[u8]) -> Result<(), DecodeError> {
    let length =
        |at: usize| bytes.get(at..at + 4).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let total = length(4).unwrap_or(0) + CHUNK_HEADER as u64;
    if total > bytes.len() as u64 {
        return Err(DecodeError::ends_early("WebP", bytes.len(), total));
    }
    let mut at = RIFF_HEADER as u64;
    while at + (CHUNK_HEADER as u64) <= total {
        let Some(chunk) = length(at as usize + 4) else { break };
        at += CHUNK_HEADER as u64 + chunk;
        if at > total {
            return Err(DecodeError::corrupt(
                "WebP",
                format!("has a chunk that claims {chunk} bytes, more than there are"),
            ));
        }
        at += chunk % 2;
    }
    Ok(())
}

fn explain(name: &'static str, error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(error) => DecodeError::unsupported(name, feature(error.kind())),
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::corrupt(name, "ends in the middle of its data")
        }
        ImageError::Limits(_) => {
            DecodeError::corrupt(name, "needs far more memory than its pixels account for")
        }
        other => DecodeError::corrupt(name, format!("is broken ({other})")),
    }
}

fn feature(kind: UnsupportedErrorKind) -> String {
    match kind {
        UnsupportedErrorKind::Color(kind) => format!("pixels of type {kind:?}"),
        UnsupportedErrorKind::Format(hint) => hint.to_string(),
        UnsupportedErrorKind::GenericFeature(what) => what,
        other => format!("{other:?}"),
    }
}
