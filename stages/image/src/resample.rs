//! The stored raster -> the model's square: crop and resize in one pass per axis, then turn the small result.
//!
//! The filters of fast_image_resize are Pillow's. As in Pillow, they are applied to the upright rows first and to the columns
//! second: both passes round and clamp to u8, so that their order matters. (Squashing follows Pillow 13.0, which reverses it if the
//! height shrinks much more than the width; older versions never do.) Pixels outside the cropped box contribute where the filter reaches
//! them, as if the whole image had been resized before the crop.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x4};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use super::buffer::grown;
use super::error::DecodeError;
use super::exact;
use super::geometry::{Axis, Plan, Region, Turn};
use super::raster::{Channels, Raster};
use recaption_schemas::{Interpolation, Preprocess, ResizeMode};

/// Buffers that are reused between images.
#[derive(Default)]
pub(super) struct Workspace {
    resizer: Resizer,
    /// After the first pass.
    half: Vec<u8>,
    /// After the second pass, at the model's size, as stored.
    small: Vec<u8>,
}

impl Workspace {
    /// Frees buffers of more than `limit` bytes.
    pub(crate) fn shrink(&mut self, limit: usize) {
        for buffer in [&mut self.half, &mut self.small] {
            if buffer.capacity() > limit {
                *buffer = Vec::new();
            }
        }
        if self.resizer.size_of_internal_buffers() > limit {
            self.resizer.reset_internal_buffers();
        }
    }
}

/// One axis of the crop box, in source pixels.
#[derive(Clone, Copy)]
struct Span {
    start: f64,
    length: f64,
}

impl Span {
    /// Returns the span relative to the whole pixel `from`, clamped to end at `to`.
    fn after(self, from: u32, to: u32) -> Self {
        let start = self.start - f64::from(from);
        Self { start, length: self.length.min(f64::from(to - from) - start) }
    }
}

/// Returns the span of the whole pixels `from..to`.
fn whole(from: u32, to: u32) -> Span {
    Span { start: f64::from(from), length: f64::from(to - from) }
}

/// Crops, resizes and turns `data` (`[raster.height, raster.width, channels]` u8); a `region` becomes the whole square.
///
/// Returns `[S, S, 3]` u8 RGB, row-major.
///
/// # Errors
/// Never, for a raster with at least one pixel and buffers of the announced length.
pub(super) fn resample(
    workspace: &mut Workspace,
    raster: &Raster,
    data: &[u8],
    preprocess: &Preprocess,
    region: Option<&Region>,
) -> Result<Vec<u8>, DecodeError> {
    let turn = Turn::from(raster.orientation);
    let (width, height) = raster.upright();
    let plan = match region {
        Some(region) => Plan::of_region(preprocess.size, region),
        None => Plan::new(width, height, preprocess.size, preprocess.resize_mode),
    };
    let (x, y) = plan.stored(turn);
    if region.is_none() && preprocess.resize_mode == ResizeMode::Squash {
        squash(workspace, raster, data, (x.length, y.length), turn, preprocess.interpolation);
    } else {
        resize(workspace, raster, data, (x, y), turn.transpose, preprocess.interpolation)?;
    }
    let fill = match preprocess.resize_mode {
        ResizeMode::Longest { fill } => fill,
        ResizeMode::Shortest | ResizeMode::Squash => [0; 3],
    };
    let small = Small { data: &workspace.small, width: x.length as usize, height: y.length as usize, turn };
    Ok(small.place(raster.channels, &plan, preprocess.size as usize, fill))
}

/// Resizes the whole raster to `(width, height)` exactly as Pillow does, into `workspace.small`.
fn squash(
    workspace: &mut Workspace,
    raster: &Raster,
    data: &[u8],
    (width, height): (u32, u32),
    turn: Turn,
    interpolation: Interpolation,
) {
    let rows = exact::taps(raster.width, width, interpolation, turn.flip_x);
    let columns = exact::taps(raster.height, height, interpolation, turn.flip_y);
    let (channels, from) = (raster.channels.count(), raster.width as usize);
    let (width, height) = (width as usize, height as usize);
    let small = grown(&mut workspace.small, width * height * channels);
    // Both passes round, so that their order matters; it is the upright image's.
    let upright = turn.upright(raster.width, raster.height);
    let rows_first = exact::rows_first(upright, turn.upright(width as u32, height as u32));
    if turn.transpose == rows_first {
        let half = grown(&mut workspace.half, from * height * channels);
        exact::along_columns(data, from * channels, &columns, half);
        exact::along_rows(half, (from, channels), &rows, small);
    } else {
        let half = grown(&mut workspace.half, width * raster.height as usize * channels);
        exact::along_rows(data, (from, channels), &rows, half);
        exact::along_columns(half, width * channels, &columns, small);
    }
}

/// Applies both passes, into `workspace.small`, `[y.length, x.length, channels]`.
fn resize(
    workspace: &mut Workspace,
    raster: &Raster,
    data: &[u8],
    (x, y): (Axis, Axis),
    columns_first: bool,
    interpolation: Interpolation,
) -> Result<(), DecodeError> {
    let (filter, support) = match interpolation {
        Interpolation::Bicubic => (FilterType::CatmullRom, 2.0),
        Interpolation::Bilinear => (FilterType::Bilinear, 1.0),
    };
    let (x_span, y_span) = (span(x, raster.width), span(y, raster.height));
    // The first pass covers the whole pixels that the filter of the second one reaches.
    let (half_width, half_height, first, second) = if columns_first {
        let (from, to) = reach(x_span, x.length, raster.width, support);
        (to - from, y.length, (whole(from, to), y_span), (x_span.after(from, to), whole(0, y.length)))
    } else {
        let (from, to) = reach(y_span, y.length, raster.height, support);
        (x.length, to - from, (x_span, whole(from, to)), (whole(0, x.length), y_span.after(from, to)))
    };
    let Workspace { resizer, half, small } = workspace;
    let channels = raster.channels.count();
    let half = grown(half, half_width as usize * half_height as usize * channels);
    let small = grown(small, x.length as usize * y.length as usize * channels);
    let source = (raster.width, raster.height, data);
    let between = (half_width, half_height, half);
    let target = (x.length, y.length, small);
    let (first, second) = (options(filter, first), options(filter, second));
    match raster.channels {
        Channels::Grey => passes::<U8>(resizer, source, between, target, [first, second]),
        Channels::Rgba => passes::<U8x4>(resizer, source, between, target, [first, second]),
        Channels::GreyAlpha | Channels::Rgb => Err(failed("its channels were not widened")),
    }
}

/// An image to read, `(width, height, data)`.
type Source<'a> = (u32, u32, &'a [u8]);
/// An image to write.
type Target<'a> = (u32, u32, &'a mut [u8]);

/// Applies both passes to pixels of one type. The library's own dispatch would be compiled for every type that it supports, which
/// takes the compiler minutes.
fn passes<P: PixelTrait>(
    resizer: &mut Resizer,
    (width, height, data): Source<'_>,
    (half_width, half_height, half): Target<'_>,
    (small_width, small_height, small): Target<'_>,
    [first, second]: [ResizeOptions; 2],
) -> Result<(), DecodeError> {
    let source = TypedImageRef::<P>::from_buffer(width, height, data).map_err(failed)?;
    let mut target = TypedImage::<P>::from_buffer(half_width, half_height, half).map_err(failed)?;
    resizer.resize_typed(&source, &mut target, &first).map_err(failed)?;
    let source = TypedImageRef::<P>::from_buffer(half_width, half_height, half).map_err(failed)?;
    let mut target = TypedImage::<P>::from_buffer(small_width, small_height, small).map_err(failed)?;
    resizer.resize_typed(&source, &mut target, &second).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::corrupt("", format!("could not be resized ({error})"))
}

fn options(filter: FilterType, (x, y): (Span, Span)) -> ResizeOptions {
    ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(x.start, y.start, x.length, y.length)
        .use_alpha(false)
}

fn span(axis: Axis, source: u32) -> Span {
    let (start, length) = axis.source_box(source);
    Span { start, length }
}

/// Returns the source pixels `from..to` that a filter of `support` reaches from `span`, scaled to `length` pixels.
fn reach(span: Span, length: u32, source: u32, support: f64) -> (u32, u32) {
    let radius = support * (span.length / f64::from(length)).max(1.0) + 1.0;
    let from = (span.start - radius).floor().max(0.0) as u32;
    let to = (span.start + span.length + radius).ceil().min(f64::from(source)) as u32;
    (from.min(source - 1), to)
}

/// The resized image as stored, `[height, width, channels]`.
struct Small<'a> {
    data: &'a [u8],
    width: usize,
    height: usize,
    turn: Turn,
}

impl Small<'_> {
    /// Turns the image upright, converts it to RGB and places it on a square of `size` filled with `fill`.
    fn place(&self, channels: Channels, plan: &Plan, size: usize, fill: [u8; 3]) -> Vec<u8> {
        let (left, top) = (plan.x.pad as usize, plan.y.pad as usize);
        let (width, height) = (plan.x.length as usize, plan.y.length as usize);
        let mut square = Vec::with_capacity(size * size * 3);
        for row in 0..size {
            if row < top || row >= top + height {
                square.extend(std::iter::repeat_n(fill, size).flatten());
                continue;
            }
            square.extend(std::iter::repeat_n(fill, left).flatten());
            self.row(channels, row - top, width, &mut square);
            square.extend(std::iter::repeat_n(fill, size - left - width).flatten());
        }
        square
    }

    /// Appends the upright row `v` as RGB.
    fn row(&self, channels: Channels, v: usize, width: usize, square: &mut Vec<u8>) {
        let count = channels.count();
        // Stored coordinates of an upright pixel.
        let x_of = |x: usize| if self.turn.flip_x { self.width - 1 - x } else { x };
        let y_of = |y: usize| if self.turn.flip_y { self.height - 1 - y } else { y };
        for u in 0..width {
            let (x, y) = if self.turn.transpose { (x_of(v), y_of(u)) } else { (x_of(u), y_of(v)) };
            let pixel = &self.data[(y * self.width + x) * count..][..count];
            match channels {
                Channels::Grey | Channels::GreyAlpha => square.extend_from_slice(&[pixel[0]; 3]),
                Channels::Rgb | Channels::Rgba => square.extend_from_slice(&pixel[..3]),
            }
        }
    }
}
