//! One 512-byte tar header block, decoded: checksum, numbers, name fields.
//!
//! Only the fields that a dataset reader needs are parsed (name, prefix, size, type, link target), so that invalid owners, modes
//! and times do no harm. No state is kept between blocks.

/// Bytes of a tar block; headers are one block, data is padded to whole blocks.
pub const BLOCK_BYTES: usize = 512;

/// The largest size a header may claim. GNU tar and Python keep sizes in a signed 64-bit number.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Fields of the POSIX ustar header (IEEE Std 1003.1, `pax`, "ustar Interchange Format").
const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE_FLAG: usize = 156;
const LINK_NAME: std::ops::Range<usize> = 157..257;
pub(super) const MAGIC: std::ops::Range<usize> = 257..263;
const PREFIX: std::ops::Range<usize> = 345..500;
/// GNU's old sparse format: whether another block of the sparse map follows this header.
const GNU_IS_EXTENDED: usize = 482;
/// The same flag in such a block.
const GNU_MAP_IS_EXTENDED: usize = 504;

/// Magic of POSIX archives. GNU's own format has a blank in place of the NUL, and other fields in place of the prefix.
const POSIX_MAGIC: &[u8] = b"ustar\0";

/// Why a block is not a valid header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The stored sum is neither the unsigned nor the signed sum of the block's bytes.
    #[error("the header's checksum is {computed:o} (octal), its checksum field holds \"{stored}\"")]
    Checksum {
        /// Content of the field, with unprintable bytes escaped.
        stored: String,
        /// Unsigned sum of the block, with blanks in the checksum field.
        computed: u32,
    },
    /// The size is not an octal or base-256 number from 0 to `i64::MAX`.
    #[error("the header's size field holds \"{value}\", which is not a size")]
    Size {
        /// Content of the field, with unprintable bytes escaped.
        value: String,
    },
}

/// A block with a valid checksum.
#[derive(Debug)]
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK_BYTES],
}

impl<'a> Header<'a> {
    /// Decodes a header block; `None` for a block of zeros, the end marker.
    ///
    /// # Errors
    /// [`HeaderError::Checksum`] when neither sum matches. Some old writers (Sun, NeXT) summed signed bytes, so that both sums are
    /// accepted, as in GNU tar and Python.
    pub(super) fn decode(block: &'a [u8; BLOCK_BYTES]) -> Result<Option<Self>, HeaderError> {
        let unsigned = unsigned_sum(block);
        if unsigned == BLANK_FIELD_SUM && block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored = number(&block[CHECKSUM]);
        if stored == Some(u64::from(unsigned)) || stored.is_some_and(|s| signed_sum_is(block, unsigned, s)) {
            return Ok(Some(Self { block }));
        }
        Err(HeaderError::Checksum { stored: block[CHECKSUM].escape_ascii().to_string(), computed: unsigned })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[TYPE_FLAG]
    }

    /// Returns the size of the data, bytes.
    ///
    /// # Errors
    /// [`HeaderError::Size`] when the field is not a number, negative, or beyond `i64::MAX`.
    pub(super) fn size(&self) -> Result<u64, HeaderError> {
        let field = &self.block[SIZE];
        number(field)
            .filter(|size| *size <= MAX_SIZE)
            .ok_or_else(|| HeaderError::Size { value: field.escape_ascii().to_string() })
    }

    /// Returns the name as stored, after the ustar prefix in POSIX archives. (Python joins the prefix whatever the magic, and so
    /// takes GNU's access times for a directory.)
    pub(super) fn name(&self) -> Vec<u8> {
        let name = cut_at_nul(&self.block[NAME]);
        let prefix = if self.block[MAGIC] == *POSIX_MAGIC { cut_at_nul(&self.block[PREFIX]) } else { &[] };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link_name(&self) -> &'a [u8] {
        cut_at_nul(&self.block[LINK_NAME])
    }

    /// Returns whether blocks of a sparse map follow this header (type `S`).
    pub(super) fn sparse_map_follows(&self) -> bool {
        self.block[GNU_IS_EXTENDED] != 0
    }
}

/// Returns whether a block is a header without doubt, so that a reader may begin there: a valid checksum, size and type, and the
/// magic of POSIX or GNU. (Headers of v7 have no magic, and are found only by reading from the archive's beginning.)
#[must_use]
pub fn is_header(block: &[u8; BLOCK_BYTES]) -> bool {
    let has_magic = block[MAGIC].starts_with(b"ustar");
    has_magic
        && Header::decode(block).is_ok_and(|header| {
            header.is_some_and(|header| {
                let flag = header.type_flag();
                header.size().is_ok() && (flag == 0 || flag.is_ascii_alphanumeric())
            })
        })
}

/// Returns whether another block of a GNU sparse map follows this one.
pub(super) fn sparse_map_continues(block: &[u8; BLOCK_BYTES]) -> bool {
    block[GNU_MAP_IS_EXTENDED] != 0
}

/// Returns the bytes before the first NUL.
pub(super) fn cut_at_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What the checksum field adds to the sum: eight blanks.
const BLANK_FIELD_SUM: u32 = 8 * b' ' as u32;

fn unsigned_sum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(block) - sum(&block[CHECKSUM]) + BLANK_FIELD_SUM
}

/// Returns whether `stored` is the signed sum, in which a byte with its high bit set counts 256 less.
fn signed_sum_is(block: &[u8; BLOCK_BYTES], unsigned: u32, stored: u64) -> bool {
    let high = |bytes: &[u8]| bytes.iter().filter(|byte| **byte >= 0x80).count() as i64;
    let signed = i64::from(unsigned) - 256 * (high(block) - high(&block[CHECKSUM]));
    i64::try_from(stored) == Ok(signed)
}

/// Parses a number field: octal digits between blanks or NULs (an empty field is 0), or GNU's base-256 if the high bit of the
/// first byte is set. `None` for anything else, including negative numbers.
fn number(field: &[u8]) -> Option<u64> {
    const BASE_256: u8 = 0x80;
    const NEGATIVE: u8 = 0x40;
    let (first, rest) = field.split_first()?;
    if first & BASE_256 != 0 {
        if first & NEGATIVE != 0 {
            return None;
        }
        let high = u64::from(first & !BASE_256);
        return rest
            .iter()
            .try_fold(high, |value, digit| value.checked_mul(256)?.checked_add(u64::from(*digit)));
    }
    let digits = field.trim_ascii_start().split(|byte| matches!(byte, 0 | b' ')).next()?;
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
