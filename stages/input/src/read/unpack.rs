//! Packed bytes in, bytes out: gzip and zstd, recognised by their first bytes. Output comes in pieces of bounded size,
//! so that what unpacks to terabytes holds no more memory than anything else.

use std::io::{ErrorKind, Write};

use bytes::{Buf, Bytes};
use flate2::write::GzDecoder;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Input that gzip is given at a time: deflate makes at most 1,032 bytes of one.
const GZIP_SLICE: usize = 4 << 10;
/// Most that zstd hands out at a time.
const ZSTD_PIECE: usize = 1 << 20;
/// Largest window that zstd may ask memory for, as a power of two: what `zstd --long` writes.
const WINDOW_LOG: u32 = 27;

/// Bytes that any stream may unpack to.
const FREE_BYTES: u64 = 16 << 30;
/// Most bytes that come of a packed one beyond that: images hardly pack at all, text tenfold. What unpacks to terabytes would
/// keep a reader busy for hours.
const MOST_OF_ONE: u64 = 200;

/// A stream under way.
pub struct Unpack {
    form: Form,
    free: u64,
    taken: u64,
    given: u64,
}

/// How a stream is packed.
enum Form {
    /// It is not.
    Plain,
    /// gzip, also several members, with zeros behind each as tapes and block devices leave them.
    Gzip(Box<GzDecoder<Vec<u8>>>),
    /// zstd, also several frames.
    Zstd {
        /// The decoder.
        decoder: Box<Decoder<'static>>,
        /// Whether a frame is open.
        open: bool,
    },
}

impl Unpack {
    /// By the first bytes of a stream.
    ///
    /// # Errors
    /// When zstd cannot be set up.
    pub fn recognise(first: &[u8]) -> std::io::Result<Self> {
        Ok(Self { form: Form::recognise(first)?, free: FREE_BYTES, taken: 0, given: 0 })
    }

    /// Whether bytes come out other than they went in.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        !matches!(self.form, Form::Plain)
    }

    /// Takes some of `packed` and returns what came of it, perhaps nothing yet. To be called until `packed` is empty.
    ///
    /// # Errors
    /// When the bytes are damaged, or unpack to more than anything that is meant well.
    pub fn next(&mut self, packed: &mut Bytes) -> std::io::Result<Bytes> {
        let before = packed.len();
        let bytes = self.form.next(packed)?;
        self.taken += (before - packed.len()) as u64;
        self.count(bytes)
    }

    /// What is left at the end of the input; empty when there is no more. To be called until it is.
    ///
    /// # Errors
    /// When the packed stream is cut, or as [`Unpack::next`].
    pub fn finish(&mut self) -> std::io::Result<Bytes> {
        let bytes = self.form.finish()?;
        self.count(bytes)
    }

    fn count(&mut self, bytes: Bytes) -> std::io::Result<Bytes> {
        self.given += bytes.len() as u64;
        if self.given > self.free && self.given > MOST_OF_ONE * self.taken {
            let what = format!("{} packed bytes unpack to more than {MOST_OF_ONE} times as many", self.taken);
            return Err(std::io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok(bytes)
    }
}

impl Form {
    fn recognise(first: &[u8]) -> std::io::Result<Self> {
        match first {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(GzDecoder::new(Vec::new())))),
            // The second is a frame to be skipped: pzstd and seekable archives begin with one.
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
                    // Nothing is taken once a member has ended.
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

    fn unpacked(packed: &[u8], chunk: usize) -> std::io::Result<Vec<u8>> {
        let mut unpack = Unpack::recognise(packed)?;
        let mut out = Vec::new();
        for piece in packed.chunks(chunk) {
            let mut piece = Bytes::copy_from_slice(piece);
            while !piece.is_empty() {
                let some = unpack.next(&mut piece)?;
                assert!(some.len() <= 5 << 20, "{} bytes at once", some.len());
                out.extend_from_slice(&some);
            }
        }
        loop {
            let rest = unpack.finish()?;
            if rest.is_empty() {
                return Ok(out);
            }
            out.extend_from_slice(&rest);
        }
    }

    #[test]
    fn several_members_and_frames_are_one_stream_in_any_chunks() {
        let (one, two) = (vec![7_u8; 300_000], (0..=255_u8).cycle().take(70_000).collect::<Vec<_>>());
        let whole = [one.clone(), two.clone()].concat();
        let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("memory");
        for packed in [[gzip(&one), gzip(&two)].concat(), [zstd(&one), zstd(&two)].concat()] {
            for chunk in [1, 7, 4096, usize::MAX >> 1] {
                assert!(unpacked(&packed, chunk).expect("whole") == whole, "chunks of {chunk}");
            }
            let error = unpacked(&packed[..packed.len() - 3], 4096).expect_err("cut");
            assert!(!error.to_string().is_empty());
        }
        assert_eq!(unpacked(b"plain", 2).expect("plain"), b"plain");
    }

    #[test]
    fn zeros_behind_gzip_and_frames_to_be_skipped_are_passed_over_and_rubbish_is_not() {
        let one = (0..=255_u8).cycle().take(70_000).collect::<Vec<_>>();
        let zeros = vec![0; 10_240];
        let padded = [gzip(&one), zeros.clone(), gzip(&one), zeros].concat();
        let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0size".as_slice(), b"\x5f\x2a\x4d\x18\0\0\0\0"].concat();
        let zstd = zstd::bulk::compress(&one, 3).expect("memory");
        let framed = [&skipped, &zstd, &skipped, &zstd, &skipped].map(|bytes| bytes.as_slice()).concat();
        for packed in [padded, framed] {
            for chunk in [1, 7, 4096, usize::MAX >> 1] {
                let out = unpacked(&packed, chunk).unwrap_or_else(|e| panic!("chunks of {chunk}: {e}"));
                assert!(out == one.repeat(2), "chunks of {chunk}: {} bytes", out.len());
            }
        }
        for packed in
            [[gzip(&one).as_slice(), b"rubbish"].concat(), [gzip(&one).as_slice(), b"\0\0x"].concat()]
        {
            for chunk in [1, 4096, usize::MAX >> 1] {
                unpacked(&packed, chunk).expect_err("rubbish");
            }
        }
    }

    #[test]
    fn a_bomb_comes_in_small_pieces() {
        let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).expect("memory");
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        assert_eq!(unpacked(&bomb, usize::MAX >> 1).expect("whole").len(), 256 << 20);
    }

    #[test]
    fn what_unpacks_without_end_is_given_up() {
        let zeros = vec![0; 64 << 20];
        let mut best = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        best.write_all(&zeros).expect("memory");
        for member in [zstd::bulk::compress(&zeros, 3).expect("memory"), best.finish().expect("memory")] {
            let mut unpack = Unpack { free: 1 << 30, ..Unpack::recognise(&member).expect("a stream") };
            let (mut given, mut error) = (0, None);
            for _ in 0..64 {
                let mut piece = Bytes::from(member.clone());
                while error.is_none() && !piece.is_empty() {
                    match unpack.next(&mut piece) {
                        Ok(bytes) => given += bytes.len() as u64,
                        Err(e) => error = Some(e.to_string()),
                    }
                }
            }
            assert!(error.is_some_and(|error| error.contains("more than 200 times as many")));
            assert!(((1 << 30) - (8 << 20)..=1 << 30).contains(&given), "{given}");
        }
        // What packs well, as text does, is not stopped.
        let text: Vec<u8> = (0..4 << 20).flat_map(|n: u32| format!("{n:08},").into_bytes()).collect();
        let member = zstd::bulk::compress(&text, 1).expect("memory");
        let packed = member.repeat(36);
        let mut unpack = Unpack { free: 1 << 30, ..Unpack::recognise(&packed).expect("a stream") };
        let (mut packed, mut given) = (Bytes::from(packed), 0);
        while !packed.is_empty() {
            given += unpack.next(&mut packed).expect("within bounds").len() as u64;
        }
        assert!(given > 1 << 30, "{given}");
    }
}
