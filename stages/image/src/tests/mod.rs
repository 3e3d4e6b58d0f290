//! Compared with Pillow and open_clip: see `tests/data/preprocess` for the origin of the expected pixels.

mod ends;
mod hostile;
mod jpeg;
mod orientation;
mod sampling;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;

const SHORTEST_224: Preprocess =
    Preprocess { size: 224, resize_mode: ResizeMode::Shortest, interpolation: Interpolation::Bicubic };
/// Lossy formats, whose decoders differ slightly from Pillow's.
const LOSSY: [&str; 3] = [".jpg", "coffee_lossy.webp", "alpha.webp"];
const LOSSY_MEAN: f64 = 0.6;
const LOSSY_MAX: u8 = 8;
const LOSSLESS_MAX: u8 = 1;

fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/preprocess")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = data_dir().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn suffix(name: &str) -> Option<&str> {
    Path::new(name).extension().and_then(|suffix| suffix.to_str())
}

/// Returns the image files of a folder of fixtures, by name.
fn images_in(folder: &str) -> Vec<String> {
    let known = |name: &String| {
        suffix(name).is_some_and(|s| ["jpg", "png", "webp", "gif", "bmp", "tiff"].contains(&s))
    };
    let entries = std::fs::read_dir(data_dir().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(known).map(|name| format!("{folder}{name}")).collect();
    names.sort();
    names
}

fn prepare_default(bytes: &[u8], preprocess: &Preprocess) -> Result<Prepared, DecodeError> {
    prepare(bytes, None, preprocess, &DecodeOptions::default())
}

/// Returns the largest and the mean absolute difference.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let each = || a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    (each().max().unwrap_or(0), each().map(f64::from).sum::<f64>() / a.len() as f64)
}

fn assert_matches(name: &str, case: &str, preprocess: &Preprocess, expected: &[u8]) {
    let bytes = fixture(name);
    let prepared = prepare(&bytes, suffix(name), preprocess, &DecodeOptions::default())
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    let (max, mean) = difference(prepared.pixels.as_slice(), expected);
    let lossy = LOSSY.iter().any(|end| name.ends_with(end));
    let lossless_max = if preprocess.resize_mode == ResizeMode::Squash { 0 } else { LOSSLESS_MAX };
    let within = if lossy { max <= LOSSY_MAX && mean <= LOSSY_MEAN } else { max <= lossless_max };
    assert!(within, "{case}: max {max}, mean {mean:.4}");
}

#[test]
fn pixels_equal_open_clip() {
    let raw = fixture("preprocess.safetensors");
    let goldens = SafeTensors::deserialize(&raw).unwrap();
    assert_eq!(goldens.len(), images_in("").len());
    for name in images_in("") {
        assert_matches(&name, &name, &SHORTEST_224, goldens.tensor(&name).unwrap().data());
    }
}

#[test]
fn other_formats_and_modes_equal_open_clip() {
    let raw = fixture("extra/extra.safetensors");
    let goldens = SafeTensors::deserialize(&raw).unwrap();
    for (case, golden) in goldens.iter() {
        let [name, mode, interpolation] = case.split('/').collect::<Vec<_>>().try_into().unwrap();
        let preprocess = Preprocess {
            size: 48,
            resize_mode: match mode {
                "shortest" => ResizeMode::Shortest,
                "longest" => ResizeMode::Longest { fill: [77; 3] },
                "squash" => ResizeMode::Squash,
                other => panic!("{other}"),
            },
            interpolation: match interpolation {
                "bicubic" => Interpolation::Bicubic,
                "bilinear" => Interpolation::Bilinear,
                other => panic!("{other}"),
            },
        };
        assert_matches(&format!("extra/{name}"), case, &preprocess, golden.data());
    }
}

#[test]
fn sizes_are_those_of_the_upright_image() {
    let size = |name: &str| prepare_default(&fixture(name), &SHORTEST_224).map(|p| (p.width, p.height));
    assert_eq!(size("coffee_tall.jpg"), Ok((180, 900)));
    assert_eq!(size("extra/wide.png"), Ok((4000, 3)));
    for name in ["extra/exif6.jpg", "extra/exif6.png", "extra/exif6.webp", "extra/exif6.tiff"] {
        assert_eq!(size(name), Ok((50, 75)), "{name}");
        let as_stored = DecodeOptions { exif_orientation: false, ..DecodeOptions::default() };
        let stored = prepare(&fixture(name), None, &SHORTEST_224, &as_stored).map(|p| (p.width, p.height));
        assert_eq!(stored, Ok((75, 50)), "{name}");
    }
}

#[test]
fn sixteen_bit_samples_keep_their_high_byte() {
    let squash =
        Preprocess { size: 50, resize_mode: ResizeMode::Squash, interpolation: Interpolation::Bilinear };
    let prepared = prepare_default(&fixture("extra/grey16.png"), &squash).unwrap();
    let distinct: std::collections::HashSet<u8> = prepared.pixels.as_slice().iter().copied().collect();
    assert!(distinct.len() > 100, "{} levels: clipped", distinct.len());
}

#[test]
fn pixels_have_exactly_the_announced_length() {
    assert!(Pixels::new(2, vec![0; 12]).is_some());
    assert!(Pixels::new(2, vec![0; 11]).is_none());
    assert!(Pixels::new(0, vec![]).is_none());
}

#[test]
fn format_is_detected_by_content() {
    let reject =
        |bytes: &[u8], suffix| prepare(bytes, suffix, &SHORTEST_224, &DecodeOptions::default()).unwrap_err();
    let message = |bytes: &[u8], suffix| reject(bytes, suffix).to_string();
    let unsupported = |name: &str| format!("{name} is not supported: {}", sniff::CONVERT);
    assert_eq!(message(b"", Some("jpg")), "zero bytes");
    assert_eq!(message(b"\0\0\0\x1cftypheic\0\0\0\0", Some("jpg")), unsupported("HEIC"));
    assert_eq!(message(b"\0\0\0\x1cftypavif\0\0\0\0", None), unsupported("AVIF"));
    assert_eq!(message(b"\xff\x0a\xfa\x7f", Some("jxl")), unsupported("JPEG XL"));
    assert_eq!(message(b"\0\0\0\x0cjP  \r\n\x87\n", None), unsupported("JPEG 2000"));
    assert_eq!(message(b"<?xml version=\"1.0\"?>\n<svg xmlns=''/>", Some("svg")), unsupported("SVG"));
    assert_eq!(message(b"%PDF-1.7", Some("png")), unsupported("PDF"));
    assert_eq!(message(b"8BPS\0\x01", None), unsupported("PSD"));
    assert_eq!(message(b"\0\0\x01\0\x01\0", Some("ico")), unsupported("ICO"));
    assert!(matches!(reject(b"what is this", Some("JPG")), DecodeError::Corrupt { .. }));
    assert!(matches!(reject(b"what is this", Some("npy")), DecodeError::Unsupported { .. }));
    assert!(matches!(reject(b"what is this", None), DecodeError::Unsupported { .. }));
    assert_eq!(
        message(b"<!DOCTYPE html><html>404", Some("jpg")),
        "named .jpg, but holds a web page: fetch the image itself (starts with 3c 21 44 4f 43 54 59 50)"
    );
    let png = fixture("cat_small.png");
    assert!(prepare(&png, Some("jpg"), &SHORTEST_224, &DecodeOptions::default()).is_ok());
}

#[test]
fn several_models_share_one_decode() {
    let wanted = [
        SHORTEST_224,
        Preprocess { size: 64, resize_mode: ResizeMode::Squash, interpolation: Interpolation::Bilinear },
        SHORTEST_224,
    ];
    let options = DecodeOptions::default();
    for name in ["astronaut_420.jpg", "coffee_tall.jpg", "cat_alpha.png"] {
        let bytes = fixture(name);
        let all = prepare_all(&bytes, None, &wanted, &options).unwrap();
        for (preprocess, pixels) in wanted.iter().zip(&all.pixels) {
            let alone = prepare(&bytes, None, preprocess, &options).unwrap();
            assert!(alone.pixels == *pixels, "{name} {preprocess:?}");
            assert_eq!((alone.width, alone.height), (all.width, all.height));
        }
        assert_eq!(all.pixels.len(), wanted.len());
    }
}

#[test]
fn decoded_pixels_are_resized_like_files() {
    let preprocess =
        Preprocess { size: 32, resize_mode: ResizeMode::Shortest, interpolation: Interpolation::Bicubic };
    let file = fixture("cat_small.png");
    let decoded = image::ImageReader::new(std::io::Cursor::new(&file)).with_guessed_format().unwrap();
    let rgb = decoded.decode().unwrap().into_rgb8();
    let pixels = prepare_rgb(rgb.width(), rgb.height(), rgb.as_raw(), &preprocess).unwrap();
    assert_eq!(pixels, prepare_default(&file, &preprocess).unwrap().pixels);
    for (width, height, bytes) in [(0, 0, 0), (2, 2, 11), (2, 2, 13), (u32::MAX, u32::MAX, 3)] {
        let error = prepare_rgb(width, height, &vec![0; bytes], &preprocess).unwrap_err();
        assert!(error.to_string().contains("RGB pixels"), "{error}");
    }
}
