//! The markers of a JPEG: what it claims to be, whether it is complete, and a clean copy for the decoder.
//!
//! Decoders disagree about malformed files: some stop at stray bytes between segments that libjpeg skips, and most turn missing
//! data into grey silently. The file is therefore walked first. What libjpeg ignores (stray bytes, unknown and application
//! segments, bytes after the end marker) never reaches the decoder, and the last scan is followed by 1-bits: no Huffman code may
//! consist of them alone (ITU-T T.81, annex C), so that a decoder that runs out of data fails instead of guessing.

use std::ops::Range;

use super::segments::{EntropyData, entropy_data, next_marker, segment, unsupported_coding};
use crate::error::{DecodeError, thousands};

const JPEG: &str = "JPEG";
/// Padding after the last scan: 64 bits of ones cover the longest value (16 bits) and code (16 bits) that a truncation can leave
/// open, and the decoder's read-ahead (32 bits). Every 0xFF is followed by a stuffed 0.
const ONES: [u8; 16] = [0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0];
/// The other padding: a decoder that returns the same pixels with both does not use it.
const ZEROS: [u8; 16] = [0; 16];
/// An APP0 that makes the decoder fill in the tables that Motion JPEG leaves out, as libjpeg-turbo always does.
const MOTION_JPEG: [u8; 9] = [0xFF, 0xE0, 0, 7, b'A', b'V', b'I', b'1', 0];
/// An Adobe APP14 with transform 2.
const ADOBE_YCCK: [u8; 16] = [0xFF, 0xEE, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, 2];
/// Coefficients of a block.
const BLOCK: usize = 64;
/// State of a coefficient before its first scan; otherwise the number of its missing low bits.
const NEVER: u8 = u8::MAX;

/// Meaning of the components, by libjpeg's rules (`default_decompress_parms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Grey,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// Padding after the last scan.
#[derive(Clone, Copy)]
pub(super) enum Padding {
    Ones,
    Zeros,
}

#[derive(Clone, Copy)]
struct Component {
    id: u8,
    across: u32,
    down: u32,
}

/// The walked file.
pub(super) struct Markers<'a> {
    bytes: &'a [u8],
    /// Stored width in pixels.
    pub(crate) width: u32,
    /// Stored height in pixels.
    pub(crate) height: u32,
    pub(crate) colour: Colour,
    /// The EXIF block, from its TIFF header on.
    pub(crate) exif: Option<&'a [u8]>,
    /// Whether an end-of-image marker follows the scans.
    pub(crate) ended: bool,
    /// Whether the component ids are the letters R, G, B.
    pub(crate) rgb_ids: bool,
    components: Vec<Component>,
    /// For each component and coefficient: `NEVER`, or how many low bits are missing.
    missing: Vec<[u8; BLOCK]>,
    pub(crate) progressive: bool,
    huffman: bool,
    restart_interval: u32,
    /// Ranges of the file that the decoder gets, in order.
    kept: Vec<Range<usize>>,
    jfif: bool,
    adobe: Option<u8>,
}

impl<'a> Markers<'a> {
    /// Walks `bytes`, which start with the start marker of a JPEG. Allocates only a list of segments.
    ///
    /// # Errors
    /// `Unsupported` for arithmetic, lossless, hierarchical and 12-bit coding; `Corrupt` for a file that ends before the data of
    /// its first scan or, without its end marker, before its last scan.
    pub(crate) fn walk(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut markers = Self {
            bytes,
            width: 0,
            height: 0,
            colour: Colour::YCbCr,
            exif: None,
            ended: false,
            rgb_ids: false,
            components: Vec::new(),
            missing: Vec::new(),
            progressive: false,
            huffman: false,
            restart_interval: 0,
            kept: Vec::new(),
            jfif: false,
            adobe: None,
        };
        let last = markers.segments()?;
        markers.check_whole(last)?;
        markers.colour = markers.colour();
        Ok(markers)
    }

    /// Writes the clean copy into `out`.
    pub(crate) fn clean(&self, padding: Padding, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&[0xFF, 0xD8]);
        if !self.huffman {
            out.extend_from_slice(&MOTION_JPEG);
        }
        if self.colour == Colour::Ycck {
            out.extend_from_slice(&ADOBE_YCCK);
        }
        for range in &self.kept {
            out.extend_from_slice(&self.bytes[range.clone()]);
        }
        out.extend_from_slice(match padding {
            Padding::Ones => &ONES,
            Padding::Zeros => &ZEROS,
        });
        out.extend_from_slice(&[0xFF, 0xD9]);
    }

    /// Returns the error of a file that ends too early.
    pub(crate) fn truncated(&self, position: &str) -> DecodeError {
        DecodeError::corrupt(
            JPEG,
            format!("ends after {} bytes, {position}", thousands(self.bytes.len() as u64)),
        )
    }

    /// Walks all segments up to the end marker. Returns header and data of the last scan.
    fn segments(&mut self) -> Result<Option<(&'a [u8], EntropyData)>, DecodeError> {
        let bytes = self.bytes;
        let mut at = 2;
        let mut last = None;
        while let Some((marker, body_at)) = next_marker(bytes, at) {
            at = body_at;
            match marker {
                0xD9 => {
                    self.ended = true;
                    break;
                }
                // Start of image, restarts and TEM stand alone.
                0x01 | 0xD0..=0xD8 => continue,
                _ => {}
            }
            let Some(body) = segment(bytes, at)? else { break };
            let from = at - 2;
            at += 2 + body.len();
            match marker {
                0xC0..=0xC2 => self.frame(marker, body)?,
                0xC4 => self.huffman = true,
                0xDB => {}
                0xDD => {
                    self.restart_interval =
                        body.get(..2).map_or(0, |b| u32::from(u16::from_be_bytes([b[0], b[1]])))
                }
                0xDA => {
                    self.scan(body)?;
                    let entropy = entropy_data(bytes, at);
                    at = entropy.end;
                    last = Some((body, entropy));
                }
                0xC3 | 0xC5..=0xCF | 0xDC | 0xDE | 0xDF => return Err(unsupported_coding(marker)),
                _ => {
                    self.application(marker, body);
                    continue;
                }
            }
            self.keep(from..at);
        }
        // Tables after the last scan belong to nothing.
        if let Some((_, entropy)) = &last {
            self.kept.retain(|range| range.start < entropy.end);
            if let Some(range) = self.kept.last_mut() {
                range.end = range.end.min(entropy.end);
            }
        }
        Ok(last)
    }

    fn keep(&mut self, range: Range<usize>) {
        match self.kept.last_mut() {
            Some(previous) if previous.end == range.start => previous.end = range.end,
            _ => self.kept.push(range),
        }
    }

    /// Parses a start-of-frame segment: precision, height, width, components.
    fn frame(&mut self, marker: u8, body: &[u8]) -> Result<(), DecodeError> {
        let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = body else {
            return Err(DecodeError::corrupt(JPEG, "has a frame header that is too short"));
        };
        if precision != 8 {
            return Err(DecodeError::unsupported(JPEG, format!("{precision} bits per sample")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(DecodeError::unsupported(JPEG, format!("{count} components")));
        }
        (self.width, self.height) =
            (u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0])));
        if self.width == 0 || self.height == 0 {
            return Err(DecodeError::corrupt(
                JPEG,
                format!("claims {} x {} pixels", self.width, self.height),
            ));
        }
        self.components = rest
            .chunks_exact(3)
            .map(|c| Component { id: c[0], across: u32::from(c[1] >> 4), down: u32::from(c[1] & 15) })
            .collect();
        let sane = self.components.iter().all(|c| (1..=4).contains(&c.across) && (1..=4).contains(&c.down));
        if self.components.len() != usize::from(count) || !sane {
            return Err(DecodeError::corrupt(JPEG, "has a broken frame header"));
        }
        self.check_sampling()?;
        self.missing = vec![[NEVER; BLOCK]; self.components.len()];
        self.progressive = marker == 0xC2;
        self.rgb_ids = self.components.iter().map(|c| c.id).eq(*b"RGB");
        Ok(())
    }

    /// Parses a start-of-scan segment: which coefficients it holds.
    fn scan(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        if self.components.is_empty() {
            return Err(DecodeError::corrupt(JPEG, "has a scan before its frame header"));
        }
        let Some((indices, [from, to, bits])) = self.scan_header(body) else {
            return Err(DecodeError::corrupt(JPEG, "has a broken scan header"));
        };
        if !self.progressive && indices.len() < self.components.len() {
            self.check_separate(indices.len())?;
        }
        let (from, to, low) = if self.progressive { (from, to, bits & 15) } else { (0, 63, 0) };
        for index in indices {
            if let Some(coefficients) = self.missing[index].get_mut(usize::from(from)..=usize::from(to)) {
                coefficients.fill(low);
            }
        }
        Ok(())
    }

    /// Rejects sampling factors that the decoder does not support. It upsamples components of the first one's resolution, of half
    /// of it in either or both directions, or of a quarter horizontally, both chroma components alike. Others are valid and rare,
    /// and decoded to wrong colours without an error (zune-jpeg 0.5.15).
    fn check_sampling(&self) -> Result<(), DecodeError> {
        let [first, others @ ..] = self.components.as_slice() else { return Ok(()) };
        let ratio = |c: &Component| {
            let whole = first.across.is_multiple_of(c.across) && first.down.is_multiple_of(c.down);
            whole.then(|| (first.across / c.across, first.down / c.down))
        };
        let known = |c: &Component| matches!(ratio(c), Some((1 | 2, 1 | 2) | (4, 1)));
        let alike =
            others.iter().take(2).map(ratio).collect::<Vec<_>>().windows(2).all(|pair| pair[0] == pair[1]);
        let powers = matches!((first.across, first.down), (1 | 2 | 4, 1 | 2));
        if others.is_empty() || powers && alike && others.iter().all(known) {
            return Ok(());
        }
        let factors: Vec<String> =
            self.components.iter().map(|c| format!("{}x{}", c.across, c.down)).collect();
        let factors = factors.join(", ");
        Err(DecodeError::unsupported(
            JPEG,
            format!(
                "components sampled {factors}, which is valid and not decoded: write it again, for instance with \
                 ImageMagick: `magick FILE -sampling-factor 4:2:0 out.jpg`"
            ),
        ))
    }

    /// Rejects subsampled components in separate sequential scans, which are decoded to wrong colours without an error (zune-jpeg
    /// 0.5.15).
    fn check_separate(&self, in_scan: usize) -> Result<(), DecodeError> {
        let full = self
            .components
            .iter()
            .all(|c| (c.across, c.down) == (self.components[0].across, self.components[0].down));
        if in_scan == 1 && full {
            return Ok(());
        }
        Err(DecodeError::unsupported(JPEG, "subsampled components in separate sequential scans"))
    }

    /// Returns the indices of a scan's components, and its last three bytes.
    fn scan_header(&self, body: &[u8]) -> Option<(Vec<usize>, [u8; 3])> {
        let (&count, rest) = body.split_first()?;
        let (selectors, rest) = rest.split_at_checked(2 * usize::from(count))?;
        let indices = selectors.chunks_exact(2).map(|s| self.components.iter().position(|c| c.id == s[0]));
        Some((indices.collect::<Option<Vec<_>>>()?, rest.get(..3)?.try_into().ok()?))
    }

    fn application(&mut self, marker: u8, body: &'a [u8]) {
        match marker {
            0xE0 if body.starts_with(b"JFIF\0") => self.jfif = true,
            0xE1 if self.exif.is_none() => {
                self.exif = body.strip_prefix(b"Exif\0").and_then(|rest| rest.get(1..))
            }
            0xEE if body.starts_with(b"Adobe") => self.adobe = body.get(11).copied(),
            _ => {}
        }
    }

    fn colour(&self) -> Colour {
        match (self.components.len(), self.adobe) {
            (1, _) => Colour::Grey,
            (4, None | Some(0)) => Colour::Cmyk,
            (4, Some(_)) => Colour::Ycck,
            (_, Some(0)) if !self.jfif => Colour::Rgb,
            (_, None) if !self.jfif && self.rgb_ids => Colour::Rgb,
            _ => Colour::YCbCr,
        }
    }

    /// Checks that all scans are there, by the framing alone; the decoder checks the data of a scan.
    fn check_whole(&self, last: Option<(&[u8], EntropyData)>) -> Result<(), DecodeError> {
        let Some((body, entropy)) = last else {
            return Err(self.truncated("before any image data"));
        };
        if self.ended {
            return Ok(());
        }
        let complete = self.missing.iter().flatten().all(|&bits| bits == 0);
        if !complete {
            return Err(self.truncated("before its last scan"));
        }
        if self.restart_interval > 0
            && entropy.restarts < self.blocks_of(body).saturating_sub(1) / self.restart_interval
        {
            return Err(self.truncated("in the middle of its image data"));
        }
        Ok(())
    }

    /// Returns the number of units (MCUs) of a scan that the restart interval counts.
    fn blocks_of(&self, scan: &[u8]) -> u32 {
        let widest = self.components.iter().map(|c| c.across).max().unwrap_or(1);
        let tallest = self.components.iter().map(|c| c.down).max().unwrap_or(1);
        let (across, down) = match self.scan_header(scan) {
            Some((indices, _)) if indices.len() == 1 => {
                let one = self.components[indices[0]];
                (
                    (self.width * one.across).div_ceil(8 * widest),
                    (self.height * one.down).div_ceil(8 * tallest),
                )
            }
            _ => (self.width.div_ceil(8 * widest), self.height.div_ceil(8 * tallest)),
        };
        across * down
    }
}
