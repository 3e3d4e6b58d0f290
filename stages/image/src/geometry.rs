//! Crop and resize geometry: the arithmetic of torchvision and open_clip, including the rounding.
//!
//! It is computed for the upright image and then mapped to the stored one, so that only the cropped region is resized, before it is
//! turned upright. Source: torchvision `Resize` and `CenterCrop`, open_clip 3.3.0
//! `transform.py` (`ResizeKeepRatio`, `center_crop_or_pad`).

use image::metadata::Orientation;

use recaption_schemas::ResizeMode;

/// Longest axis that a region may imply, pixels: smaller regions are widened.
const MAX_REGION_AXIS: f64 = 1e6;

/// A region of an upright image, as fractions of its sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Left edge, [0, 1 - width].
    pub left: f64,
    /// Upper edge, [0, 1 - height].
    pub top: f64,
    /// Width, (0, 1].
    pub width: f64,
    /// Height, (0, 1].
    pub height: f64,
}

/// One axis of the plan: the source axis is resized to `resized`, of which `length` pixels from `offset` on are placed at `pad` on
/// the model's axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// Length after resizing, in pixels, at least 1.
    pub(crate) resized: u64,
    /// First resized pixel that is kept.
    pub(crate) offset: u64,
    /// Number of resized pixels that are kept, 1..=S.
    pub(crate) length: u32,
    /// Where they start on the model's axis.
    pub(crate) pad: u32,
}

impl Axis {
    fn new(resized: u64, size: u32) -> Self {
        let size64 = u64::from(size);
        if resized >= size64 {
            Self { resized, offset: half_to_even(resized - size64), length: size, pad: 0 }
        } else {
            // The odd pixel of padding goes to the right and to the bottom.
            let length = resized as u32; // below `size`, a u32
            Self { resized, offset: 0, length, pad: (size - length) / 2 }
        }
    }

    /// Returns the kept region in source pixels, as (start, length).
    pub(crate) fn source_box(&self, source: u32) -> (f64, f64) {
        let scale = f64::from(source) / self.resized as f64;
        let start = self.offset as f64 * scale;
        let length = f64::from(self.length) * scale;
        (start, length.min(f64::from(source) - start))
    }

    /// Returns the axis counted from its other end.
    fn reversed(self) -> Self {
        Self { offset: self.resized - self.offset - u64::from(self.length), ..self }
    }
}

/// The plan for both axes of the upright image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
}

impl Plan {
    /// Returns the plan for an upright image of `width` x `height` (each at least 1).
    pub(crate) fn new(width: u32, height: u32, size: u32, mode: ResizeMode) -> Self {
        let (w, h) = match mode {
            ResizeMode::Shortest => shortest(width, height, size),
            ResizeMode::Longest { .. } => longest(width, height, size),
            ResizeMode::Squash => (u64::from(size), u64::from(size)),
        };
        Self { x: Axis::new(w, size), y: Axis::new(h, size) }
    }

    /// Returns the plan for a region of an upright image, whatever its aspect ratio.
    pub(crate) fn of_region(size: u32, region: &Region) -> Self {
        let axis = |start: f64, share: f64| {
            let side = f64::from(size);
            // The axis is scaled so that the region has `size`.
            let share = share.clamp(side / MAX_REGION_AXIS, 1.0);
            let resized = ((side / share).round() as u64).max(u64::from(size));
            let start = start.clamp(0.0, 1.0 - share) * resized as f64;
            let offset = (start.round() as u64).min(resized - u64::from(size));
            Axis { resized, offset, length: size, pad: 0 }
        };
        Self { x: axis(region.left, region.width), y: axis(region.top, region.height) }
    }

    /// Returns the axes of the stored image, (x, y).
    pub(crate) fn stored(&self, turn: Turn) -> (Axis, Axis) {
        let (x, y) = if turn.transpose { (self.y, self.x) } else { (self.x, self.y) };
        (if turn.flip_x { x.reversed() } else { x }, if turn.flip_y { y.reversed() } else { y })
    }
}

/// torchvision's `_compute_resized_output_size`: `int(size * long / short)`.
fn shortest(width: u32, height: u32, size: u32) -> (u64, u64) {
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    let scaled = u64::from(size) * long / short;
    if width <= height { (u64::from(size), scaled) } else { (scaled, u64::from(size)) }
}

/// open_clip's `ResizeKeepRatio(longest=1)`: Python's `round(side / ratio)`. Where that rounds to 0 (an image hundreds
/// of times longer than wide) Pillow raises an error; here one pixel is kept.
fn longest(width: u32, height: u32, size: u32) -> (u64, u64) {
    let size = f64::from(size);
    let ratio = (f64::from(height) / size).max(f64::from(width) / size);
    let scaled = |side: u32| ((f64::from(side) / ratio).round_ties_even() as u64).max(1);
    (scaled(width), scaled(height))
}

/// Python's `int(round(n / 2.0))`.
fn half_to_even(n: u64) -> u64 {
    let half = n / 2;
    if n % 2 == 1 { half + half % 2 } else { half }
}

/// An EXIF orientation, as the steps from the upright image to the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Stored x is upright y.
    pub(crate) transpose: bool,
    /// Stored x runs against its upright axis.
    pub(crate) flip_x: bool,
    /// Stored y runs against its upright axis.
    pub(crate) flip_y: bool,
}

impl Turn {
    /// Returns the upright size of a stored image.
    pub(crate) fn upright(&self, width: u32, height: u32) -> (u32, u32) {
        if self.transpose { (height, width) } else { (width, height) }
    }
}

impl From<Orientation> for Turn {
    fn from(orientation: Orientation) -> Self {
        let (transpose, flip_x, flip_y) = match orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::Rotate180 => (false, true, true),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate90 => (true, false, true),
            Orientation::Rotate270FlipH => (true, true, true),
            Orientation::Rotate270 => (true, true, false),
        };
        Self { transpose, flip_x, flip_y }
    }
}
