//! Pixels of a scene: [`draw`].
//!
//! A pixel belongs to an object if the pixel's centre lies inside the outline; there is no antialiasing. Each
//! expression equals the Python reference generator's, in the same order and in `f64`, so that both give the same
//! pixels even where a centre lies on an edge. Don't simplify the arithmetic: `tests/data/scenes` fixes every pixel.

use std::f64::consts::PI;
use std::ops::Range;

use image::RgbImage;

use super::{
    scene::{Object, Scene},
    vocabulary::Shape,
};

/// Width and height of an image whose pixels are the unit of [`Size::radius`](super::Size::radius) and of
/// [`MAX_OFFSET`](super::MAX_OFFSET).
pub const REFERENCE_SIZE: u32 = 96;
/// Width of a grid cell, in pixels of a [`REFERENCE_SIZE`] image.
const CELL: i32 = 32;
/// Number of bytes of a pixel.
const CHANNELS: usize = 3;

/// Draws `scene` as RGB, `size` x `size` pixels.
///
/// # Panics
/// Panics if that many pixels do not fit in memory.
pub fn draw(scene: &Scene, size: u32) -> RgbImage {
    let mut image = RgbImage::new(size, size);
    draw_into(scene, &mut image);
    image
}

/// Draws `scene` over all of `image`, reusing its memory. The width sets the scale; an image that is not square
/// shows the scene's upper part, or background below it.
pub fn draw_into(scene: &Scene, image: &mut RgbImage) {
    let (width, height) = image.dimensions();
    let stride = width as usize * CHANNELS;
    if stride == 0 || height == 0 {
        return;
    }
    let pixels: &mut [u8] = image;
    let (first, rest) = pixels.split_at_mut(stride);
    fill(first, scene.background().rgb());
    rest.chunks_exact_mut(stride).for_each(|row| row.copy_from_slice(first));
    for object in scene.objects() {
        let canvas = Canvas { pixels, width, height };
        // One loop per shape, so that each is compiled with its own test inlined.
        match object.shape {
            Shape::Circle => canvas.paint(object, circle),
            Shape::Square => canvas.paint(object, square),
            Shape::Triangle => canvas.paint(object, triangle),
            Shape::Star => canvas.paint(object, star),
            Shape::Cross => canvas.paint(object, cross),
            Shape::Ring => canvas.paint(object, ring),
            Shape::Diamond => canvas.paint(object, diamond),
            Shape::Heart => canvas.paint(object, heart),
        }
    }
}

/// RGB pixels, u8 `[height, width, 3]`.
struct Canvas<'a> {
    pixels: &'a mut [u8],
    width: u32,
    height: u32,
}

impl Canvas<'_> {
    /// Paints the pixels of `object` whose centres are `inside` its outline.
    ///
    /// `inside` takes offsets from the object's middle in units of its radius, y downwards. No outline
    /// reaches past 1, so only the box around the object is looked at.
    fn paint(self, object: &Object, inside: impl Fn(f64, f64) -> bool) {
        let scale = f64::from(self.width) / f64::from(REFERENCE_SIZE);
        let middle =
            |cell: u8, offset: i8| f64::from(CELL / 2 + CELL * i32::from(cell) + i32::from(offset)) * scale;
        let (cx, cy) = (middle(object.col, object.dx), middle(object.row, object.dy));
        let r = f64::from(object.size.radius()) * scale;
        let (columns, rows) = (reach(cx, r, self.width), reach(cy, r, self.height));
        let xs: Vec<f64> = columns.clone().map(|x| (x as f64 + 0.5 - cx) / r).collect();
        let stride = self.width as usize * CHANNELS;
        for row in rows {
            let y = (row as f64 + 0.5 - cy) / r;
            let start = row * stride;
            let line = &mut self.pixels[start + columns.start * CHANNELS..start + columns.end * CHANNELS];
            // An outline may cross a row many times; runs of pixels inside are filled at once.
            let mut from = None;
            for (column, &x) in xs.iter().enumerate() {
                match (inside(x, y), from) {
                    (true, None) => from = Some(column),
                    (false, Some(start)) => {
                        fill(&mut line[start * CHANNELS..column * CHANNELS], object.colour.rgb());
                        from = None;
                    }
                    _ => {}
                }
            }
            if let Some(start) = from {
                fill(&mut line[start * CHANNELS..], object.colour.rgb());
            }
        }
    }
}

/// Returns the pixels of an axis of `length` pixels that lie within `r` of `middle`, and at least one more on either
/// side.
fn reach(middle: f64, r: f64, length: u32) -> Range<usize> {
    let clamp = |at: f64| at.clamp(0.0, f64::from(length)) as usize;
    clamp((middle - r).floor() - 1.0)..clamp((middle + r).ceil() + 1.0)
}

/// Sets whole pixels to one colour.
fn fill(pixels: &mut [u8], rgb: [u8; 3]) {
    pixels.as_chunks_mut::<CHANNELS>().0.fill(rgb);
}

fn circle(x: f64, y: f64) -> bool {
    x * x + y * y <= 1.0
}

fn square(x: f64, y: f64) -> bool {
    x.abs() <= 0.85 && y.abs() <= 0.85
}

fn triangle(x: f64, y: f64) -> bool {
    y <= 0.85 && y >= 2.0 * x.abs() - 0.95
}

fn cross(x: f64, y: f64) -> bool {
    (x.abs() <= 0.32 || y.abs() <= 0.32) && x.abs() <= 1.0 && y.abs() <= 1.0
}

fn ring(x: f64, y: f64) -> bool {
    let r2 = x * x + y * y;
    (0.3..=1.0).contains(&r2)
}

fn diamond(x: f64, y: f64) -> bool {
    x.abs() + y.abs() <= 1.0
}

fn heart(x: f64, y: f64) -> bool {
    let (u, v) = (x * 1.25, -y * 1.25 + 0.15);
    let q = u * u + v * v - 1.0;
    q * q * q - u * u * v * v * v <= 0.0
}

/// A star of five points: two radii, ten edges folded into one tenth of the circle.
fn star(x: f64, y: f64) -> bool {
    /// Distance from the middle to the inner corners; the outer ones are at 1.
    const INNER: f64 = 0.45;
    /// The square of a distance within which all is inside; the edges' nearest is 0.384.
    const SURELY_INSIDE: f64 = 0.14;
    /// The square of a distance beyond which all is outside.
    const SURELY_OUTSIDE: f64 = 1.01;

    let r2 = x * x + y * y;
    if !(SURELY_INSIDE..=SURELY_OUTSIDE).contains(&r2) {
        return r2 < SURELY_INSIDE;
    }
    let k = PI / 5.0;
    let a = (python_modulo(x.atan2(-y) + k, 2.0 * k) - k).abs();
    let rr = r2.sqrt();
    let (px, py) = (rr * a.cos(), rr * a.sin());
    let (ox, oy, ix, iy) = (1.0, 0.0, INNER * k.cos(), INNER * k.sin());
    (ix - ox) * (py - oy) - (iy - oy) * (px - ox) >= 0.0
}

/// Computes `a % b` for a positive `b` as Python and numpy define it: at least 0, less than `b`.
fn python_modulo(a: f64, b: f64) -> f64 {
    let remainder = a % b;
    if remainder < 0.0 { remainder + b } else { remainder }
}
