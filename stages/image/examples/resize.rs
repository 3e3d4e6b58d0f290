//! Decodes an image file and resizes it as a CLIP model sees it.
//!
//! ```text
//! cargo run --release -p recaption-image --example resize -- photo.jpg 224 resized.ppm
//! ```
//!
//! The result is a PPM file: `[S, S, 3]` u8 RGB after a short header.

use std::{error::Error, path::Path, process::ExitCode};

use recaption_image::{DecodeOptions, Interpolation, Preprocess, ResizeMode, prepare};

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("resize: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [input, size, output] = arguments else { return Err("usage: resize IMAGE SIZE OUTPUT.ppm".into()) };
    let preprocess = Preprocess {
        size: size.parse()?,
        resize_mode: ResizeMode::Shortest,
        interpolation: Interpolation::Bicubic,
    };
    let suffix = Path::new(input).extension().and_then(|suffix| suffix.to_str());
    let prepared = prepare(&std::fs::read(input)?, suffix, &preprocess, &DecodeOptions::default())?;
    let header = format!("P6\n{0} {0}\n255\n", preprocess.size);
    std::fs::write(output, [header.as_bytes(), prepared.pixels.as_slice()].concat())?;
    let (width, height) = (prepared.width, prepared.height);
    println!("{input}: {width} x {height} -> {output}: {0} x {0}", preprocess.size);
    Ok(())
}
