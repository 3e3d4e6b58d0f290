//! Repaired copies of files that decoders reject although other programs show them as complete images.

use flate2::Crc;

/// A PNG's signature.
const PNG_SIGNATURE: usize = 8;
/// Length and type before a chunk's data, and its checksum after it.
const PNG_HEADER: usize = 8;
const PNG_CHECKSUM: usize = 4;
/// The chunk that ends a PNG.
const PNG_END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xAE, 0x42, 0x60, 0x82];

/// Returns a PNG with its end chunk, if it lacks one, has a broken one, or ends inside a chunk after its first pixels. Whether all
/// pixels are there is left to the decoder. `None` if there is nothing to repair.
pub(super) fn png(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut pixels) = (PNG_SIGNATURE, false);
    loop {
        let rest = bytes.get(at..)?;
        let kind = rest.get(4..PNG_HEADER);
        if kind == Some(b"IEND") {
            return if rest.starts_with(&PNG_END) { None } else { Some(ended(&bytes[..at], &[])) };
        }
        let is_pixels = kind == Some(b"IDAT");
        let length = rest.get(..4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let whole = length.and_then(|length| length.checked_add(PNG_HEADER + PNG_CHECKSUM));
        match whole.filter(|whole| *whole <= rest.len()) {
            Some(whole) => at += whole,
            None if is_pixels => {
                let data = &rest[PNG_HEADER..];
                return Some(ended(&bytes[..at], &data[..data.len().min(length.unwrap_or(0))]));
            }
            None => return pixels.then(|| ended(&bytes[..at], &[])),
        }
        pixels |= is_pixels;
    }
}

/// Returns complete chunks, an incomplete chunk of pixels, and the end chunk.
fn ended(chunks: &[u8], pixels: &[u8]) -> Vec<u8> {
    let mut out = chunks.to_vec();
    if let Some(length) = u32::try_from(pixels.len()).ok().filter(|length| *length > 0) {
        let mut crc = Crc::new();
        crc.update(b"IDAT");
        crc.update(pixels);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(b"IDAT");
        out.extend_from_slice(pixels);
        out.extend_from_slice(&crc.sum().to_be_bytes());
    }
    out.extend_from_slice(&PNG_END);
    out
}

/// Bytes of a RIFF file's header, and of a chunk's.
const RIFF_HEADER: usize = 12;
const RIFF_CHUNK: usize = 8;

/// Returns a WebP whose extended header claims no missing chunk. `None` if there is nothing to repair.
pub(super) fn webp(bytes: &[u8]) -> Option<Vec<u8>> {
    const FLAGS_AT: usize = RIFF_HEADER + RIFF_CHUNK;
    const ALPHA: u8 = 0x10;
    const EXIF: u8 = 0x08;
    const XMP: u8 = 0x04;
    const ANIMATION: u8 = 0x02;
    if bytes.get(RIFF_HEADER..RIFF_HEADER + 4)? != b"VP8X" {
        return None;
    }
    let flags = *bytes.get(FLAGS_AT)?;
    let mut there = Vec::new();
    let mut at = RIFF_HEADER;
    while let Some(&[a, b, c, d, l0, l1, l2, l3]) = bytes.get(at..at + RIFF_CHUNK) {
        there.push([a, b, c, d]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        at = at.checked_add(RIFF_CHUNK + length + length % 2)?;
    }
    let has = |name: &[u8; 4]| there.contains(name);
    let still = has(b"VP8 ") || has(b"VP8L");
    let mut claimed = flags;
    for (flag, missing) in [
        (EXIF, !has(b"EXIF")),
        (XMP, !has(b"XMP ")),
        (ANIMATION, still && !has(b"ANMF")),
        (ALPHA, has(b"VP8 ") && !has(b"ALPH") && flags & ANIMATION == 0),
    ] {
        if missing {
            claimed &= !flag;
        }
    }
    (claimed != flags).then(|| {
        let mut out = bytes.to_vec();
        out[FLAGS_AT] = claimed;
        out
    })
}
