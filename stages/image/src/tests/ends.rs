//! Complete images that lack only their end chunk, or claim missing chunks.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};

use super::*;

fn small(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let preprocess = Preprocess { size: 32, ..SHORTEST_224 };
    prepare_default(bytes, &preprocess).map(|prepared| prepared.pixels.into_vec())
}

fn picture() -> DynamicImage {
    let noise = |x: u32, y: u32| [(x * 7 + y * 13) as u8, (x * y) as u8, (x ^ y) as u8];
    DynamicImage::ImageRgb8(RgbImage::from_fn(67, 41, |x, y| image::Rgb(noise(x, y))))
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture().write_to(&mut file, format).expect("pictures can be encoded");
    file.into_inner()
}

#[test]
fn png_without_its_end_chunk_is_complete() {
    let whole = encoded(ImageFormat::Png);
    let pixels = small(&whole).expect("a PNG");
    let end = whole.len() - 12;
    let text = [&12_u32.to_be_bytes()[..], b"tEXt", b"Comment"].concat();
    for (what, bytes) in [
        ("no end chunk", whole[..end].to_vec()),
        ("a cut end chunk", whole[..end + 5].to_vec()),
        ("a broken end chunk", [&whole[..end + 8], &[1, 2, 3, 4]].concat()),
        ("a cut chunk of text instead", [&whole[..end], &text].concat()),
        ("bytes behind", [&whole, &b"junk"[..]].concat()),
        ("no checksum of the pixels", whole[..end - 4].to_vec()),
    ] {
        assert_eq!(small(&bytes).as_ref(), Ok(&pixels), "{what}");
    }
    for cut in [end - 40, end / 2, 60] {
        let error = small(&whole[..cut]).expect_err("pixels are missing");
        assert!(matches!(error, DecodeError::Corrupt { format: "PNG", .. }), "{cut}: {error}");
    }
}

#[test]
fn webp_may_claim_missing_chunks() {
    let plain = encoded(ImageFormat::WebP);
    let pixels = small(&plain).expect("a WebP");
    let extended = |flags: u8| {
        let mut header = vec![flags, 0, 0, 0];
        header.extend_from_slice(&66_u32.to_le_bytes()[..3]);
        header.extend_from_slice(&40_u32.to_le_bytes()[..3]);
        let chunks = [&b"VP8X"[..], &10_u32.to_le_bytes(), &header, &plain[12..]].concat();
        [&b"RIFF"[..], &(chunks.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunks].concat()
    };
    // Animation, XMP, EXIF, alpha, ICC, all of them, none.
    for flags in [0x02, 0x04, 0x08, 0x10, 0x20, 0x3E, 0] {
        assert_eq!(small(&extended(flags)).as_ref(), Ok(&pixels), "{flags:#x}");
    }
}
