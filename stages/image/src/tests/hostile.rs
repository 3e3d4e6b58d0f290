//! Decompression bombs, truncated files and random mutations.

use std::time::{Duration, Instant};

use super::*;

/// Time limit of all random mutations together, and their number per file.
const FUZZ_TIME: Duration = Duration::from_secs(4);
const FUZZ_ROUNDS: usize = 60;
const FUZZ_SEED: u64 = 0x5EED;

fn small(bytes: &[u8]) -> Result<Prepared, DecodeError> {
    let preprocess = Preprocess { size: 16, ..SHORTEST_224 };
    prepare_default(bytes, &preprocess)
}

fn every_image() -> Vec<String> {
    [images_in(""), images_in("extra/")].concat()
}

fn patched(name: &str, at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = fixture(name);
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

/// A PNG's checksum.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn oversized_images_are_rejected_by_their_headers() {
    let jpeg = fixture("astronaut_420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let (le, be) = (60_000_u32.to_le_bytes(), 60_000_u32.to_be_bytes());
    let mut png = patched("cat_small.png", 16, &[be, be].concat());
    let sum = crc(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&sum);
    let giants = [
        patched("astronaut_420.jpg", frame + 5, &[be[2], be[3], be[2], be[3]]),
        png,
        patched("cat.gif", 6, &[le[0], le[1], le[0], le[1]]),
        patched("cat.bmp", 18, &[le, le].concat()),
    ];
    for giant in giants {
        let expected =
            DecodeError::TooManyPixels { width: 60_000, height: 60_000, limit: DEFAULT_MAX_PIXELS };
        assert_eq!(small(&giant), Err(expected));
    }
}

#[test]
fn limits_hold_for_every_format() {
    let preprocess = Preprocess { size: 16, ..SHORTEST_224 };
    for name in images_in("") {
        let bytes = fixture(&name);
        let Prepared { width, height, .. } = small(&bytes).unwrap();
        let (pixels, side) = (u64::from(width) * u64::from(height), width.min(height));
        let with = |max_pixels, min_side| {
            prepare(
                &bytes,
                None,
                &preprocess,
                &DecodeOptions { max_pixels, min_side, ..DecodeOptions::default() },
            )
        };
        assert!(with(pixels, side).is_ok(), "{name}");
        assert_eq!(
            with(pixels - 1, 0),
            Err(DecodeError::TooManyPixels { width, height, limit: pixels - 1 }),
            "{name}"
        );
        assert_eq!(
            with(pixels, side + 1),
            Err(DecodeError::TooSmall { width, height, min_side: side + 1 }),
            "{name}"
        );
    }
}

#[test]
fn truncated_images_are_corrupt() {
    let others = every_image().into_iter().filter(|name| suffix(name) != Some("jpg"));
    for name in others {
        let bytes = fixture(&name);
        for percent in [5, 25, 50, 75, 90, 97] {
            let preprocess = Preprocess { size: 16, ..SHORTEST_224 };
            let cut = &bytes[..bytes.len() * percent / 100];
            let result = prepare(cut, suffix(&name), &preprocess, &DecodeOptions::default());
            // The picture is whole in an animation cut behind its first frame, and in a PNG that lacks no more than its end
            // chunk and the two checksums before it.
            let ends_late = name.ends_with(".png") && bytes.len() - cut.len() <= 12 + 4 + 4;
            let whole = name.ends_with("animated.gif") && percent >= 50
                || ends_late
                    && result == prepare(&bytes, suffix(&name), &preprocess, &DecodeOptions::default());
            assert!(
                whole || matches!(result, Err(DecodeError::Corrupt { .. })),
                "{name} cut at {percent} %: {result:?}"
            );
        }
    }
}

#[test]
fn messages_name_the_missing_bytes() {
    let message = |name: &str, length: usize| small(&fixture(name)[..length]).unwrap_err().to_string();
    let whole = fixture("cat_lossless.webp").len();
    let expected = format!("WebP ends after 2,000 of {} bytes", error::thousands(whole as u64));
    assert_eq!(message("cat_lossless.webp", 2_000), expected);
    assert_eq!(message("cat_small.png", 20), "PNG ends after 20 bytes, in its header");
}

/// SplitMix64: enough for mutations, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// Changes a few bytes, mostly near the headers, and sometimes removes or repeats a range.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.below(6) {
            let reach = if self.below(2) == 0 { bytes.len().min(700) } else { bytes.len() };
            let at = self.below(reach);
            match self.below(8) {
                0 => bytes.truncate(at + 1),
                1 => drop(bytes.drain(at..bytes.len().min(at + 1 + self.below(40)))),
                2 => bytes.extend_from_within(at..),
                3 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
                _ => bytes[at] ^= 1 << self.below(8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}

#[test]
fn mutated_images_never_panic_or_hang() {
    let (start, mut random) = (Instant::now(), Random(FUZZ_SEED));
    let images: Vec<(String, Vec<u8>)> =
        images_in("extra/").into_iter().map(|name| (name.clone(), fixture(&name))).collect();
    for round in 0..FUZZ_ROUNDS {
        for (name, bytes) in &images {
            if start.elapsed() > FUZZ_TIME {
                return;
            }
            let mutated = random.mutate(bytes);
            // A modest limit, so that changed headers do not make this a test of the allocator.
            let limits = DecodeOptions { max_pixels: 1 << 20, min_side: 0, ..DecodeOptions::default() };
            let call = Instant::now();
            let result = prepare(&mutated, suffix(name), &Preprocess { size: 16, ..SHORTEST_224 }, &limits);
            if let Ok(prepared) = result {
                assert_eq!(prepared.pixels.as_slice().len(), 16 * 16 * 3, "{name} round {round}");
            }
            assert!(call.elapsed() < FUZZ_TIME, "{name} round {round} took {:?}", call.elapsed());
        }
    }
}
