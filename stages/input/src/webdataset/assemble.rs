//! The assembler: one open sample, and the keys of all samples before.
//!
//! Decides which members form a sample, and which of several candidates is its image, caption and JSON: the best rank wins, and
//! within a rank the first.

use std::collections::HashSet;

use super::members::Members;
use super::name::{NameClass, last_part, split_name};
use super::{
    CAPTION_SUFFIXES, IMAGE_SUFFIXES, IgnoredMembers, ImageMember, JSON_SUFFIX, MAX_LISTED_SUFFIXES,
    MAX_SIDECAR_BYTES, Note, RawSample, Tail, UNSUPPORTED_IMAGE_SUFFIXES,
};
use crate::keys::KeySet;
use crate::tar::{Member, MemberData, MemberKind};
use recaption_messages::is_image;

/// Groups the members of one shard into samples, in the archive's order.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Suffixes of preferred images, the best first.
    preferred: Vec<String>,
    members: Members,
    open: Option<OpenSample>,
    next_index: u64,
    keys: KeySet,
    ignored: IgnoredMembers,
}

/// The sample whose members are arriving.
#[derive(Debug)]
struct OpenSample {
    index: u64,
    key: String,
    is_duplicate: bool,
    /// All suffixes so far, to recognise a repeated one.
    seen: HashSet<String>,
    /// Bytes of all these suffixes.
    seen_bytes: usize,
    image: Option<Candidate<MemberData>>,
    caption: Option<Candidate<String>>,
    json: Option<Candidate<String>>,
    /// Positions in the sample and suffixes of the members that were not chosen.
    others: Vec<(u64, String)>,
    other_count: u64,
    extra_images: Vec<(u64, String)>,
    extra_image_count: u64,
    notes: Vec<Note>,
}

/// The best member so far for a role.
#[derive(Debug)]
struct Candidate<T> {
    /// 0 is best.
    rank: usize,
    position: u64,
    suffix: String,
    value: T,
}

impl Assembler {
    /// Creates an assembler at the start of a shard.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an assembler that prefers images of these suffixes to all others, the best first.
    pub fn with_preferred_images(suffixes: Vec<String>) -> Self {
        let preferred = suffixes.into_iter().map(|s| s.trim_start_matches('.').to_lowercase()).collect();
        Self { preferred, ..Self::default() }
    }

    /// Returns the suffixes of the completed samples, by role.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Takes the next member, and returns the sample before it if that is now complete.
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

    /// Returns the last sample, which is open until the archive ends. After a damaged tail it is
    /// [truncated](RawSample::is_truncated), unless the truncated member belongs to another sample.
    pub fn finish(&mut self, tail: Tail<'_>) -> Option<RawSample> {
        let open = self.open.take()?;
        let is_truncated = match tail {
            Tail::Complete => false,
            Tail::Damaged { cut_file: None } => true,
            Tail::Damaged { cut_file: Some(name) } => match split_name(name) {
                NameClass::Part { key, suffix } => key == open.key && !open.seen.contains(&suffix),
                // A hidden or meta member may stand between two members of a sample.
                NameClass::Meta | NameClass::Hidden => true,
            },
        };
        Some(self.close(open, is_truncated))
    }

    fn close(&mut self, open: OpenSample, is_truncated: bool) -> RawSample {
        let suffix = |candidate: &Option<Candidate<String>>| candidate.as_ref().map(|c| c.suffix.clone());
        let (caption, json) = (suffix(&open.caption), suffix(&open.json));
        let raw = open.close(is_truncated);
        self.members.add(&raw, caption, json);
        raw
    }

    /// Returns the members that belong to no sample, so far.
    pub fn ignored(&self) -> IgnoredMembers {
        self.ignored
    }

    /// Returns the number of samples begun so far: the index of the next one.
    pub fn samples(&self) -> u64 {
        self.next_index
    }

    /// Returns the bytes that the open sample holds: image, texts and names.
    pub fn bytes_held(&self) -> usize {
        self.open.as_ref().map_or(0, OpenSample::bytes_held)
    }

    fn begin(&mut self, key: &str) -> OpenSample {
        let index = self.next_index;
        self.next_index += 1;
        OpenSample {
            index,
            key: key.to_owned(),
            is_duplicate: !self.keys.insert(key),
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

impl OpenSample {
    fn add(&mut self, suffix: String, data: MemberData, preferred: &[String]) {
        let position = self.seen.len() as u64;
        self.seen_bytes += suffix.len();
        self.seen.insert(suffix.clone());
        if let Some(rank) = image_rank(&suffix, &data, preferred) {
            let unchosen = keep_better(&mut self.image, Candidate { rank, position, suffix, value: data });
            if let Some(extra) = &unchosen {
                self.extra_image_count += 1;
                if self.extra_images.len() < MAX_LISTED_SUFFIXES {
                    self.extra_images.push(extra.clone());
                }
            }
            self.add_other(unchosen);
        } else if let Some(rank) = rank_among(&suffix, &CAPTION_SUFFIXES) {
            let unchosen = match self.text(&suffix, data) {
                Some(value) => keep_better(&mut self.caption, Candidate { rank, position, suffix, value }),
                None => Some((position, suffix)),
            };
            self.add_other(unchosen);
        } else if let Some(rank) = rank_among(&suffix, &[JSON_SUFFIX]) {
            let unchosen = match self.text(&suffix, data) {
                Some(value) => keep_better(&mut self.json, Candidate { rank, position, suffix, value }),
                None => Some((position, suffix)),
            };
            self.add_other(unchosen);
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

    /// Returns the text of a sidecar, or notes why there is none.
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

    fn close(mut self, is_truncated: bool) -> RawSample {
        self.others.sort_unstable_by_key(|(position, _)| *position);
        self.extra_images.sort_unstable_by_key(|(position, _)| *position);
        RawSample {
            index: self.index,
            key: self.key,
            is_duplicate: self.is_duplicate,
            is_truncated,
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

/// Replaces the best candidate by `other` if that is better. Returns position and suffix of the one that is not chosen.
fn keep_better<T>(best: &mut Option<Candidate<T>>, other: Candidate<T>) -> Option<(u64, String)> {
    let unchosen = match best {
        Some(current) if current.rank <= other.rank => Some(other),
        _ => best.replace(other),
    };
    unchosen.map(|candidate| (candidate.position, candidate.suffix))
}

/// Returns the rank of an image, 0 the best; `None` if it is not an image. Preferred suffixes come first, in their order; then
/// decoded formats by exact suffix, decoded formats by the last part of a compound suffix, images by content, and formats that
/// are only recognised.
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

/// Returns the rank of a suffix among `wanted`, exact suffixes before compound ones; `None` if it is not among them.
fn rank_among(suffix: &str, wanted: &[&str]) -> Option<usize> {
    let last = last_part(suffix);
    let place = wanted.iter().position(|wanted| *wanted == last)?;
    Some(if last == suffix { place } else { wanted.len() + place })
}
