//! Decompression of a stream: gzip and zstd, detected by their first bytes. Output comes in pieces of bounded size, so that a
//! decompression bomb takes no more memory than any other stream.

use std::io::{ErrorKind, Write};

use bytes::{Buf, Bytes};
use flate2::write::GzDecoder;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Input of gzip at a time, bytes: deflate expands a byte to at most 1,032.
const GZIP_SLICE: usize = 4 << 10;
/// Output of zstd at a time, bytes.
const ZSTD_PIECE: usize = 1 << 20;
/// Largest window of zstd, as a power of two: that of `zstd --long`.
const WINDOW_LOG: u32 = 27;

/// Output bytes from which on the ratio is checked.
const RATIO_CHECK_MIN_BYTES: u64 = 16 << 30;
/// Highest ratio of output to input bytes beyond that. Images hardly compress, text tenfold; a bomb of terabytes would occupy
/// a reader for hours.
const MAX_RATIO: u64 = 200;

/// Decompresses one stream.
pub(super) struct Decompressor {
    codec: Codec,
    /// See [`RATIO_CHECK_MIN_BYTES`].
    check_from: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// The compression of a stream.
enum Codec {
    /// None.
    Plain,
    /// gzip, also of several members, each followed by any number of zeros, as tapes and block devices leave them.
    Gzip(Box<GzDecoder<Vec<u8>>>),
    /// zstd, also of several frames.
    Zstd {
        /// The decoder.
        decoder: Box<Decoder<'static>>,
        /// Whether a frame is open.
        open: bool,
    },
}

impl Decompressor {
    /// Creates the decompressor of a stream that starts with the bytes `first`.
    ///
    /// # Errors
    /// When zstd cannot be initialised.
    pub(super) fn detect(first: &[u8]) -> std::io::Result<Self> {
        Ok(Self {
            codec: Codec::detect(first)?,
            check_from: RATIO_CHECK_MIN_BYTES,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    /// Returns whether the stream is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        !matches!(self.codec, Codec::Plain)
    }

    /// Consumes some bytes of `packed` and returns the output, which may be empty. Call it until `packed` is empty.
    ///
    /// # Errors
    /// When the bytes are damaged, or expand beyond [`MAX_RATIO`].
    pub(super) fn next(&mut self, packed: &mut Bytes) -> std::io::Result<Bytes> {
        let before = packed.len();
        let bytes = self.codec.next(packed)?;
        self.bytes_in += (before - packed.len()) as u64;
        self.check_ratio(bytes)
    }

    /// Returns output that remains at the end of the input. Call it until it is empty.
    ///
    /// # Errors
    /// When the stream is truncated, or as [`Decompressor::next`].
    pub(super) fn finish(&mut self) -> std::io::Result<Bytes> {
        let bytes = self.codec.finish()?;
        self.check_ratio(bytes)
    }

    fn check_ratio(&mut self, bytes: Bytes) -> std::io::Result<Bytes> {
        self.bytes_out += bytes.len() as u64;
        if self.bytes_out > self.check_from && self.bytes_out > MAX_RATIO * self.bytes_in {
            let what =
                format!("{} packed bytes unpack to more than {MAX_RATIO} times as many", self.bytes_in);
            return Err(std::io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok(bytes)
    }
}

impl Codec {
    fn detect(first: &[u8]) -> std::io::Result<Self> {
        match first {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(GzDecoder::new(Vec::new())))),
            // The second is a skippable frame, with which pzstd's output and seekable archives begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
                Ok(Self::Zstd { decoder: Box::new(decoder), open: true })
            }
            _ => Ok(Self::Plain),
        }
    }

    fn next(&mut self, packed: &mut Bytes) -> std::io::Result<Bytes> {
        match self {
            Self::Plain => Ok(std::mem::take(packed)),
            Self::Gzip(decoder) => {
                let mut now = packed.split_to(packed.len().min(GZIP_SLICE));
                while !now.is_empty() {
                    // No byte is taken once a member has ended.
                    let taken = decoder.write(&now)?;
                    now.advance(taken);
                    if taken == 0 {
                        let zeros = now.iter().take_while(|byte| **byte == 0).count();
                        now.advance(zeros);
                        if !now.is_empty() {
                            decoder.try_finish()?;
                            let out = std::mem::take(decoder.get_mut());
                            **decoder = GzDecoder::new(out);
                        }
                    }
                }
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Self::Zstd { decoder, open } => {
                let mut out = vec![0; ZSTD_PIECE];
                let (hint, read, written) = {
                    let mut input = InBuffer::around(packed);
                    let mut output = OutBuffer::around(out.as_mut_slice());
                    let hint = decoder.run(&mut input, &mut output)?;
                    (hint, input.pos(), output.pos())
                };
                *open = hint != 0;
                packed.advance(read);
                out.truncate(written);
                Ok(out.into())
            }
        }
    }

    fn finish(&mut self) -> std::io::Result<Bytes> {
        match self {
            Self::Plain => Ok(Bytes::new()),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
            Self::Zstd { open: false, .. } => Ok(Bytes::new()),
            Self::Zstd { .. } => {
                let rest = self.next(&mut Bytes::new())?;
                let Self::Zstd { open, .. } = self else { return Ok(rest) };
                if rest.is_empty() && *open {
                    return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "the zstd frame is cut"));
                }
                Ok(rest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn decompressed(packed: &[u8], chunk: usize) -> std::io::Result<Vec<u8>> {
        let mut decompressor = Decompressor::detect(packed)?;
        let mut out = Vec::new();
        for piece in packed.chunks(chunk) {
            let mut piece = Bytes::copy_from_slice(piece);
            while !piece.is_empty() {
                let some = decompressor.next(&mut piece)?;
                assert!(some.len() <= 5 << 20, "{} bytes at once", some.len());
                out.extend_from_slice(&some);
            }
        }
        loop {
            let rest = decompressor.finish()?;
            if rest.is_empty() {
                return Ok(out);
            }
            out.extend_from_slice(&rest);
        }
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        let (one, two) = (vec![7_u8; 300_000], (0..=255_u8).cycle().take(70_000).collect::<Vec<_>>());
        let whole = [one.clone(), two.clone()].concat();
        let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("memory");
        for packed in [[gzip(&one), gzip(&two)].concat(), [zstd(&one), zstd(&two)].concat()] {
            for chunk in [1, 7, 4096, usize::MAX >> 1] {
                assert!(decompressed(&packed, chunk).expect("whole") == whole, "chunks of {chunk}");
            }
            let error = decompressed(&packed[..packed.len() - 3], 4096).expect_err("cut");
            assert!(!error.to_string().is_empty());
        }
        assert_eq!(decompressed(b"plain", 2).expect("plain"), b"plain");
    }

    #[test]
    fn padding_and_skippable_frames_are_skipped() {
        let one = (0..=255_u8).cycle().take(70_000).collect::<Vec<_>>();
        let zeros = vec![0; 10_240];
        let padded = [gzip(&one), zeros.clone(), gzip(&one), zeros].concat();
        let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0size".as_slice(), b"\x5f\x2a\x4d\x18\0\0\0\0"].concat();
        let zstd = zstd::bulk::compress(&one, 3).expect("memory");
        let framed = [&skipped, &zstd, &skipped, &zstd, &skipped].map(|bytes| bytes.as_slice()).concat();
        for packed in [padded, framed] {
            for chunk in [1, 7, 4096, usize::MAX >> 1] {
                let out = decompressed(&packed, chunk).unwrap_or_else(|e| panic!("chunks of {chunk}: {e}"));
                assert!(out == one.repeat(2), "chunks of {chunk}: {} bytes", out.len());
            }
        }
        for packed in
            [[gzip(&one).as_slice(), b"rubbish"].concat(), [gzip(&one).as_slice(), b"\0\0x"].concat()]
        {
            for chunk in [1, 4096, usize::MAX >> 1] {
                decompressed(&packed, chunk).expect_err("rubbish");
            }
        }
    }

    #[test]
    fn bomb_comes_in_small_pieces() {
        let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).expect("memory");
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        assert_eq!(decompressed(&bomb, usize::MAX >> 1).expect("whole").len(), 256 << 20);
    }

    #[test]
    fn excessive_ratio_is_an_error() {
        let zeros = vec![0; 64 << 20];
        let mut best = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        best.write_all(&zeros).expect("memory");
        for member in [zstd::bulk::compress(&zeros, 3).expect("memory"), best.finish().expect("memory")] {
            let mut decompressor =
                Decompressor { check_from: 1 << 30, ..Decompressor::detect(&member).expect("a stream") };
            let (mut bytes_out, mut error) = (0, None);
            for _ in 0..64 {
                let mut piece = Bytes::from(member.clone());
                while error.is_none() && !piece.is_empty() {
                    match decompressor.next(&mut piece) {
                        Ok(bytes) => bytes_out += bytes.len() as u64,
                        Err(e) => error = Some(e.to_string()),
                    }
                }
            }
            assert!(error.is_some_and(|error| error.contains("more than 200 times as many")));
            assert!(((1 << 30) - (8 << 20)..=1 << 30).contains(&bytes_out), "{bytes_out}");
        }
        // Text, which compresses well, is within the ratio.
        let text: Vec<u8> = (0..4 << 20).flat_map(|n: u32| format!("{n:08},").into_bytes()).collect();
        let member = zstd::bulk::compress(&text, 1).expect("memory");
        let packed = member.repeat(36);
        let mut decompressor =
            Decompressor { check_from: 1 << 30, ..Decompressor::detect(&packed).expect("a stream") };
        let (mut packed, mut bytes_out) = (Bytes::from(packed), 0);
        while !packed.is_empty() {
            bytes_out += decompressor.next(&mut packed).expect("within bounds").len() as u64;
        }
        assert!(bytes_out > 1 << 30, "{bytes_out}");
    }
}
