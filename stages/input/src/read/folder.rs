//! Image files and what lies beside them -> samples. A folder that directly holds images is one shard, and every image file
//! is a sample: its key is the file's name without its last suffix, dots kept.
//!
//! Of `NAME.jpg` the caption is `NAME.jpg.txt` or `NAME.txt`, the JSON `NAME.jpg.json` or `NAME.json`; what these do not say,
//! a metadata file may (see [`super::metadata`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectMeta};
use recaption_schemas::{Reject, RejectReason, name_bytes, name_text};

use super::{Reading, archive::Samples, metadata::Metadata};
use crate::{
    shards::{FileRole, FolderFiles},
    tar::MemberData,
    webdataset::{CAPTION_SUFFIXES, ImageMember, JSON_SUFFIX, MAX_SIDECAR_BYTES, RawSample, split_stem},
};
use recaption_messages::{ReadError, ReadStop, SNIFF_BYTES, ShardContents, is_image};
use recaption_store::{ErrorKind, Location, StoreKind, user_message};

/// Files asked for at the same time.
const PREFETCH: usize = 8;
/// What an ignored file is counted as when its store refuses it.
const UNREADABLE: &str = "cannot be read";

/// Reads a folder's files.
pub async fn read(reading: Reading<'_>) -> Result<ShardContents, ReadStop> {
    let files = reading.shard.files.clone().unwrap_or_default();
    for (reason, n) in &files.ignored {
        reading.tally.count(|counts| counts.ignore(reason, *n));
    }
    let metadata = metadata(reading, &files).await?;
    let images = images(reading, &files).await?;
    let keys = keys(&images.iter().map(name_of).collect::<Vec<_>>());
    let mut sidecars = Sidecars::among(&files);
    let planned: Vec<Planned> = images
        .into_iter()
        .zip(keys)
        .map(|(image, key)| {
            let (caption, json) = sidecars.of(name_of(&image));
            Planned { key: name_text(&name_bytes(&key)), image, caption, json }
        })
        .collect();
    sidecars.close(reading);
    let mut samples = Samples::new(reading);
    let mut fetched = stream::iter(planned).map(|planned| fetch(reading, planned)).buffered(PREFETCH);
    while let Some(one) = fetched.next().await {
        let index = samples.emitted;
        match one? {
            Fetched::Sample(mut raw, name) => {
                raw.index = index;
                tell(reading, &mut raw, &name, &metadata);
                samples.emit(*raw).await?;
            }
            Fetched::Refused { key, detail } => {
                samples.emitted += 1;
                reject_unreadable(reading, index, key, detail).await?;
            }
        }
    }
    Ok(ShardContents::whole(samples.emitted))
}

/// A file's name, as its store has it.
fn name_of(meta: &ObjectMeta) -> &str {
    meta.location.filename().unwrap_or_default()
}

/// The metadata files that speak of this folder, the nearest first, each with the path from its folder to this one.
async fn metadata(
    reading: Reading<'_>,
    files: &FolderFiles,
) -> Result<Vec<(String, Arc<Metadata>)>, ReadError> {
    let mut all = Vec::new();
    for file in &files.metadata {
        let metadata = reading.settings.metadata.get(reading, &file.meta, file.kind).await?;
        if file.counted {
            reading.tally.count(|counts| counts.unreadable_json += metadata.unreadable);
        }
        all.push((file.below.clone(), metadata));
    }
    Ok(all)
}

/// The files that are images: by their name, and where that says nothing, by their first bytes.
async fn images(reading: Reading<'_>, files: &FolderFiles) -> Result<Vec<ObjectMeta>, ReadError> {
    let (mut images, mut others) = (Vec::new(), 0);
    let wanted: Vec<(FileRole, ObjectMeta)> =
        files.files.iter().filter(|(role, _)| *role != FileRole::Sidecar).cloned().collect();
    let mut looked = stream::iter(wanted).map(|file| look(reading, file)).buffered(PREFETCH);
    while let Some((meta, found)) = looked.next().await {
        match found {
            Ok(true) => images.push(meta),
            Ok(false) => others += 1,
            Err(error) if ErrorKind::of_one(&error) => {
                reading.tally.count(|counts| counts.ignore(UNREADABLE, 1));
                tracing::warn!(file = %meta.location, error = user_message(&error), "a file cannot be looked at and is left out");
            }
            Err(error) => return Err(reading.transport(&error)),
        }
    }
    reading.tally.count(|counts| counts.ignore("no image by name or content", others));
    Ok(images)
}

/// A file, and whether it is an image.
async fn look(
    reading: Reading<'_>,
    (role, meta): (FileRole, ObjectMeta),
) -> (ObjectMeta, object_store::Result<bool>) {
    let found = match role {
        FileRole::Unknown => looks_like_image(&reading.shard.location, &meta).await,
        FileRole::Image | FileRole::Sidecar => Ok(true),
    };
    (meta, found)
}

/// Whether a file's first bytes are those of an image.
///
/// # Errors
/// When its store refuses.
pub async fn looks_like_image(location: &Location, meta: &ObjectMeta) -> object_store::Result<bool> {
    let end = meta.size.min(SNIFF_BYTES as u64);
    if end == 0 {
        return Ok(false);
    }
    let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..end)));
    let got = location.store.get_opts(&meta.location, options).await?;
    Ok(is_image(&got.bytes().await?))
}

/// Keys of a folder's images: their names without the last suffix, but for those of which that is not one's own.
fn keys(names: &[&str]) -> Vec<String> {
    let stems: Vec<&str> = names.iter().map(|name| split_stem(name).0).collect();
    let mut count: HashMap<&str, u32> = HashMap::new();
    for stem in &stems {
        *count.entry(stem).or_default() += 1;
    }
    let mut whole: HashSet<&str> =
        names.iter().zip(&stems).filter(|(_, s)| count[**s] > 1).map(|(n, _)| *n).collect();
    // A name that stays whole may be another's stem. Names are distinct, so this ends.
    loop {
        let before = whole.len();
        for (name, stem) in names.iter().zip(&stems) {
            if name != stem && whole.contains(stem) {
                whole.insert(name);
            }
        }
        if whole.len() == before {
            break;
        }
    }
    names
        .iter()
        .zip(&stems)
        .map(|(name, stem)| if whole.contains(name) { *name } else { *stem }.to_owned())
        .collect()
}

/// Captions and JSON that lie beside images.
struct Sidecars<'a> {
    /// By what stands before the suffix, and the suffix in lower case.
    by_name: HashMap<(String, String), &'a ObjectMeta>,
    used: HashSet<(String, String)>,
    suffixes: BTreeMap<&'static str, BTreeSet<String>>,
}

impl<'a> Sidecars<'a> {
    fn among(files: &'a FolderFiles) -> Self {
        let sidecars = files.files.iter().filter(|(role, _)| *role == FileRole::Sidecar);
        let by_name = sidecars.map(|(_, meta)| {
            let (before, suffix) = split_stem(name_of(meta));
            ((before.to_owned(), suffix), meta)
        });
        let by_name = by_name.collect();
        Self { by_name, used: HashSet::new(), suffixes: BTreeMap::new() }
    }

    /// Caption and JSON of an image.
    fn of(&mut self, image: &str) -> (Option<ObjectMeta>, Option<ObjectMeta>) {
        let (stem, suffix) = split_stem(image);
        self.suffixes.entry("image").or_default().insert(suffix);
        let mut find = |role: &'static str, suffixes: &[&str]| {
            for before in [image, stem] {
                for suffix in suffixes {
                    let name = (before.to_owned(), (*suffix).to_owned());
                    let Some(meta) = self.by_name.get(&name) else { continue };
                    self.used.insert(name);
                    self.suffixes.entry(role).or_default().insert((*suffix).to_owned());
                    return Some((*meta).clone());
                }
            }
            None
        };
        (find("caption", &CAPTION_SUFFIXES), find("meta", &[JSON_SUFFIX]))
    }

    /// All images were seen: counts what belongs to none, and says what is used.
    fn close(self, reading: Reading<'_>) {
        let left = self.by_name.len() - self.used.len();
        reading.tally.count(|counts| counts.ignore("text or JSON without an image", left as u64));
        let role = |role: &str| match self.suffixes.get(role) {
            Some(suffixes) => {
                let listed: Vec<String> = suffixes.iter().take(12).map(|s| format!(".{s}")).collect();
                format!("{role}={}", listed.join(", "))
            }
            None => format!("{role}=none"),
        };
        let metadata = reading.shard.files.as_ref().map_or(0, |files| files.metadata.len());
        let used =
            format!("{} {} {} metadata files={metadata}", role("image"), role("caption"), role("meta"));
        reading.settings.announced.say("folder", &used);
    }
}

/// An image with what lies beside it.
struct Planned {
    key: String,
    image: ObjectMeta,
    caption: Option<ObjectMeta>,
    json: Option<ObjectMeta>,
}

/// What came of a file.
enum Fetched {
    /// With the image's name.
    Sample(Box<RawSample>, String),
    /// The store hands it out no more, or not to us.
    Refused { key: String, detail: String },
}

async fn fetch(reading: Reading<'_>, planned: Planned) -> Result<Fetched, ReadError> {
    let Planned { key, image, caption, json } = planned;
    let data = if image.size > reading.settings.tar.max_member_bytes {
        MemberData::TooLarge { size: image.size }
    } else {
        match get(reading, &image).await {
            Ok(bytes) => MemberData::Bytes(bytes),
            Err(error) if ErrorKind::of_one(&error) => {
                let detail = format!("the file cannot be read: {}", user_message(&error));
                return Ok(Fetched::Refused { key, detail });
            }
            Err(error) => return Err(reading.transport(&error)),
        }
    };
    let name = name_of(&image).to_owned();
    let caption = text(reading, caption).await?;
    let json = text(reading, json).await?;
    let image = Some(ImageMember { suffix: split_stem(&name).1, data });
    let raw = RawSample { key, image, caption, json, ..RawSample::default() };
    Ok(Fetched::Sample(Box::new(raw), name))
}

/// A sidecar's text. One that cannot be read, or is too large, is counted.
async fn text(reading: Reading<'_>, meta: Option<ObjectMeta>) -> Result<Option<String>, ReadError> {
    let Some(meta) = meta else { return Ok(None) };
    let why = if meta.size > MAX_SIDECAR_BYTES {
        format!("it has {} bytes", meta.size)
    } else {
        match get(reading, &meta).await {
            Ok(bytes) => return Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if ErrorKind::of_one(&error) => user_message(&error),
            Err(error) => return Err(reading.transport(&error)),
        }
    };
    reading.tally.count(|counts| counts.ignore(UNREADABLE, 1));
    tracing::warn!(file = %meta.location, why, "a sidecar cannot be read and is left out");
    Ok(None)
}

/// Adds to a sample what its sidecars do not say.
fn tell(reading: Reading<'_>, raw: &mut RawSample, name: &str, metadata: &[(String, Arc<Metadata>)]) {
    let line = metadata.iter().find_map(|(below, metadata)| metadata.get(&format!("{below}{name}")));
    let Some(line) = line else { return };
    if raw.caption.as_deref().is_none_or(|text| text.trim().is_empty()) {
        raw.caption = reading.settings.captions.pick(&raw.key, &line.captions).map(String::from);
    }
    if raw.json.is_none() {
        raw.json = Some(line.json.clone());
    }
}

/// Rejects an image that its store does not return.
async fn reject_unreadable(
    reading: Reading<'_>,
    index: u64,
    key: String,
    detail: String,
) -> Result<(), ReadStop> {
    reading.tally.caption(None);
    if reading.keep_previous(index, &key).await? {
        return Ok(());
    }
    let reason = RejectReason::FetchFailed;
    let reject = Reject { key, reason, detail, caption: None, similarity: None, org_caption: None };
    Ok(reading.reject(index, reject).await?)
}

async fn get(reading: Reading<'_>, meta: &ObjectMeta) -> object_store::Result<Bytes> {
    let location = &reading.shard.location;
    let etag = if location.kind == StoreKind::Http { None } else { meta.e_tag.clone() };
    let got = location.store.get_opts(&meta.location, GetOptions::new().with_if_match(etag)).await?;
    let bytes = got.bytes().await?;
    reading.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::keys;

    #[test]
    fn keys_keep_their_dots_and_are_distinct() {
        assert_eq!(keys(&["1.2.840.5.png", "1.2.840.6.png", "a.jpg"]), ["1.2.840.5", "1.2.840.6", "a"]);
        assert_eq!(keys(&["top.jpg", "top.webp", "x"]), ["top.jpg", "top.webp", "x"]);
        // The whole name of one is the stem of another.
        assert_eq!(keys(&["a.jpg", "a.png", "a.jpg.gif"]), ["a.jpg", "a.png", "a.jpg.gif"]);
        assert_eq!(keys(&["a", "a.b", "a.b.c", "a.b.c.d"]), ["a", "a.b", "a.b.c", "a.b.c.d"]);
        assert_eq!(keys(&["1.2.3", "1.2.4"]), ["1.2.3", "1.2.4"], "what is no suffix may be taken for one");
        assert_eq!(keys(&[".jpg", "A.jpg", "a.jpg"]), [".jpg", "A", "a"]);
        let mut seed = 7_u64;
        for _ in 0..2000 {
            let names: std::collections::BTreeSet<String> = (0..8)
                .map(|_| {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let parts = ["a", "b", "jpg"];
                    let count = 1 + (seed >> 33) as usize % 4;
                    (0..count)
                        .map(|at| parts[(seed >> (35 + 3 * at)) as usize % 3])
                        .collect::<Vec<_>>()
                        .join(".")
                })
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let distinct: std::collections::BTreeSet<String> = keys(&names).into_iter().collect();
            assert_eq!(distinct.len(), names.len(), "{names:?}");
        }
    }
}
