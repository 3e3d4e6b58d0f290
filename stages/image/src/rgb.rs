//! Images that are decoded already.

use image::metadata::Orientation;
use recaption_schemas::Preprocess;

use super::error::DecodeError;
use super::pixels::Pixels;
use super::raster::{Channels, Raster};
use super::resample::{Workspace, resample};

/// Resizes an upright u8 RGB image `[height, width, 3]`, row-major, to the model's size, with the pixels that
/// [`prepare`](super::prepare) yields for a file of the same image.
///
/// # Errors
/// [`DecodeError::Corrupt`] when a side is 0 or `rgb` does not hold `height * width * 3` bytes.
pub fn prepare_rgb(
    rgb: &[u8],
    (width, height): (u32, u32),
    preprocess: &Preprocess,
) -> Result<Pixels, DecodeError> {
    let expected = u64::from(width) * u64::from(height) * 3;
    if expected == 0 || rgb.len() as u64 != expected {
        return Err(DecodeError::corrupt(
            "",
            format!("{} bytes are not RGB pixels of {width} x {height}, which are {expected}", rgb.len()),
        ));
    }
    let mut raster =
        Raster { width, height, channels: Channels::Rgb, orientation: Orientation::NoTransforms };
    let mut pixels = rgb.to_vec();
    raster.widen(&mut pixels);
    let data = &pixels[..raster.len()];
    let square = resample(&mut Workspace::default(), &raster, data, preprocess, None)?;
    Pixels::new(preprocess.size, square)
        .ok_or_else(|| DecodeError::corrupt("", format!("cannot become {0} x {0} pixels", preprocess.size)))
}
