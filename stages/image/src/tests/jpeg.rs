//! Complete JPEGs are decoded, even malformed ones; truncated ones are errors, wherever they end.

use super::*;

const BASELINE: [&str; 8] = [
    "astronaut_420.jpg",
    "astronaut_cmyk.jpg",
    "extra/411.jpg",
    "extra/422.jpg",
    "extra/restarts.jpg",
    "extra/rgb.jpg",
    "extra/exif6.jpg",
    "extra/flat.jpg",
];
const PROGRESSIVE: [&str; 4] = [
    "coffee_progressive.jpg",
    "extra/restarts_progressive.jpg",
    "extra/440_progressive.jpg",
    "extra/cmyk_progressive.jpg",
];
const END: [u8; 2] = [0xFF, 0xD9];

fn small(bytes: &[u8]) -> Result<Prepared, DecodeError> {
    let preprocess = Preprocess { size: 32, ..SHORTEST_224 };
    prepare_default(bytes, &preprocess)
}

/// Returns the start of the first scan's data.
fn data_start(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap() + 14
}

fn first(bytes: &[u8], marker: u8) -> usize {
    bytes.windows(2).position(|pair| pair == [0xFF, marker]).unwrap()
}

/// Inserts bytes at a position.
fn spliced(bytes: &[u8], at: usize, insert: &[u8]) -> Vec<u8> {
    [&bytes[..at], insert, &bytes[at..]].concat()
}

#[test]
fn truncated_jpegs_are_corrupt() {
    for name in BASELINE.iter().chain(&PROGRESSIVE) {
        let bytes = fixture(name);
        for percent in [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 97, 99] {
            let cut = bytes.len() * percent / 100;
            let result = small(&bytes[..cut]);
            assert!(
                matches!(result, Err(DecodeError::Corrupt { .. })),
                "{name} cut at {percent} %: {result:?}"
            );
        }
    }
    let message = small(&fixture("astronaut_420.jpg")[..12_345]).unwrap_err().to_string();
    assert_eq!(message, "JPEG ends after 12,345 bytes, in the middle of its image data");
}

#[test]
fn every_truncation_of_a_small_jpeg_is_corrupt() {
    for name in ["extra/restarts.jpg", "extra/restarts_progressive.jpg", "extra/exif6.jpg", "extra/flat.jpg"]
    {
        let bytes = fixture(name);
        assert!(bytes.ends_with(&END), "{name}");
        let scan = data_start(&bytes);
        // The last byte of data may hold nothing but padding, and the one before it may be its stuffing.
        let last = bytes.len() - END.len() - 2;
        for cut in (scan..last).rev().take(400).chain((3..last).step_by(37)) {
            let result = small(&bytes[..cut]);
            assert!(
                matches!(result, Err(DecodeError::Corrupt { .. })),
                "{name} cut at {cut} of {}",
                bytes.len()
            );
        }
    }
}

#[test]
fn truncated_jpegs_with_an_end_marker_are_corrupt() {
    for name in BASELINE {
        let bytes = fixture(name);
        for percent in [50, 80, 90, 95, 99] {
            let scan = data_start(&bytes);
            let mut cut = scan + (bytes.len() - scan) * percent / 100;
            while bytes[cut - 1] == 0xFF {
                cut -= 1;
            }
            let closed = [&bytes[..cut], &END].concat();
            assert!(
                matches!(small(&closed), Err(DecodeError::Corrupt { .. })),
                "{name} closed at {percent} %"
            );
        }
    }
}

#[test]
fn missing_end_marker_is_accepted() {
    for name in BASELINE.iter().chain(&PROGRESSIVE) {
        let bytes = fixture(name);
        assert!(bytes.ends_with(&END), "{name}");
        let open = &bytes[..bytes.len() - END.len()];
        assert_eq!(small(open), small(&bytes), "{name}");
        assert_eq!(small(&bytes[..bytes.len() - 1]), small(&bytes), "{name}");
    }
}

#[test]
fn stray_bytes_and_segments_are_ignored() {
    for name in BASELINE.iter().chain(&PROGRESSIVE) {
        let bytes = fixture(name);
        let expected = small(&bytes);
        assert!(expected.is_ok(), "{name}");
        let tables = first(&bytes, 0xDB);
        let oddities = [
            ("bytes after the end", [&bytes[..], &[0x12, 0xFF, 0xD8, 0xFF, 0xC0, 0].repeat(50)].concat()),
            ("a second image after the end", [&bytes[..], &bytes[..]].concat()),
            ("stray bytes between segments", spliced(&bytes, tables, &[0x55; 37])),
            ("fill bytes before a marker", spliced(&bytes, tables, &[0xFF; 5])),
            ("padding before the end marker", spliced(&bytes, bytes.len() - 2, &[0; 50])),
            (
                "broken application segments",
                spliced(&bytes, 2, b"\xff\xed\0\x05abc\xff\xe1\0\x04ab\xff\xe2\0\x10ICC_PROFILE\0\x01\x01"),
            ),
            ("a comment", spliced(&bytes, tables, b"\xff\xfe\0\x07hello")),
            ("a reserved segment", spliced(&bytes, tables, b"\xff\xf3\0\x04ab")),
        ];
        for (what, odd) in oddities {
            assert_eq!(small(&odd), expected, "{name}: {what}");
        }
    }
}

#[test]
fn missing_huffman_tables_default_to_the_standard() {
    // Pillow's default encoder writes the standard tables, so leaving them out (as Motion JPEG does) loses nothing.
    let bytes = fixture("extra/flat.jpg");
    let mut bare = bytes.clone();
    while let Some(at) = bare.windows(2).position(|pair| pair == [0xFF, 0xC4]) {
        let length = usize::from(u16::from_be_bytes([bare[at + 2], bare[at + 3]]));
        bare.drain(at..at + 2 + length);
    }
    assert!(bare.len() + 400 < bytes.len());
    assert_eq!(small(&bare), small(&bytes));
}

#[test]
fn separate_scans_are_decoded_or_unsupported() {
    let bytes = fixture("extra/separate_444.jpg");
    let end = bytes.len() - END.len();
    assert_eq!(small(&bytes[..end]), small(&bytes));
    for cut in [end - 20, end / 2, end * 3 / 4] {
        assert!(matches!(small(&bytes[..cut]), Err(DecodeError::Corrupt { .. })), "cut at {cut} of {end}");
    }
    let refused = small(&fixture("extra/separate_420.jpg")).unwrap_err().to_string();
    assert_eq!(refused, "JPEG is not supported: subsampled components in separate sequential scans");
}

#[test]
fn other_codings_are_unsupported() {
    let bytes = fixture("extra/exif6.jpg");
    let frame = first(&bytes, 0xC0);
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        small(&bytes).unwrap_err().to_string()
    };
    assert_eq!(with(frame + 1, 0xC3), "JPEG is not supported: lossless coding");
    assert_eq!(with(frame + 1, 0xC9), "JPEG is not supported: arithmetic coding");
    assert_eq!(with(frame + 1, 0xC5), "JPEG is not supported: hierarchical coding");
    assert_eq!(with(frame + 4, 12), "JPEG is not supported: 12 bits per sample");
    assert_eq!(with(frame + 9, 2), "JPEG is not supported: 2 components");
}
