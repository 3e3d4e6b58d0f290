//! Shards of scenes: [`write_shard`].
//!
//! A shard is a webdataset tar. Each key has, in this order, `KEY.jpg` (the image), `KEY.txt` (a text of a
//! [`TextKind`]) and `KEY.json` (the scene). Bytes depend on seed, shard, count and kind of text alone, as long as the
//! JPEG encoder stays the same. Of [`TextKind::Pairs`] every scene has several keys: `KEY-true` and `KEY-` with the name of what its
//! false caption changes.

use std::io::{self, Write};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageError, RgbImage};

use super::{
    alt_text::{AltText, TextKind},
    draw::draw_into,
    generate::sample,
    negatives::{TRUE_PAIR, false_captions},
    scene::Scene,
};

/// Width and height of the images in a shard, in pixels.
pub const IMAGE_SIZE: u32 = 192;
/// JPEG quality of the images in a shard, on libjpeg's scale of 1 to 100.
pub const JPEG_QUALITY: u8 = 92;
/// Largest number of shards of a seed: what five digits, the start of a key, can number.
pub const MAX_SHARDS: u32 = 100_000;
/// Largest number of samples of a shard: what six digits, the end of a key, can number.
pub const MAX_SAMPLES: u32 = 1_000_000;
/// Permissions of every file in a shard.
const MODE: u32 = 0o644;

/// The reason why a shard was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The shard's number has too many digits for a key.
    #[error("scenes shard {shard}: a seed has shards 0 to {}; use another seed", MAX_SHARDS - 1)]
    ShardIndex {
        /// The shard's number.
        shard: u32,
    },
    /// There are more samples than keys.
    #[error("scenes shard {shard:05}: {samples} samples, but a shard holds {MAX_SAMPLES}; write more shards")]
    TooManySamples {
        /// The shard's number.
        shard: u32,
        /// The requested number of samples.
        samples: u32,
    },
    /// An image was not encoded.
    #[error("scenes shard {shard:05}: key {key}: the picture was not encoded: {source}")]
    Encode {
        /// The shard's number.
        shard: u32,
        /// The sample's key.
        key: String,
        /// The encoder's error.
        source: ImageError,
    },
    /// The writer failed.
    #[error("scenes shard {shard:05}: {at}: not written: {source}")]
    Write {
        /// The shard's number.
        shard: u32,
        /// The file, or "end of the archive".
        at: String,
        /// The writer's error.
        source: io::Error,
    },
}

/// Returns the key of sample `i` of a shard: five digits for the shard and six for the sample, unique within a seed.
pub fn key(shard: u32, i: u32) -> String {
    format!("{shard:05}{i:06}")
}

/// Returns the index of sample `i` of a shard, as [`sample`](super::sample) takes it. It does not depend on the number of
/// samples.
pub fn sample_index(shard: u32, i: u32) -> u64 {
    u64::from(shard) * u64::from(MAX_SAMPLES) + u64::from(i)
}

/// Writes shard number `shard` of `seed`, with `samples` scenes and a text of the given kind for each, and returns
/// the writer, which is not flushed. The scenes do not depend on the kind.
///
/// Many writes are small: pass a buffered writer.
///
/// # Errors
/// Fails if `shard` is not below [`MAX_SHARDS`], `samples` is more than [`MAX_SAMPLES`], or the writer fails.
pub fn write_shard<W: Write>(
    writer: W,
    seed: u64,
    shard: u32,
    samples: u32,
    text: TextKind,
) -> Result<W, ShardError> {
    if shard >= MAX_SHARDS {
        return Err(ShardError::ShardIndex { shard });
    }
    if samples > MAX_SAMPLES {
        return Err(ShardError::TooManySamples { shard, samples });
    }
    let mut tar = tar::Builder::new(writer);
    let mut picture = RgbImage::new(IMAGE_SIZE, IMAGE_SIZE);
    let mut jpeg = Vec::new();
    for i in 0..samples {
        let key = key(shard, i);
        let (scene, alt_text) = sample(seed, sample_index(shard, i));
        draw_into(&scene, &mut picture);
        jpeg.clear();
        if let Err(source) = encode(&picture, &mut jpeg) {
            return Err(ShardError::Encode { shard, key, source });
        }
        let json = scene.to_json();
        for (suffix, text) in texts(text, &scene, &alt_text, (seed, sample_index(shard, i))) {
            for (extension, bytes) in
                [("jpg", jpeg.as_slice()), ("txt", text.as_bytes()), ("json", json.as_bytes())]
            {
                let name = format!("{key}{suffix}.{extension}");
                append(&mut tar, &name, bytes).map_err(|source| ShardError::Write {
                    shard,
                    at: name,
                    source,
                })?;
            }
        }
    }
    tar.into_inner().map_err(|source| ShardError::Write {
        shard,
        at: "end of the archive".to_owned(),
        source,
    })
}

/// Returns the texts of a scene, each with the end of its key.
fn texts(
    kind: TextKind,
    scene: &Scene,
    alt_text: &AltText,
    (seed, index): (u64, u64),
) -> Vec<(String, String)> {
    let text = kind.of(scene, alt_text);
    if kind != TextKind::Pairs {
        return vec![(String::new(), text)];
    }
    let falsehoods = false_captions(scene, seed, index);
    let falsehoods = falsehoods.into_iter().map(|(change, text)| (format!("-{}", change.name()), text));
    std::iter::once((format!("-{TRUE_PAIR}"), text)).chain(falsehoods).collect()
}

/// Appends an encoded image to `jpeg`.
pub(super) fn encode(picture: &RgbImage, jpeg: &mut Vec<u8>) -> Result<(), ImageError> {
    let (width, height) = picture.dimensions();
    JpegEncoder::new_with_quality(jpeg, JPEG_QUALITY).write_image(
        picture,
        width,
        height,
        ExtendedColorType::Rgb8,
    )
}

/// Appends a file without owner and time, so that the bytes are reproducible.
fn append<W: Write>(tar: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes.len() as u64);
    header.set_mode(MODE);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}
