//! One image -> the pixels of one or several models.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use image::metadata::Orientation;
use recaption_messages::ImageFormat;
use recaption_schemas::Preprocess;

use crate::{
    buffer::grown,
    containers,
    error::DecodeError,
    geometry::Region,
    jpeg,
    options::DecodeOptions,
    pixels::{ModelInputs, Pixels, Prepared},
    raster::{Channels, Raster},
    resample::{Workspace, resample},
    sniff,
};

/// Largest buffer that a thread keeps for its next image, bytes: 22 megapixels of RGB. Larger ones are freed at once, so that one
/// giant image does not occupy memory on every thread for the rest of the run.
pub const RETAINED_BYTES: usize = 64 << 20;

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// The decoded image as stored.
    pixels: Vec<u8>,
    /// A copy of a JPEG for its decoder.
    clean: Vec<u8>,
    workspace: Workspace,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Decodes an image file and resizes it for a model.
///
/// Decodes JPEG, PNG (an APNG's default image), WebP (the first frame), GIF (the first frame), BMP and TIFF (the first
/// page), recognised by content. `suffix` is the member's suffix, without or with its dot; it only shapes messages.
/// The result is `[S, S, 3]` u8 RGB with S = `preprocess.size`, and the stored size after EXIF orientation.
///
/// # Errors
/// - [`DecodeError::Unsupported`]: another format, or an unsupported variant of these.
/// - [`DecodeError::Corrupt`]: an empty, damaged or truncated file. A JPEG or PNG that lacks only its end, or is followed by
///   other bytes, is complete.
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

/// Decodes an image file and resizes a region of it, which is stretched to the square whatever its shape: augmentation in
/// training.
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

/// Decodes an image file once and resizes it for several models. The result has one square for every element of `wanted`, in its
/// order.
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

/// Resizes an image that is already decoded for a model. `rgb` is `[height, width, 3]` u8, row-major. No limit is checked: the
/// caller holds the image already.
///
/// # Errors
/// [`DecodeError::Corrupt`] when `rgb` has another length, or is empty.
pub fn prepare_rgb(
    width: u32,
    height: u32,
    rgb: &[u8],
    preprocess: &Preprocess,
) -> Result<Pixels, DecodeError> {
    if rgb.is_empty() || rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
        let what = format!("{} bytes are not {width} x {height} RGB pixels", rgb.len());
        return Err(DecodeError::corrupt("", what));
    }
    let mut raster =
        Raster { width, height, channels: Channels::Rgb, orientation: Orientation::NoTransforms };
    SCRATCH.with_borrow_mut(|scratch| {
        grown(&mut scratch.pixels, rgb.len()).copy_from_slice(rgb);
        let pixels = resize_all(scratch, &mut raster, std::slice::from_ref(preprocess), None);
        scratch.shrink();
        let none = || DecodeError::corrupt("", "yields no pixels");
        pixels?.pop().ok_or_else(none)
    })
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

/// Number of decoders that panicked.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Returns how many decoders panicked in this process. Each cost one sample, and is a defect of a library.
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
        raster.orientation = Orientation::NoTransforms;
    }
    let pixels = resize_all(scratch, &mut raster, wanted, region)?;
    let (width, height) = raster.upright();
    Ok(ModelInputs { pixels, width, height })
}

/// Resizes the image in `scratch.pixels`, for every element of `wanted`.
fn resize_all(
    scratch: &mut Scratch,
    raster: &mut Raster,
    wanted: &[Preprocess],
    region: Option<&Region>,
) -> Result<Vec<Pixels>, DecodeError> {
    raster.widen(&mut scratch.pixels);
    let data = &scratch.pixels[..raster.len()];
    let square = |preprocess: &Preprocess| {
        let square = resample(&mut scratch.workspace, raster, data, preprocess, region)?;
        Pixels::new(preprocess.size, square).ok_or_else(|| {
            DecodeError::corrupt("", format!("cannot become {0} x {0} pixels", preprocess.size))
        })
    };
    wanted.iter().map(square).collect()
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
