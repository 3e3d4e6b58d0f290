//! Decode: from the bytes of an image file to the model's pixels.
//!
//! Stands between `Sample` and the captioner: one call of [`prepare_all`] per image, on a worker thread. It is pure
//! computation without I/O and takes milliseconds, so it must never run on a tokio thread. It never decides whether a
//! sample is kept: an image that cannot be prepared is an error with a reason, and the caller counts it as one reject.
//!
//! The pixels are those of open_clip's evaluation transform over Pillow's `convert("RGB")`: alpha is dropped (not
//! composited), palettes and CMYK become RGB, grey is replicated, of 16-bit samples the high byte is kept (Pillow clips
//! 16-bit grey to 255 instead, which turns it white). On top of that EXIF orientation is applied, which Pillow leaves to
//! its caller.
//!
//! Every thread keeps its buffers between images; see [`RETAINED_BYTES`].

mod budget;
mod containers;
mod error;
mod geometry;
mod jpeg;
mod jpeg_markers;
mod pixels;
mod prepare;
mod raster;
mod repair;
mod resample;
mod sniff;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use budget::DEFAULT_BUDGET_BYTES;
pub use error::DecodeError;
pub use geometry::Region;
pub use pixels::{ModelInputs, Pixels, Prepared};
pub use prepare::{ModelPixels, PrepareSettings, decode_for_models, prepare_sample, reason_of};
pub use recaption_schemas::{Interpolation, Preprocess, ResizeMode};

use recaption_messages::ImageFormat;
use resample::Workspace;

/// The default of [`DecodeOptions::max_pixels`]: Pillow's `Image.MAX_IMAGE_PIXELS`, a quarter of a gigabyte in RGB.
pub const DEFAULT_MAX_PIXELS: u64 = 89_478_485;
/// The default of [`DecodeOptions::min_side`]: off. Whether small images are worth a caption is for the dataset's owner
/// to say.
pub const DEFAULT_MIN_SIDE: u32 = 0;
/// How much of a thread's largest buffer is kept for its next image, in bytes: 64 MiB hold 22 megapixels of RGB. What is
/// larger is given back at once, so one giant does not cost its size on every thread for the rest of the run.
pub const RETAINED_BYTES: usize = 64 << 20;

/// Whether EXIF orientation is applied unless the caller says otherwise: models expect upright pictures.
pub const DEFAULT_EXIF_ORIENTATION: bool = true;

/// Which images are worth decoding, judged by their headers, and whether they are turned upright.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// The most pixels, width times height as stored. Checked before anything is allocated for them.
    pub max_pixels: u64,
    /// The least length of the shorter side in pixels; 0 turns the check off.
    pub min_side: u32,
    /// Memory that all threads together may use for pictures, bytes: who needs more than is free waits.
    pub budget_bytes: u64,
    /// Whether EXIF orientation is applied; without it pixels, width and height are as stored.
    pub exif_orientation: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            max_pixels: DEFAULT_MAX_PIXELS,
            min_side: DEFAULT_MIN_SIDE,
            budget_bytes: DEFAULT_BUDGET_BYTES,
            exif_orientation: DEFAULT_EXIF_ORIENTATION,
        }
    }
}

impl DecodeOptions {
    fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(DecodeError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.min(height) < self.min_side {
            return Err(DecodeError::TooSmall { width, height, min_side: self.min_side });
        }
        Ok(())
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// The decoded picture as stored.
    pixels: Vec<u8>,
    /// The JPEG as its decoder gets it.
    clean: Vec<u8>,
    workspace: Workspace,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Decodes `bytes` and brings the picture to the model's size.
///
/// Reads JPEG, PNG (an APNG's default image), WebP (the first frame), GIF (the first frame), BMP and TIFF (the first
/// page), recognised by content. `suffix` is the member's suffix, without or with its dot; it only shapes messages.
/// The result is `[S, S, 3]` u8 RGB with S = `preprocess.size`, and the stored size after EXIF orientation.
///
/// # Errors
/// - [`DecodeError::Unsupported`]: another format, or a variant of these that is not decoded.
/// - [`DecodeError::Corrupt`]: no bytes, damaged ones, or fewer than the picture needs. A JPEG or PNG that lacks only its
///   end, or is followed by other bytes, is whole.
/// - [`DecodeError::TooManyPixels`], [`DecodeError::TooSmall`]: see [`DecodeOptions`].
///
/// A panic inside a decoder becomes `Corrupt` too (with `panic = "unwind"`, Rust's default).
pub fn prepare(
    bytes: &[u8],
    suffix: Option<&str>,
    preprocess: &Preprocess,
    options: &DecodeOptions,
) -> Result<Prepared, DecodeError> {
    let ModelInputs { pixels, width, height } =
        prepare_all(bytes, suffix, std::slice::from_ref(preprocess), options)?;
    let pixels = pixels.into_iter().next().ok_or_else(|| DecodeError::corrupt("", "yields no pixels"))?;
    Ok(Prepared { pixels, width, height })
}

/// As [`prepare`], of a part of the picture, which is stretched to the square whatever its shape: augmentation in training.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_region(
    bytes: &[u8],
    suffix: Option<&str>,
    preprocess: &Preprocess,
    region: Option<Region>,
    options: &DecodeOptions,
) -> Result<Prepared, DecodeError> {
    let ModelInputs { pixels, width, height } =
        prepare_views(bytes, suffix, std::slice::from_ref(preprocess), region.as_ref(), options)?;
    let pixels = pixels.into_iter().next().ok_or_else(|| DecodeError::corrupt("", "yields no pixels"))?;
    Ok(Prepared { pixels, width, height })
}

/// As [`prepare`], for several models: decoded once, one square for every element of `wanted`, in its order.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_all(
    bytes: &[u8],
    suffix: Option<&str>,
    wanted: &[Preprocess],
    options: &DecodeOptions,
) -> Result<ModelInputs, DecodeError> {
    prepare_views(bytes, suffix, wanted, None, options)
}

fn prepare_views(
    bytes: &[u8],
    suffix: Option<&str>,
    wanted: &[Preprocess],
    region: Option<&Region>,
    options: &DecodeOptions,
) -> Result<ModelInputs, DecodeError> {
    let format = sniff::sniff(bytes, suffix)?;
    catch_unwind(AssertUnwindSafe(|| {
        SCRATCH.with_borrow_mut(|scratch| {
            let prepared = prepare_with(scratch, (bytes, format), wanted, region, options);
            scratch.shrink();
            prepared
        })
    }))
    .unwrap_or_else(|_| {
        PANICS.fetch_add(1, Relaxed);
        Err(DecodeError::corrupt("", "the decoder panicked on these bytes"))
    })
}

/// Decoders that panicked.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many decoders panicked in this process: each cost one sample, and is a defect of a library.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Relaxed)
}

fn prepare_with(
    scratch: &mut Scratch,
    (bytes, format): (&[u8], ImageFormat),
    wanted: &[Preprocess],
    region: Option<&Region>,
    options: &DecodeOptions,
) -> Result<ModelInputs, DecodeError> {
    let (mut raster, _share) = match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, options, &mut scratch.clean, &mut scratch.pixels)?,
        other => containers::decode(bytes, other, options, &mut scratch.pixels)?,
    };
    if !options.exif_orientation {
        raster.orientation = image::metadata::Orientation::NoTransforms;
    }
    raster.widen(&mut scratch.pixels);
    let data = &scratch.pixels[..raster.len()];
    let mut pixels = Vec::with_capacity(wanted.len());
    for preprocess in wanted {
        let square = resample::resample(&mut scratch.workspace, &raster, data, preprocess, region)?;
        pixels.push(Pixels::new(preprocess.size, square).ok_or_else(|| {
            DecodeError::corrupt("", format!("cannot become {0} x {0} pixels", preprocess.size))
        })?);
    }
    let (width, height) = raster.upright();
    Ok(ModelInputs { pixels, width, height })
}

impl Scratch {
    fn shrink(&mut self) {
        for buffer in [&mut self.pixels, &mut self.clean] {
            if buffer.capacity() > RETAINED_BYTES {
                *buffer = Vec::new();
            }
        }
        self.workspace.shrink(RETAINED_BYTES);
    }
}
