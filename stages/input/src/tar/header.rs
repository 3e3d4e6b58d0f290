//! One 512-byte tar header block, decoded: checksum, numbers, name fields.
//!
//! Stands between the raw blocks that [`super::parser`] cuts from the stream and the members it
//! reports. Only the fields that a dataset reader needs are looked at (name, prefix, size, type,
//! link target); owners, modes and times are never parsed, so nonsense in them harms nothing.
//! Nothing here keeps state from one block to the next.

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
/// GNU's old sparse format: does another block of the sparse map follow this header?
const GNU_IS_EXTENDED: usize = 482;
/// The same flag inside such a further block.
const GNU_MAP_IS_EXTENDED: usize = 504;

/// POSIX archives; GNU's own format has a blank where this has a NUL, and uses the prefix's
/// bytes for other things.
const POSIX_MAGIC: &[u8] = b"ustar\0";

/// Why a block is not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The stored sum is neither the unsigned nor the signed sum of the block's bytes.
    #[error("the header's checksum is {computed:o} (octal), its checksum field holds \"{stored}\"")]
    Checksum {
        /// What the field holds, with unprintable bytes escaped.
        stored: String,
        /// Unsigned sum of the block, the checksum field counted as blanks.
        computed: u32,
    },
    /// The size is not an octal or base-256 number from 0 to `i64::MAX`.
    #[error("the header's size field holds \"{value}\", which is not a size")]
    Size {
        /// What the field holds, with unprintable bytes escaped.
        value: String,
    },
}

/// A block whose checksum holds.
#[derive(Debug)]
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK_BYTES],
}

impl<'a> Header<'a> {
    /// `None` for a block of zeros, the end marker.
    ///
    /// # Errors
    /// [`HeaderFault::Checksum`] when neither sum fits. Some old writers (Sun, NeXT) summed
    /// signed bytes, so both sums are accepted, as GNU tar and Python do.
    pub(super) fn decode(block: &'a [u8; BLOCK_BYTES]) -> Result<Option<Self>, HeaderFault> {
        let unsigned = unsigned_sum(block);
        if unsigned == BLANK_FIELD_SUM && block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored = number(&block[CHECKSUM]);
        if stored == Some(u64::from(unsigned)) || stored.is_some_and(|s| signed_sum_is(block, unsigned, s)) {
            return Ok(Some(Self { block }));
        }
        Err(HeaderFault::Checksum { stored: block[CHECKSUM].escape_ascii().to_string(), computed: unsigned })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[TYPE_FLAG]
    }

    /// Bytes of data that the header announces.
    ///
    /// # Errors
    /// [`HeaderFault::Size`] when the field is no number, negative, or beyond `i64::MAX`.
    pub(super) fn size(&self) -> Result<u64, HeaderFault> {
        let field = &self.block[SIZE];
        number(field)
            .filter(|size| *size <= MAX_SIZE)
            .ok_or_else(|| HeaderFault::Size { value: field.escape_ascii().to_string() })
    }

    /// The name as stored, with the ustar prefix before it in POSIX archives. (Python joins the
    /// prefix whatever the magic says, and so reads GNU's access times as a directory name.)
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

    /// Whether blocks of a sparse map lie between this header (type `S`) and its data.
    pub(super) fn sparse_map_follows(&self) -> bool {
        self.block[GNU_IS_EXTENDED] != 0
    }
}

/// Whether a block of a GNU sparse map is followed by another.
pub(super) fn sparse_map_continues(block: &[u8; BLOCK_BYTES]) -> bool {
    block[GNU_MAP_IS_EXTENDED] != 0
}

/// The bytes before the first NUL.
pub(super) fn cut_at_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What the checksum field adds to the sum: eight blanks.
const BLANK_FIELD_SUM: u32 = 8 * b' ' as u32;

fn unsigned_sum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(block) - sum(&block[CHECKSUM]) + BLANK_FIELD_SUM
}

/// A byte with its high bit set counts 256 less in the signed sum.
fn signed_sum_is(block: &[u8; BLOCK_BYTES], unsigned: u32, stored: u64) -> bool {
    let high = |bytes: &[u8]| bytes.iter().filter(|byte| **byte >= 0x80).count() as i64;
    let signed = i64::from(unsigned) - 256 * (high(block) - high(&block[CHECKSUM]));
    i64::try_from(stored) == Ok(signed)
}

/// A number field: octal digits between blanks or NULs (an empty field is 0), or, where the first
/// byte's high bit is set, GNU's base-256. `None` for anything else, negatives among it.
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
