//! The framing of a JPEG: markers, segments and entropy-coded data.

use crate::error::{DecodeError, thousands};

/// The entropy-coded data of a scan.
pub(super) struct EntropyData {
    /// Byte after its end.
    pub(super) end: usize,
    /// Number of restart markers in it.
    pub(super) restarts: u32,
}

/// Returns the next marker at or after `at`, skipping stray bytes, and the start of its body.
pub(super) fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xFF)?;
        if bytes[at] != 0 {
            return Some((bytes[at], at + 1));
        }
    }
}

/// Returns the body of the segment whose length field is at `at`; `None` if the file ends inside it.
pub(super) fn segment(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, DecodeError> {
    let Some(&[high, low]) = bytes.get(at..at + 2) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < 2 {
        return Err(DecodeError::corrupt(
            "JPEG",
            format!("has a segment of length {length} at byte {}", thousands(at as u64)),
        ));
    }
    Ok(bytes.get(at + 2..at + length))
}

/// Scans the entropy-coded data from `at` on: up to the next marker that is not a restart, or to the end of the file.
pub(super) fn entropy_data(bytes: &[u8], mut at: usize) -> EntropyData {
    let mut restarts = 0;
    while let Some(step) = bytes[at..].iter().position(|&byte| byte == 0xFF) {
        let marker = at + step;
        match bytes.get(marker + 1) {
            Some(0) => at = marker + 2,
            Some(0xFF) => at = marker + 1,
            Some(0xD0..=0xD7) => {
                restarts += 1;
                at = marker + 2;
            }
            // A marker, or the end of the file after 0xFF.
            _ => return EntropyData { end: marker, restarts },
        }
    }
    EntropyData { end: bytes.len(), restarts }
}

/// Returns the error of a coding that is not decoded.
pub(super) fn unsupported_coding(marker: u8) -> DecodeError {
    let coding = match marker {
        0xC3 => "lossless coding",
        0xC9..=0xCF => "arithmetic coding",
        0xDC => "a height that is given after the image",
        _ => "hierarchical coding",
    };
    DecodeError::unsupported("JPEG", coding)
}
