//! PAX extended header records: `"<length> <keyword>=<value>\n"`, one after another.
//!
//! A record block (type `x` for the next member, `g` for all following) overrides fields of the ustar header. Only keywords that
//! change which bytes belong to which name are parsed: `path`, `linkpath`, `size`, and GNU's sparse keywords. An invalid record
//! is an error, since it may hold the size of the next member.

/// Fields of the header that records override; `None` where they do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxFields {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Whether the member is a sparse file in one of GNU's PAX encodings.
    pub(super) sparse: bool,
}

/// Why a block of PAX records is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaxError {
    /// Not `"<length> <keyword>=<value>\n"`, or longer than the block.
    #[error("its PAX records are malformed at byte {at} of the record block")]
    Malformed {
        /// Offset within the record block.
        at: usize,
    },
    /// `size` is not a decimal number up to `i64::MAX`.
    #[error("its PAX size is \"{value}\", which is not a size")]
    Size {
        /// The value, with unprintable bytes escaped.
        value: String,
    },
}

impl PaxFields {
    /// Parses all records of a block. The last record of a repeated keyword counts (POSIX), and an empty value does not override.
    /// Values are cut at NULs. NULs after the last record are padding.
    ///
    /// # Errors
    /// [`PaxError`] at the first malformed record, or a `size` that is not a size.
    pub(super) fn parse(records: &[u8]) -> Result<Self, PaxError> {
        let mut fields = Self::default();
        let mut sparse_name = None;
        let mut at = 0;
        while records[at..].iter().any(|byte| *byte != 0) {
            let (keyword, value, length) = record(&records[at..]).ok_or(PaxError::Malformed { at })?;
            at += length;
            if keyword.starts_with(b"GNU.sparse.") {
                fields.sparse = true;
            }
            match keyword {
                b"path" => fields.path = text(value),
                b"linkpath" => fields.link_path = text(value),
                b"size" => fields.size = size(value)?,
                b"GNU.sparse.name" => sparse_name = text(value),
                _ => {}
            }
        }
        fields.path = sparse_name.or(fields.path);
        Ok(fields)
    }

    /// Returns these fields, and those of `global` where these are `None`.
    pub(super) fn or(self, global: &Self) -> Self {
        Self {
            path: self.path.or_else(|| global.path.clone()),
            link_path: self.link_path.or_else(|| global.link_path.clone()),
            size: self.size.or(global.size),
            sparse: self.sparse || global.sparse,
        }
    }
}

/// Returns the first record: keyword, value, length in bytes.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let blank = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..blank])?).ok()?;
    let body = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], length))
}

fn text(value: &[u8]) -> Option<Vec<u8>> {
    Some(super::header::cut_at_nul(value)).filter(|value| !value.is_empty()).map(<[u8]>::to_vec)
}

fn size(value: &[u8]) -> Result<Option<u64>, PaxError> {
    if value.is_empty() {
        return Ok(None);
    }
    decimal(value)
        .filter(|size| i64::try_from(*size).is_ok())
        .map(Some)
        .ok_or_else(|| PaxError::Size { value: value.escape_ascii().to_string() })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
