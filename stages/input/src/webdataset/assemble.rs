//! The assembler: one open sample, and the keys that were there before.
//!
//! Which members a sample consists of is decided here, and which of several candidates is its
//! image, its caption and its JSON: the best rank wins, and within a rank the first.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::members::Members;
use super::name::{NameClass, last_part, split_name};
use super::{
    CAPTION_SUFFIXES, IMAGE_SUFFIXES, IgnoredMembers, ImageMember, JSON_SUFFIX, MAX_LISTED_SUFFIXES,
    MAX_SIDECAR_BYTES, Note, RawSample, Tail, UNSUPPORTED_IMAGE_SUFFIXES,
};
use crate::tar::{Member, MemberData, MemberKind};
use recaption_messages::is_image;

/// Groups the members of one shard into samples, in the archive's order.
///
/// Keys are remembered as the first 128 bits of their SHA-256: among a million keys, two
/// different ones share a digest with odds of 1 to 7e26, which are (n²/2) / 2^128.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Suffixes of the image that is wanted, the best first.
    preferred: Vec<String>,
    members: Members,
    open: Option<Open>,
    next_index: u64,
    keys: Keys,
    ignored: IgnoredMembers,
}

/// The keys of a shard's samples so far, 16 bytes each.
#[derive(Debug, Default)]
pub struct Keys(HashSet<u128>);

impl Keys {
    /// Whether `key` was not there before; it is from now on.
    pub fn is_new(&mut self, key: &str) -> bool {
        self.0.insert(digest(key))
    }
}

/// The sample whose members are arriving.
#[derive(Debug)]
struct Open {
    index: u64,
    key: String,
    duplicate: bool,
    /// Every suffix so far, to tell when one comes again.
    seen: HashSet<String>,
    /// Bytes of all these suffixes.
    seen_bytes: usize,
    image: Option<Candidate<MemberData>>,
    caption: Option<Candidate<String>>,
    json: Option<Candidate<String>>,
    /// The members' positions in the sample and their suffixes; the chosen are not among them.
    others: Vec<(u64, String)>,
    other_count: u64,
    extra_images: Vec<(u64, String)>,
    extra_image_count: u64,
    notes: Vec<Note>,
}

/// The best member so far for one of the roles.
#[derive(Debug)]
struct Candidate<T> {
    /// 0 is best.
    rank: usize,
    position: u64,
    suffix: String,
    value: T,
}

impl Assembler {
    /// An assembler at the start of a shard.
    pub fn new() -> Self {
        Self::default()
    }

    /// An assembler that takes images of these suffixes before all others, the best first.
    pub fn preferring(suffixes: Vec<String>) -> Self {
        let preferred = suffixes.into_iter().map(|s| s.trim_start_matches('.').to_lowercase()).collect();
        Self { preferred, ..Self::default() }
    }

    /// What the samples that were handed out consist of.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Takes the next member; gives the sample before it when that is now complete.
    pub fn push(&mut self, member: Member) -> Option<RawSample> {
        let data = match member.kind {
            MemberKind::File(data) => data,
            MemberKind::Directory => {
                self.ignored.directories += 1;
                return None;
            }
            MemberKind::Other { .. } => {
                self.ignored.other += 1;
                return None;
            }
        };
        let (key, suffix) = match split_name(&member.name) {
            NameClass::Part { key, suffix } => (key, suffix),
            NameClass::Meta => {
                self.ignored.meta += 1;
                return None;
            }
            NameClass::Hidden => {
                self.ignored.hidden += 1;
                return None;
            }
        };
        if let Some(open) = &mut self.open
            && open.key == key
            && !open.seen.contains(&suffix)
        {
            open.add(suffix, data, &self.preferred);
            return None;
        }
        let mut next = self.begin(key);
        next.add(suffix, data, &self.preferred);
        let done = self.open.replace(next)?;
        Some(self.close(done, false))
    }

    /// The last sample, which is open until the archive ends. With a broken tail it is marked
    /// [`RawSample::cut`], unless the member that was cut belongs to another sample: then nothing
    /// of this one is missing.
    pub fn finish(&mut self, tail: Tail<'_>) -> Option<RawSample> {
        let open = self.open.take()?;
        let cut = match tail {
            Tail::Whole => false,
            Tail::Broken { cut_file: None } => true,
            Tail::Broken { cut_file: Some(name) } => match split_name(name) {
                NameClass::Part { key, suffix } => key == open.key && !open.seen.contains(&suffix),
                // A hidden or meta member may stand between two members of a sample.
                NameClass::Meta | NameClass::Hidden => true,
            },
        };
        Some(self.close(open, cut))
    }

    fn close(&mut self, open: Open, cut: bool) -> RawSample {
        let suffix = |candidate: &Option<Candidate<String>>| candidate.as_ref().map(|c| c.suffix.clone());
        let (caption, json) = (suffix(&open.caption), suffix(&open.json));
        let raw = open.close(cut);
        self.members.add(&raw, caption, json);
        raw
    }

    /// Members that belong to no sample, so far.
    pub fn ignored(&self) -> IgnoredMembers {
        self.ignored
    }

    /// Samples begun so far; the index of the next one.
    pub fn samples(&self) -> u64 {
        self.next_index
    }

    /// Bytes that the open sample holds in memory: image, texts and names.
    pub fn bytes_held(&self) -> usize {
        self.open.as_ref().map_or(0, Open::bytes_held)
    }

    fn begin(&mut self, key: &str) -> Open {
        let index = self.next_index;
        self.next_index += 1;
        Open {
            index,
            key: key.to_owned(),
            duplicate: !self.keys.is_new(key),
            seen: HashSet::new(),
            seen_bytes: 0,
            image: None,
            caption: None,
            json: None,
            others: Vec::new(),
            other_count: 0,
            extra_images: Vec::new(),
            extra_image_count: 0,
            notes: Vec::new(),
        }
    }
}

impl Open {
    fn add(&mut self, suffix: String, data: MemberData, preferred: &[String]) {
        let position = self.seen.len() as u64;
        self.seen_bytes += suffix.len();
        self.seen.insert(suffix.clone());
        if let Some(rank) = image_rank(&suffix, &data, preferred) {
            let beaten = keep_better(&mut self.image, Candidate { rank, position, suffix, value: data });
            if let Some(extra) = &beaten {
                self.extra_image_count += 1;
                if self.extra_images.len() < MAX_LISTED_SUFFIXES {
                    self.extra_images.push(extra.clone());
                }
            }
            self.add_other(beaten);
        } else if let Some(rank) = rank_among(&suffix, &CAPTION_SUFFIXES) {
            let beaten = match self.text(&suffix, data) {
                Some(value) => keep_better(&mut self.caption, Candidate { rank, position, suffix, value }),
                None => Some((position, suffix)),
            };
            self.add_other(beaten);
        } else if let Some(rank) = rank_among(&suffix, &[JSON_SUFFIX]) {
            let beaten = match self.text(&suffix, data) {
                Some(value) => keep_better(&mut self.json, Candidate { rank, position, suffix, value }),
                None => Some((position, suffix)),
            };
            self.add_other(beaten);
        } else {
            self.add_other(Some((position, suffix)));
        }
    }

    fn add_other(&mut self, other: Option<(u64, String)>) {
        let Some(other) = other else { return };
        self.other_count += 1;
        if self.others.len() < MAX_LISTED_SUFFIXES {
            self.others.push(other);
        }
    }

    /// A sidecar's text, or a note why there is none.
    fn text(&mut self, suffix: &str, data: MemberData) -> Option<String> {
        let suffix = || suffix.to_owned();
        let note = match &data {
            MemberData::Bytes(bytes) if bytes.len() as u64 <= MAX_SIDECAR_BYTES => {
                return Some(String::from_utf8_lossy(bytes).into_owned());
            }
            MemberData::Bytes(bytes) => Note::SidecarTooLarge { suffix: suffix(), size: bytes.len() as u64 },
            MemberData::TooLarge { size } => Note::SidecarTooLarge { suffix: suffix(), size: *size },
            MemberData::Link { .. } | MemberData::Sparse => {
                Note::SidecarWithoutBytes { suffix: suffix(), why: data.why_no_bytes().unwrap_or_default() }
            }
        };
        if self.notes.len() < MAX_LISTED_SUFFIXES {
            self.notes.push(note);
        }
        None
    }

    fn close(mut self, cut: bool) -> RawSample {
        self.others.sort_unstable_by_key(|(position, _)| *position);
        self.extra_images.sort_unstable_by_key(|(position, _)| *position);
        RawSample {
            index: self.index,
            key: self.key,
            duplicate: self.duplicate,
            cut,
            image: self.image.map(|image| ImageMember { suffix: image.suffix, data: image.value }),
            caption: self.caption.map(|caption| caption.value),
            json: self.json.map(|json| json.value),
            other_suffixes: self.others.into_iter().map(|(_, suffix)| suffix).collect(),
            other_count: self.other_count,
            extra_images: self.extra_images.into_iter().map(|(_, suffix)| suffix).collect(),
            extra_image_count: self.extra_image_count,
            notes: self.notes,
        }
    }

    fn bytes_held(&self) -> usize {
        let image = self.image.as_ref().map_or(0, |image| image.value.len());
        let text = |text: &Option<Candidate<String>>| text.as_ref().map_or(0, |text| text.value.len());
        self.key.len() + image + text(&self.caption) + text(&self.json) + self.seen_bytes
    }
}

/// Puts the newcomer in its place if it is better; position and suffix of the one that is not
/// taken.
fn keep_better<T>(place: &mut Option<Candidate<T>>, newcomer: Candidate<T>) -> Option<(u64, String)> {
    let beaten = match place {
        Some(holder) if holder.rank <= newcomer.rank => Some(newcomer),
        _ => place.replace(newcomer),
    };
    beaten.map(|candidate| (candidate.position, candidate.suffix))
}

/// The suffixes that are preferred, in their order; then supported formats by their exact suffix, then by the last part of a
/// compound one, then what is an image by its content whatever its suffix, then formats that are only recognised; `None` for
/// what is no image.
fn image_rank(suffix: &str, data: &MemberData, preferred: &[String]) -> Option<usize> {
    const EXACT: usize = 0;
    const COMPOUND: usize = 1;
    const BY_CONTENT: usize = 2;
    const UNSUPPORTED: usize = 3;
    let last = last_part(suffix);
    let is_text = last == JSON_SUFFIX || CAPTION_SUFFIXES.contains(&last);
    let rank = if IMAGE_SUFFIXES.contains(&last) {
        if last == suffix { EXACT } else { COMPOUND }
    } else if UNSUPPORTED_IMAGE_SUFFIXES.contains(&last) {
        UNSUPPORTED
    } else if !is_text && matches!(data, MemberData::Bytes(bytes) if is_image(bytes)) {
        BY_CONTENT
    } else {
        return None;
    };
    let preference = preferred.iter().position(|wanted| wanted == suffix || wanted == last);
    Some(preference.unwrap_or(preferred.len() + rank))
}

/// The place in `wanted`, exact suffixes before compound ones; `None` for what is not in it.
fn rank_among(suffix: &str, wanted: &[&str]) -> Option<usize> {
    let last = last_part(suffix);
    let place = wanted.iter().position(|wanted| *wanted == last)?;
    Some(if last == suffix { place } else { wanted.len() + place })
}

/// The first 128 bits of the key's SHA-256.
fn digest(key: &str) -> u128 {
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().take(size_of::<u128>()).fold(0, |value, byte| value << 8 | u128::from(*byte))
}
