//! Encoded images to model inputs: decode and resize.
//!
//! [`prepare`] turns the bytes of an image file into the pixels of one model, [`prepare_all`] into those of several, and
//! [`prepare_rgb`] does the same for an image that is already decoded. [`prepare_sample`] is the stage of a run:
//! `Sample -> PreparedSample`. All are pure computation without I/O and take milliseconds, so that they must not run on a tokio
//! thread. An image that cannot be prepared is an error with a reason, and the caller counts it as one reject.
//!
//! The pixels are those of open_clip's evaluation transform over Pillow's `convert("RGB")`: alpha is dropped (not composited),
//! palettes and CMYK become RGB, grey is replicated, and 16-bit samples keep their high byte (Pillow clips 16-bit grey to 255
//! instead, which turns it white). EXIF orientation is applied in addition, which Pillow leaves to its caller.
//!
//! Every thread keeps its buffers between images; see [`RETAINED_BYTES`].
//!
//! # Examples
//! ```
//! use recaption_image::{Interpolation, Preprocess, ResizeMode, prepare_rgb};
//!
//! let preprocess =
//!     Preprocess { size: 224, resize_mode: ResizeMode::Shortest, interpolation: Interpolation::Bicubic };
//! let red = [255, 0, 0].repeat(640 * 480);
//! let pixels = prepare_rgb(640, 480, &red, &preprocess)?;
//! assert_eq!(pixels.as_slice().len(), 224 * 224 * 3);
//! # Ok::<(), recaption_image::DecodeError>(())
//! ```

#![forbid(unsafe_code)]

mod budget;
mod buffer;
mod containers;
mod error;
mod exact;
mod geometry;
mod jpeg;
mod options;
mod pixels;
mod prepare;
mod raster;
mod repair;
mod resample;
mod sample;
mod sniff;
#[cfg(test)]
mod tests;

pub use error::DecodeError;
pub use geometry::Region;
pub use options::{
    DEFAULT_BUDGET_BYTES, DEFAULT_EXIF_ORIENTATION, DEFAULT_MAX_PIXELS, DEFAULT_MIN_SIDE, DecodeOptions,
};
pub use pixels::{ModelInputs, Pixels, Prepared};
pub use prepare::{RETAINED_BYTES, panics, prepare, prepare_all, prepare_region, prepare_rgb};
pub use recaption_schemas::{Interpolation, Preprocess, ResizeMode};
pub use sample::{ModelPixels, PrepareSettings, decode_for_models, prepare_sample, reason_of};

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
