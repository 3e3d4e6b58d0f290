//! Any bytes as an image: a square of the model's size or an error, within the limit of pixels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recaption_stages::{
    decode::{DecodeOptions, prepare},
    schemas::{Interpolation, Preprocess, ResizeMode},
};

fuzz_target!(|data: &[u8]| {
    let options = DecodeOptions { max_pixels: 1 << 20, ..DecodeOptions::default() };
    for resize_mode in [ResizeMode::Shortest, ResizeMode::Longest { fill: [0; 3] }, ResizeMode::Squash] {
        let wanted = Preprocess { size: 32, resize_mode, interpolation: Interpolation::Bicubic };
        if let Ok(image) = prepare(data, Some("jpg"), &wanted, &options) {
            assert_eq!(image.pixels.as_slice().len(), 32 * 32 * 3);
            assert!(u64::from(image.width) * u64::from(image.height) <= options.max_pixels);
        }
    }
});
