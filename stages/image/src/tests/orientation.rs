//! Turning the small result equals turning the whole image first, and cropping before resizing equals cropping after.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::super::raster::{Channels, Raster};
use super::super::resample::{Workspace, resample};
use super::*;

/// All orientations.
const ORIENTATIONS: std::ops::RangeInclusive<u8> = 1..=8;
const FILL: [u8; 3] = [9, 80, 200];

/// Returns an image without symmetry: gradients with hard edges.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let edge = if (x / 5 + y / 3) % 2 == 0 { 255 } else { 0 };
        image::Rgb([(x * 255 / width) as u8, edge, (y * 255 / height) as u8])
    })
}

fn resampled(picture: &RgbImage, orientation: Orientation, preprocess: &Preprocess) -> (Vec<u8>, u32, u32) {
    let mut raster =
        Raster { width: picture.width(), height: picture.height(), channels: Channels::Rgb, orientation };
    let mut pixels = picture.as_raw().clone();
    raster.widen(&mut pixels);
    let square = resample(&mut Workspace::default(), &raster, &pixels, preprocess, None).unwrap();
    let (width, height) = raster.upright();
    (square, width, height)
}

#[test]
fn turning_the_result_equals_turning_the_image() {
    let modes = [ResizeMode::Shortest, ResizeMode::Longest { fill: FILL }, ResizeMode::Squash];
    // Odd and even remainders of the centre crop and of the padding, shrinking and growing, one pixel, a line.
    for (width, height) in [(97, 64), (64, 97), (101, 63), (50, 31), (20, 33), (1, 1), (300, 2), (2, 301)] {
        for (mode, size) in modes.iter().flat_map(|mode| [(mode, 47), (mode, 48)]) {
            for exif in ORIENTATIONS {
                let orientation = Orientation::from_exif(exif).unwrap();
                let stored = picture(width, height);
                let mut upright = DynamicImage::ImageRgb8(stored.clone());
                upright.apply_orientation(orientation);
                let preprocess =
                    Preprocess { size, resize_mode: *mode, interpolation: Interpolation::Bicubic };
                let (fast, w, h) = resampled(&stored, orientation, &preprocess);
                let (slow, ..) = resampled(&upright.to_rgb8(), Orientation::NoTransforms, &preprocess);
                assert_eq!((w, h), (upright.width(), upright.height()));
                let (max, _) = difference(&fast, &slow);
                assert!(max <= 1, "{width}x{height} exif {exif} {preprocess:?}: {max}");
            }
        }
    }
}

/// Resizes the whole image along the rows, then along the columns.
fn resized_whole(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    let source = ImageRef::new(picture.width(), picture.height(), picture.as_raw(), PixelType::U8x3).unwrap();
    let mut rows = Image::new(width, picture.height(), PixelType::U8x3);
    Resizer::new().resize(&source, &mut rows, &options).unwrap();
    let mut both = Image::new(width, height, PixelType::U8x3);
    Resizer::new().resize(&rows, &mut both, &options).unwrap();
    RgbImage::from_raw(width, height, both.into_vec()).unwrap()
}

#[test]
fn cropping_before_equals_cropping_after() {
    let preprocess =
        Preprocess { size: 40, resize_mode: ResizeMode::Shortest, interpolation: Interpolation::Bicubic };
    // (stored size, size after resizing, first pixel that is kept): torchvision's numbers, computed by hand.
    let cases = [
        ((200, 100), (80, 40), (20, 0)),
        ((101, 100), (40, 40), (0, 0)),
        ((103, 100), (41, 40), (0, 0)), // round(0.5) is 0
        ((108, 100), (43, 40), (2, 0)), // round(1.5) is 2
        ((100, 113), (40, 45), (0, 2)), // round(2.5) is 2
        ((30, 333), (40, 444), (0, 202)),
        ((400, 3), (5333, 40), (2646, 0)), // round(2646.5) is 2646
    ];
    for ((width, height), (w, h), (left, top)) in cases {
        let whole = resized_whole(&picture(width, height), w, h);
        let expected = image::imageops::crop_imm(&whole, left, top, 40, 40).to_image();
        let (found, ..) = resampled(&picture(width, height), Orientation::NoTransforms, &preprocess);
        let (max, _) = difference(&found, expected.as_raw());
        assert!(max <= 1, "{width}x{height}: {max}");
    }
}
