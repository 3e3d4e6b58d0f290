//! A folder of image files -> samples. Every image directly in it is a sample, whose key is the file's name without its last
//! suffix; other dots stay.
//!
//! The caption of `NAME.jpg` is `NAME.jpg.txt` or `NAME.txt`, its JSON `NAME.jpg.json` or `NAME.json`; what is missing may come
//! from a metadata file (see [`super::metadata`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::{GetOptions, ObjectMeta};
use recaption_schemas::{Reject, RejectReason, name_bytes, name_text};

use super::{
    context::ReadContext, metadata::Metadata, metadata_file::load_metadata, places::Places,
    raw_samples::RawSamples, sidecars::Sidecars,
};
use crate::{
    shards::{FileRole, FolderFiles, is_image_file},
    tar::MemberData,
    webdataset::{ImageMember, MAX_SIDECAR_BYTES, RawSample, split_stem},
};
use recaption_messages::{ReadError, ReadStop, ShardContents};
use recaption_store::{ErrorKind, StoreKind, user_message};

/// Files requested at the same time.
const PREFETCH: usize = 8;
/// Reason by which an ignored file is counted if its store rejects it: a key of commit records.
const UNREADABLE: &str = "cannot be read";

/// Reads the images of a folder.
pub(super) async fn read(context: ReadContext<'_>, files: &FolderFiles) -> Result<ShardContents, ReadStop> {
    Ok(read_some(context, files, None).await?.0)
}

/// Reads the images of a folder, or those at some places; returns the number of all images too.
pub(super) async fn read_some(
    context: ReadContext<'_>,
    files: &FolderFiles,
    places: Option<&Places>,
) -> Result<(ShardContents, u64), ReadStop> {
    for (reason, n) in &files.ignored {
        context.counts.update(|counts| counts.ignore(reason, *n));
    }
    let metadata = metadata_of(context, files).await?;
    let images = find_images(context, files).await?;
    let keys = keys(&images.iter().map(name_of).collect::<Vec<_>>());
    let mut sidecars = Sidecars::of_folder(files);
    let mut planned: Vec<PlannedSample> = images
        .into_iter()
        .zip(keys)
        .zip(0..)
        .map(|((image, key), index)| {
            let (caption, json) = sidecars.of_image(name_of(&image));
            PlannedSample { index, key: name_text(&name_bytes(&key)), image, caption, json }
        })
        .collect();
    sidecars.close(context, files.metadata.len());
    let total = planned.len() as u64;
    if let Some(places) = places {
        let chosen = places.numbers_below(total);
        planned.retain(|sample| chosen.contains(&sample.index));
    }
    let mut samples = RawSamples::new(context);
    let mut fetched = stream::iter(planned).map(|planned| read_files(context, planned)).buffered(PREFETCH);
    while let Some(file) = fetched.next().await {
        match file? {
            ReadFile::Sample(mut raw, name) => {
                add_metadata(context, &mut raw, &name, &metadata);
                samples.send(*raw).await?;
            }
            ReadFile::Unreadable { index, key, detail } => {
                samples.count += 1;
                reject_unreadable(context, index, key, detail).await?;
            }
        }
    }
    Ok((ShardContents::whole(samples.count), total))
}

/// Returns a file's name, as its store has it.
fn name_of(meta: &ObjectMeta) -> &str {
    meta.location.filename().unwrap_or_default()
}

/// Returns the metadata that describes this folder, the nearest first, each with the path from its folder to this one.
async fn metadata_of(
    context: ReadContext<'_>,
    files: &FolderFiles,
) -> Result<Vec<(String, Arc<Metadata>)>, ReadError> {
    let mut all = Vec::new();
    for file in &files.metadata {
        let metadata = load_metadata(context, &file.meta, file.kind).await?;
        if file.is_counted {
            context.counts.update(|counts| counts.unreadable_json += metadata.malformed);
        }
        all.push((file.relative_path.clone(), metadata));
    }
    Ok(all)
}

/// Returns the files that are images, by their name or else by their first bytes.
pub(super) async fn find_images(
    context: ReadContext<'_>,
    files: &FolderFiles,
) -> Result<Vec<ObjectMeta>, ReadError> {
    let (mut images, mut others) = (Vec::new(), 0);
    let candidates: Vec<(FileRole, ObjectMeta)> =
        files.files.iter().filter(|(role, _)| *role != FileRole::Sidecar).cloned().collect();
    let mut checked = stream::iter(candidates).map(|file| check_image(context, file)).buffered(PREFETCH);
    while let Some((meta, found)) = checked.next().await {
        match found {
            Ok(true) => images.push(meta),
            Ok(false) => others += 1,
            Err(error) if ErrorKind::is_of_one_object(&error) => {
                context.counts.update(|counts| counts.ignore(UNREADABLE, 1));
                tracing::warn!(file = %meta.location, error = user_message(&error), "skipped a file that cannot be read");
            }
            Err(error) => return Err(context.store_error(&error)),
        }
    }
    context.counts.update(|counts| counts.ignore("no image by name or content", others));
    Ok(images)
}

/// Returns a file, and whether it is an image.
async fn check_image(
    context: ReadContext<'_>,
    (role, meta): (FileRole, ObjectMeta),
) -> (ObjectMeta, object_store::Result<bool>) {
    let found = match role {
        FileRole::Unknown => is_image_file(&context.shard.location, &meta).await,
        FileRole::Image | FileRole::Sidecar => Ok(true),
    };
    (meta, found)
}

/// Returns the keys of a folder's images: their names without the last suffix, unless several names share that.
fn keys(names: &[&str]) -> Vec<String> {
    let stems: Vec<&str> = names.iter().map(|name| split_stem(name).0).collect();
    let mut count: HashMap<&str, u32> = HashMap::new();
    for stem in &stems {
        *count.entry(stem).or_default() += 1;
    }
    let mut whole: HashSet<&str> =
        names.iter().zip(&stems).filter(|(_, s)| count[**s] > 1).map(|(n, _)| *n).collect();
    // A whole name may be the stem of another. Names are distinct, so that this ends.
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

/// An image and its sidecars.
struct PlannedSample {
    /// Position among the images of the folder.
    index: u64,
    key: String,
    image: ObjectMeta,
    caption: Option<ObjectMeta>,
    json: Option<ObjectMeta>,
}

/// The result of reading an image file.
enum ReadFile {
    /// A sample, and the name of the image.
    Sample(Box<RawSample>, String),
    /// The store rejects the file: it is gone, or access is denied.
    Unreadable { index: u64, key: String, detail: String },
}

/// Reads an image and its sidecars.
async fn read_files(context: ReadContext<'_>, planned: PlannedSample) -> Result<ReadFile, ReadError> {
    let PlannedSample { index, key, image, caption, json } = planned;
    let data = if image.size > context.settings.tar.max_member_bytes {
        MemberData::TooLarge { size: image.size }
    } else {
        match get(context, &image).await {
            Ok(bytes) => MemberData::Bytes(bytes),
            Err(error) if ErrorKind::is_of_one_object(&error) => {
                let detail = format!("the file cannot be read: {}", user_message(&error));
                return Ok(ReadFile::Unreadable { index, key, detail });
            }
            Err(error) => return Err(context.store_error(&error)),
        }
    };
    let name = name_of(&image).to_owned();
    let caption = read_text(context, caption).await?;
    let json = read_text(context, json).await?;
    let image = Some(ImageMember { suffix: split_stem(&name).1, data });
    let raw = RawSample { index, key, image, caption, json, ..RawSample::default() };
    Ok(ReadFile::Sample(Box::new(raw), name))
}

/// Returns the text of a sidecar. One that cannot be read, or is too large, is skipped and counted.
async fn read_text(context: ReadContext<'_>, meta: Option<ObjectMeta>) -> Result<Option<String>, ReadError> {
    let Some(meta) = meta else { return Ok(None) };
    let error = if meta.size > MAX_SIDECAR_BYTES {
        format!("it has {} bytes", meta.size)
    } else {
        match get(context, &meta).await {
            Ok(bytes) => return Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if ErrorKind::is_of_one_object(&error) => user_message(&error),
            Err(error) => return Err(context.store_error(&error)),
        }
    };
    context.counts.update(|counts| counts.ignore(UNREADABLE, 1));
    tracing::warn!(file = %meta.location, error, "skipped a sidecar that cannot be read");
    Ok(None)
}

/// Adds the caption and JSON of a metadata file to a sample without its own.
fn add_metadata(
    context: ReadContext<'_>,
    raw: &mut RawSample,
    name: &str,
    metadata: &[(String, Arc<Metadata>)],
) {
    let found = metadata.iter().find_map(|(path, metadata)| metadata.get(&format!("{path}{name}")));
    let Some(image) = found else { return };
    if raw.caption.as_deref().is_none_or(|text| text.trim().is_empty()) {
        raw.caption = context.settings.captions.pick(&raw.key, &image.captions).map(String::from);
    }
    if raw.json.is_none() {
        raw.json = Some(image.json.clone());
    }
}

/// Rejects an image that its store does not return.
async fn reject_unreadable(
    context: ReadContext<'_>,
    index: u64,
    key: String,
    detail: String,
) -> Result<(), ReadStop> {
    context.counts.count_caption(None);
    if context.keep_previous(index, &key).await? {
        return Ok(());
    }
    Ok(context.reject(index, Reject::new(key, RejectReason::FetchFailed, detail)).await?)
}

/// Downloads a file, in the version that was listed.
async fn get(context: ReadContext<'_>, meta: &ObjectMeta) -> object_store::Result<Bytes> {
    let location = &context.shard.location;
    let etag = if location.kind == StoreKind::Http { None } else { meta.e_tag.clone() };
    let got = location.store.get_opts(&meta.location, GetOptions::new().with_if_match(etag)).await?;
    let bytes = got.bytes().await?;
    context.count_bytes(bytes.len());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::keys;

    #[test]
    fn keys_keep_dots_and_are_distinct() {
        assert_eq!(keys(&["1.2.840.5.png", "1.2.840.6.png", "a.jpg"]), ["1.2.840.5", "1.2.840.6", "a"]);
        assert_eq!(keys(&["top.jpg", "top.webp", "x"]), ["top.jpg", "top.webp", "x"]);
        // The whole name of one image is the stem of another.
        assert_eq!(keys(&["a.jpg", "a.png", "a.jpg.gif"]), ["a.jpg", "a.png", "a.jpg.gif"]);
        assert_eq!(keys(&["a", "a.b", "a.b.c", "a.b.c.d"]), ["a", "a.b", "a.b.c", "a.b.c.d"]);
        assert_eq!(
            keys(&["1.2.3", "1.2.4"]),
            ["1.2.3", "1.2.4"],
            "the part after the last dot counts as a suffix"
        );
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
