//! The directory of a zip file whose entries are stored without compression, as `torch.save` writes it.
//!
//! Own code instead of a crate: what torch writes needs the central directory, zip64 and nothing of decompression, encryption
//! or writing, and the reader must tell where an entry's bytes lie in the file. Entries that overlap, end behind the file, are
//! compressed or encrypted are refused.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

/// First bytes of a zip file, and of every entry.
pub(super) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// Size of the end-of-central-directory record without comment.
const END_BYTES: u64 = 22;
/// Longest comment behind it.
const MAX_COMMENT: u64 = 65_535;
/// Size of the zip64 locator, which stands before the end record.
const LOCATOR_BYTES: u64 = 20;
/// Largest central directory that is read, bytes: some 200,000 entries.
const MAX_DIRECTORY: u64 = 64 << 20;
/// Largest entry that is read by [`Archive::read_small`], bytes.
const MAX_SMALL: u64 = 64;

/// An entry's bytes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) len: u64,
}

/// The entries of a zip file by name.
pub(super) struct Archive<'a> {
    file: &'a File,
    places: BTreeMap<String, (Place, u32)>,
    /// Names of entries that are not stored as they are.
    compressed: Vec<String>,
}

/// An entry of the central directory.
struct Listed {
    name: String,
    header: u64,
    len: u64,
    crc: u32,
    is_compressed: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn truncated() -> String {
    "the zip directory at its end is missing or malformed: the file is truncated; download it again".into()
}

impl<'a> Archive<'a> {
    /// Reads the directory of a file of `size` bytes.
    ///
    /// # Errors
    /// When the directory is malformed, or an entry is not stored as it is within the file.
    pub(super) fn open(file: &'a File, size: u64) -> Result<Self, String> {
        let (start, len) = directory_place(file, size)?;
        if start.checked_add(len).is_none_or(|end| end > size) || len > MAX_DIRECTORY {
            return Err(truncated());
        }
        let bytes = read_at(file, start, len)?;
        let listed = parse_directory(&bytes)?;
        let (mut places, mut compressed) = (BTreeMap::new(), Vec::new());
        for entry in listed {
            if entry.is_compressed {
                compressed.push(entry.name);
                continue;
            }
            let place = data_place(file, &entry, start)?;
            if places.insert(entry.name.clone(), (place, entry.crc)).is_some() {
                return Err(format!("zip entry `{}` is there twice", entry.name));
            }
        }
        refuse_overlaps(&places)?;
        Ok(Self { file, places, compressed })
    }

    /// Returns the folder that holds `data.pkl`, with a slash at its end, or nothing where there is none.
    ///
    /// # Errors
    /// When no or several entries have that name, or the file is a TorchScript program.
    pub(super) fn pickle_prefix(&self) -> Result<&str, String> {
        let names = || self.places.keys().chain(&self.compressed).map(String::as_str);
        let mut prefixes = names().filter_map(|name| {
            let prefix = name.strip_suffix("data.pkl")?;
            (prefix.is_empty() || (prefix.ends_with('/') && prefix.matches('/').count() == 1))
                .then_some(prefix)
        });
        let (Some(prefix), None) = (prefixes.next(), prefixes.next()) else {
            return Err("a zip file without exactly one data.pkl: it was not written by torch.save".into());
        };
        if names().any(|name| name.strip_prefix(prefix) == Some("constants.pkl")) {
            return Err(
                "a TorchScript program (torch.jit.save), not a file of weights: save its state_dict() with torch.save"
                    .into(),
            );
        }
        if let Some(name) = self.compressed.first() {
            return Err(format!(
                "zip entry `{name}` is compressed, which torch.save never does: load the file with torch and save it again"
            ));
        }
        Ok(prefix)
    }

    /// Returns where an entry's bytes are, if there is such an entry.
    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.places.get(name).map(|(place, _)| *place)
    }

    /// Reads an entry of at most `most` bytes and compares it with its checksum.
    ///
    /// # Errors
    /// When it is missing, too large, unreadable or damaged.
    pub(super) fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, String> {
        let (place, crc) = self.places.get(name).ok_or_else(|| format!("zip entry `{name}` is missing"))?;
        if place.len > most {
            return Err(format!("zip entry `{name}` has {} bytes, at most {most} are read", place.len));
        }
        let bytes = read_at(self.file, place.start, place.len)?;
        if crc32(&bytes) != *crc {
            return Err(format!("zip entry `{name}` is damaged: its checksum differs"));
        }
        Ok(bytes)
    }

    /// Reads a short entry, `None` where there is none.
    ///
    /// # Errors
    /// When it is longer than [`MAX_SMALL`] bytes, unreadable or damaged.
    pub(super) fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        if !self.places.contains_key(name) {
            return Ok(None);
        }
        self.read(name, MAX_SMALL).map(Some)
    }
}

/// Reads `len` bytes, which were checked to be in the file.
fn read_at(file: &File, start: u64, len: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|e| e.to_string())?];
    file.read_exact_at(&mut bytes, start).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(bytes)
}

/// Returns where the central directory is: from the end record, or from zip64's where there is one.
fn directory_place(file: &File, size: u64) -> Result<(u64, u64), String> {
    let tail_len = size.min(END_BYTES + MAX_COMMENT + LOCATOR_BYTES);
    let tail = read_at(file, size - tail_len, tail_len)?;
    let at = (0..tail.len().saturating_sub(END_BYTES as usize - 1))
        .rev()
        .find(|at| {
            let comment = u16_at(&tail, at + 20).map(usize::from);
            tail[*at..].starts_with(b"PK\x05\x06") && comment == Some(tail.len() - at - END_BYTES as usize)
        })
        .ok_or_else(truncated)?;
    let end = &tail[at..];
    let locator = at.checked_sub(LOCATOR_BYTES as usize).map(|from| &tail[from..]);
    if let Some(locator) = locator.filter(|bytes| bytes.starts_with(b"PK\x06\x07")) {
        let record = u64_at(locator, 8).ok_or_else(truncated)?;
        if record.checked_add(56).is_none_or(|end| end > size) {
            return Err(truncated());
        }
        let record = read_at(file, record, 56)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(truncated());
        }
        return u64_at(&record, 48).zip(u64_at(&record, 40)).ok_or_else(truncated);
    }
    let (len, start) = u32_at(end, 12).zip(u32_at(end, 16)).ok_or_else(truncated)?;
    Ok((start.into(), len.into()))
}

/// Parses the central directory.
fn parse_directory(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    let mut listed = Vec::new();
    let mut rest = bytes;
    while rest.starts_with(b"PK\x01\x02") {
        let (entry, taken) = parse_listed(rest)?;
        rest = rest.get(taken..).ok_or_else(truncated)?;
        listed.extend(entry);
    }
    // Anything else here is a digital signature, which nobody writes.
    if rest.is_empty() { Ok(listed) } else { Err(truncated()) }
}

/// Parses one entry of the directory; folders are `None`. Returns how many bytes it takes.
fn parse_listed(bytes: &[u8]) -> Result<(Option<Listed>, usize), String> {
    let short = |at| u16_at(bytes, at).map(usize::from).ok_or_else(truncated);
    let long = |at| u32_at(bytes, at).ok_or_else(truncated);
    let (flags, method) = (short(8)?, short(10)?);
    let (name_len, extra_len, comment_len) = (short(28)?, short(30)?, short(32)?);
    let name = bytes.get(46..46 + name_len).ok_or_else(truncated)?;
    let name = std::str::from_utf8(name).map_err(|_| "a zip entry's name is not UTF-8".to_owned())?;
    let extra = bytes.get(46 + name_len..46 + name_len + extra_len).ok_or_else(truncated)?;
    let taken = 46 + name_len + extra_len + comment_len;
    if name.ends_with('/') {
        return Ok((None, taken));
    }
    if flags & 1 != 0 {
        return Err(format!("zip entry `{name}` is encrypted"));
    }
    let (crc, stored, len, header) = (long(16)?, long(20)?, long(24)?, long(42)?);
    let (len, stored, header) = with_zip64(extra, [len, stored, header])?;
    let is_compressed = method != 0 || stored != len;
    Ok((Some(Listed { name: name.to_owned(), header, len, crc, is_compressed }), taken))
}

/// Returns length, stored length and header position, each from the zip64 field where it does not fit 32 bits.
fn with_zip64(extra: &[u8], fields: [u32; 3]) -> Result<(u64, u64, u64), String> {
    let mut wide: &[u8] = &[];
    let mut rest = extra;
    while rest.len() >= 4 {
        let (id, len) = u16_at(rest, 0).zip(u16_at(rest, 2)).ok_or_else(truncated)?;
        let Some(field) = rest.get(4..4 + usize::from(len)) else { break };
        if id == 1 {
            wide = field;
        }
        rest = &rest[4 + usize::from(len)..];
    }
    let mut values = [0; 3];
    for (value, field) in values.iter_mut().zip(fields) {
        *value = if field == u32::MAX {
            let wider = u64_at(wide, 0).ok_or_else(truncated)?;
            wide = &wide[8..];
            wider
        } else {
            field.into()
        };
    }
    Ok((values[0], values[1], values[2]))
}

/// Reads an entry's local header and returns where its bytes are; they end before the directory at `end`.
fn data_place(file: &File, entry: &Listed, end: u64) -> Result<Place, String> {
    let broken = || format!("zip entry `{}` is malformed or lies outside of the file", entry.name);
    if entry.header.checked_add(30).is_none_or(|header_end| header_end > end) {
        return Err(broken());
    }
    let header = read_at(file, entry.header, 30)?;
    let (name_len, extra_len) = u16_at(&header, 26).zip(u16_at(&header, 28)).ok_or_else(broken)?;
    let name_start = entry.header + 30;
    let start = name_start + u64::from(name_len) + u64::from(extra_len);
    let fits = start.checked_add(entry.len).is_some_and(|data_end| data_end <= end);
    if !header.starts_with(ZIP_MAGIC) || !fits {
        return Err(broken());
    }
    if read_at(file, name_start, name_len.into())? != entry.name.as_bytes() {
        return Err(format!("zip entry `{}` has another name in its header", entry.name));
    }
    Ok(Place { start, len: entry.len })
}

/// Refuses a file whose entries share bytes.
fn refuse_overlaps(places: &BTreeMap<String, (Place, u32)>) -> Result<(), String> {
    let mut sorted: Vec<(&str, Place)> =
        places.iter().map(|(name, (place, _))| (name.as_str(), *place)).collect();
    sorted.sort_by_key(|(_, place)| (place.start, place.len));
    for pair in sorted.windows(2) {
        if pair[0].1.start + pair[0].1.len > pair[1].1.start {
            return Err(format!("zip entries `{}` and `{}` overlap", pair[0].0, pair[1].0));
        }
    }
    Ok(())
}

/// Returns the CRC-32 that zip files use (ISO 3309), bit by bit: only the pickle is checked, some hundred kilobytes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}
