//! Any bytes as an image: a square of the model's size or an error, within the limit of pixels.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use recaption_image::{DecodeOptions, prepare};
use recaption_schemas::{Interpolation, Preprocess, ResizeMode};

/// Crates whose panics are known and reported (docs/src/upstream.md): they are caught, and cost one sample. libFuzzer would end at
/// them, and find nothing else.
const KNOWN: [&str; 1] = ["/image-webp-0.2.4/"];

static HOOK: LazyLock<()> = LazyLock::new(|| {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let known = panic.location().is_some_and(|at| KNOWN.iter().any(|name| at.file().contains(name)));
        if !known {
            abort(panic);
        }
    }));
});

fuzz_target!(|data: &[u8]| {
    LazyLock::force(&HOOK);
    let options = DecodeOptions { max_pixels: 1 << 20, ..DecodeOptions::default() };
    for resize_mode in [ResizeMode::Shortest, ResizeMode::Longest { fill: [0; 3] }, ResizeMode::Squash] {
        let wanted = Preprocess { size: 32, resize_mode, interpolation: Interpolation::Bicubic };
        if let Ok(image) = prepare(data, Some("jpg"), &wanted, &options) {
            assert_eq!(image.pixels.as_slice().len(), 32 * 32 * 3);
            assert!(u64::from(image.width) * u64::from(image.height) <= options.max_pixels);
        }
    }
});
