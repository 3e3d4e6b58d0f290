//! How many images a run captions: counted where that is cheap, else estimated, and always with how that was found out.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, stream};
use recaption_input::{
    format::{ListKind, is_parquet_name},
    read::{CountMethod, InputFormat, ReadSettings, SampleCount, count_samples},
    shards::{ShardRef, ShardSource},
};
use recaption_messages::ReadError;
use recaption_store::read_json;
use serde::{Deserialize, Serialize};

use super::{
    problem::{Findings, Subject},
    work::{Pending, Work},
};

/// Most Parquet files and lists that are counted; the others are estimated from them.
const MAX_COUNTED: usize = 1000;
/// Most archives whose headers are read; the others are estimated.
const MAX_ARCHIVES: usize = 8;
/// Shards looked at concurrently.
const CONCURRENT_SHARDS: usize = 16;
/// Suffixes of archives, which img2dataset's statistics replace by `_stats.json`.
const ARCHIVE_SUFFIXES: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// Images of a run. Samples that have no image, and become rejects, are among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Images {
    /// Of all shards.
    pub total: u64,
    /// Of shards that are done.
    pub done: u64,
    /// Of pending shards.
    pub pending: u64,
    /// Whether `pending` is an estimate.
    pub is_estimate: bool,
    /// How the pending ones were counted.
    pub sources: Vec<ImageSource>,
    /// Compressed bytes of the largest row group that was seen.
    pub row_group_bytes: u64,
    /// The part of the pending ones that lists name, and whose bytes are elsewhere.
    #[serde(skip)]
    pub(super) lists: ListImages,
}

/// Images that lists name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ListImages {
    /// Their number.
    pub(super) images: u64,
    /// Bytes of the lists.
    pub(super) bytes: u64,
}

impl ListImages {
    fn add(&mut self, images: u64, bytes: u64) {
        self.images = self.images.saturating_add(images);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Adds the lists among `images` in `bytes` of shards that were not counted, by their share of those that were.
    fn extrapolate(&mut self, counted: &[Counted<'_>], (images, bytes): (u64, u64)) {
        let all_images = counted.iter().map(|one| one.count.samples).fold(0, u64::saturating_add);
        let all_bytes = bytes_of(counted.iter().map(|one| one.shard));
        let scaled = |part: u64, all: u64, more: u64| {
            (part.min(all) as f64 / all.max(1) as f64 * more as f64).round() as u64
        };
        let of_counted = Self::of(counted);
        self.add(scaled(of_counted.images, all_images, images), scaled(of_counted.bytes, all_bytes, bytes));
    }

    fn of(counted: &[Counted<'_>]) -> Self {
        let mut lists = Self::default();
        for Counted { shard, count } in counted.iter().filter(|one| one.count.method == CountMethod::ListRows)
        {
            lists.add(count.samples, shard.bytes());
        }
        lists
    }
}

/// Images that were counted in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSource {
    /// How.
    pub source: String,
    /// Number of shards.
    pub shards: usize,
    /// Number of images.
    pub images: u64,
    /// Whether the number is an estimate.
    pub is_estimate: bool,
}

/// A shard that was looked at.
struct Counted<'a> {
    shard: &'a ShardRef,
    count: SampleCount,
}

/// Counts images by source.
#[derive(Default)]
struct Sums {
    sources: BTreeMap<(String, bool), (usize, u64)>,
    row_group_bytes: u64,
    lists: ListImages,
}

impl Sums {
    fn add(&mut self, source: &str, is_estimate: bool, shards: usize, images: u64) {
        let sum = self.sources.entry((source.to_owned(), is_estimate)).or_default();
        *sum = (sum.0 + shards, sum.1.saturating_add(images));
    }

    fn add_counted(&mut self, counted: &[Counted<'_>]) {
        for Counted { count, .. } in counted {
            self.add(source_of(count.method), !count.is_exact, 1, count.samples);
            self.row_group_bytes = self.row_group_bytes.max(count.row_group_bytes);
        }
        let lists = ListImages::of(counted);
        self.lists.add(lists.images, lists.bytes);
    }

    fn finish(self, work: &Work) -> Images {
        let source =
            |((source, is_estimate), (shards, images))| ImageSource { source, shards, images, is_estimate };
        let sources: Vec<ImageSource> = self.sources.into_iter().map(source).collect();
        let pending = sources.iter().map(|source| source.images).fold(0, u64::saturating_add);
        let done = work.done.iter().map(|done| done.samples).fold(0, u64::saturating_add);
        Images {
            total: done.saturating_add(pending),
            done,
            pending,
            is_estimate: sources.iter().any(|source| source.is_estimate),
            sources,
            row_group_bytes: self.row_group_bytes,
            lists: self.lists,
        }
    }
}

/// Counts the images of all shards. A shard that cannot be read is a problem.
pub(super) async fn count_images(work: &Work, settings: &ReadSettings, findings: &mut Findings) -> Images {
    let (mut sums, mut others, mut archives) = (Sums::default(), Vec::new(), Vec::new());
    for Pending { shard, recorded } in &work.pending {
        match recorded {
            Some(samples) => {
                sums.add("commit records", false, 1, *samples);
                if is_list(shard, settings.format) {
                    sums.lists.add(*samples, shard.bytes());
                }
            }
            // Reported when it was listed.
            None if shard.lookup_error().is_some() => {}
            None if is_archive(shard, settings.format) => archives.push(shard),
            None => others.push(shard),
        }
    }
    let counted = count_all(&spread(&others, MAX_COUNTED), settings, findings).await;
    sums.add_counted(&counted);
    if others.len() > MAX_COUNTED {
        let left = others.len() - MAX_COUNTED;
        let bytes =
            bytes_of(others.iter().copied()).saturating_sub(bytes_of(counted.iter().map(|c| c.shard)));
        let ratio = BytesPerImage::of_counted(&counted);
        let images = ratio.images(bytes);
        sums.add("bytes, as those of the shards that were counted", true, left, images);
        sums.lists.extrapolate(&counted, (images, bytes));
    }
    let counted = count_all(&spread(&archives, MAX_ARCHIVES), settings, findings).await;
    if archives.len() <= MAX_ARCHIVES {
        sums.add_counted(&counted);
    } else {
        let (source, images) = estimate_archives(&archives, &counted, work, settings).await;
        sums.add(&source, true, archives.len(), images);
    }
    sums.finish(work)
}

/// Estimates the images of many archives, from the best that is known.
async fn estimate_archives(
    archives: &[&ShardRef],
    counted: &[Counted<'_>],
    work: &Work,
    settings: &ReadSettings,
) -> (String, u64) {
    let bytes = bytes_of(archives.iter().copied());
    let done = work.done.iter().filter(|done| is_archive(&done.shard, settings.format));
    let (done_bytes, done_samples) = done
        .fold((0_u64, 0_u64), |(bytes, samples), done| (bytes + done.shard.bytes(), samples + done.samples));
    if let Some(ratio) = BytesPerImage::new(done_bytes, done_samples) {
        return ("bytes, as those of the shards that are done".to_owned(), ratio.images(bytes));
    }
    if let Some((images, files)) = images_of_stats(archives).await {
        return (format!("img2dataset's statistics of {files} shards"), images);
    }
    let ratio = BytesPerImage::of_counted(counted);
    (format!("the headers of {} shards", counted.len()), ratio.images(bytes))
}

/// Mean bytes of an image in a shard.
#[derive(Clone, Copy)]
struct BytesPerImage(f64);

impl BytesPerImage {
    fn new(bytes: u64, images: u64) -> Option<Self> {
        (bytes > 0 && images > 0).then(|| Self(bytes as f64 / images as f64))
    }

    /// Of shards that were counted; nothing is known of none, and then there are no images.
    fn of_counted(counted: &[Counted<'_>]) -> Self {
        let samples = counted.iter().map(|counted| counted.count.samples).fold(0, u64::saturating_add);
        Self::new(bytes_of(counted.iter().map(|counted| counted.shard)), samples)
            .unwrap_or(Self(f64::INFINITY))
    }

    fn images(self, bytes: u64) -> u64 {
        (bytes as f64 / self.0).round() as u64
    }
}

fn bytes_of<'a>(shards: impl Iterator<Item = &'a ShardRef>) -> u64 {
    shards.map(ShardRef::bytes).fold(0, u64::saturating_add)
}

/// Returns at most `most` of the shards, evenly spread over all.
fn spread<'a>(shards: &[&'a ShardRef], most: usize) -> Vec<&'a ShardRef> {
    let count = shards.len().min(most);
    (0..count).filter_map(|n| shards.get(n * shards.len() / count).copied()).collect()
}

async fn count_all<'a>(
    shards: &[&'a ShardRef],
    settings: &ReadSettings,
    findings: &mut Findings,
) -> Vec<Counted<'a>> {
    let looked_at: Vec<(&ShardRef, Result<SampleCount, ReadError>)> = stream::iter(shards.to_vec())
        .map(|shard| async move { (shard, count_samples(shard, settings).await) })
        .buffered(CONCURRENT_SHARDS)
        .collect()
        .await;
    let (mut counted, mut failed, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, count) in looked_at {
        match count {
            Err(error) => failed.push((shard.url.clone(), error.what)),
            Ok(count) => {
                if let Some(damage) = &count.damage {
                    damaged.push((shard.url.clone(), damage.clone()));
                }
                counted.push(Counted { shard, count });
            }
        }
    }
    findings.add_many(Subject::Input, &failed, "make the shard again, or take it out of input.shards");
    findings.add_many(
        Subject::Input,
        &damaged,
        "make the shard again; a run captions its whole samples and ends with exit code 3",
    );
    counted
}

/// Returns whether a shard is read as an archive, by its name.
fn is_archive(shard: &ShardRef, format: InputFormat) -> bool {
    if !matches!(shard.source, ShardSource::Object(_)) {
        return false;
    }
    let name = shard.location.path.filename().unwrap_or_default();
    match format {
        InputFormat::Webdataset => true,
        InputFormat::Auto => !is_parquet_name(name) && ListKind::of_name(name).is_none(),
        InputFormat::Parquet | InputFormat::UrlList | InputFormat::Folder => false,
    }
}

/// Returns whether a shard is a list of URLs, by its name. A list in Parquet that has no parts is known by its columns alone.
fn is_list(shard: &ShardRef, format: InputFormat) -> bool {
    let name = shard.location.path.filename().unwrap_or_default();
    match format {
        InputFormat::UrlList => true,
        InputFormat::Auto => shard.list_part().is_some() || ListKind::of_name(name).is_some(),
        InputFormat::Webdataset | InputFormat::Parquet | InputFormat::Folder => false,
    }
}

fn source_of(method: CountMethod) -> &'static str {
    match method {
        CountMethod::ParquetFooter => "Parquet footers",
        CountMethod::ListRows => "rows of lists",
        CountMethod::FolderListing => "listings of folders",
        CountMethod::ArchiveHeaders => "headers of archives",
    }
}

/// What img2dataset writes beside a shard, as far as it is read.
#[derive(Deserialize)]
struct Statistics {
    /// Images in the shard.
    successes: u64,
}

/// Sums img2dataset's statistics, and returns how many shards they cover; those without are taken for the mean of the others.
async fn images_of_stats(archives: &[&ShardRef]) -> Option<(u64, usize)> {
    // Most inputs have none: one look shows it.
    statistics_of(archives.first()?).await?;
    let chosen = spread(archives, MAX_COUNTED);
    let found: Vec<Option<u64>> =
        stream::iter(chosen.clone()).map(statistics_of).buffered(CONCURRENT_SHARDS).collect().await;
    let known: HashMap<&str, u64> =
        chosen.iter().zip(found).filter_map(|(shard, images)| Some((shard.url.as_str(), images?))).collect();
    let images = known.values().fold(0_u64, |sum, images| sum.saturating_add(*images));
    let mean = images as f64 / known.len().max(1) as f64;
    let unknown = (archives.len() - known.len()) as f64;
    Some((images.saturating_add((mean * unknown).round() as u64), known.len()))
}

async fn statistics_of(shard: &ShardRef) -> Option<u64> {
    let path = shard.location.path.as_ref();
    let stem = ARCHIVE_SUFFIXES.iter().find_map(|suffix| path.strip_suffix(suffix))?;
    let location = shard.location.at(format!("{stem}_stats.json").into());
    read_json::<Statistics>(&location).await.ok().flatten().map(|statistics| statistics.successes)
}

#[cfg(test)]
mod tests {
    use recaption_input::shards::list_shards;
    use recaption_store::Stores;

    use super::*;

    async fn shards_in(folder: &std::path::Path) -> Vec<ShardRef> {
        let patterns = [format!("{}/", folder.display())];
        list_shards(&mut Stores::default(), &patterns, InputFormat::Auto).await.expect("shards")
    }

    #[tokio::test]
    async fn statistics_of_img2dataset_are_summed() {
        let folder = tempfile::tempdir().expect("a folder");
        for n in 0..20 {
            std::fs::write(folder.path().join(format!("{n:05}.tar")), [0; 1024]).expect("a file");
            if n % 4 != 3 {
                let text = format!("{{\"count\": 1000, \"successes\": {}}}", 100 + n);
                std::fs::write(folder.path().join(format!("{n:05}_stats.json")), text).expect("a file");
            }
        }
        let shards = shards_in(folder.path()).await;
        let shards: Vec<&ShardRef> = shards.iter().collect();
        assert_eq!(shards.len(), 20);
        // 15 of them: 100 + n each, whose mean is 109.
        let known: u64 = (0..20).filter(|n| n % 4 != 3).map(|n| 100 + n).sum();
        let (images, files) = images_of_stats(&shards).await.expect("statistics");
        assert_eq!((images, files), ((known as f64 * 20.0 / 15.0).round() as u64, 15));
    }

    #[test]
    fn images_follow_from_bytes() {
        let ratio = BytesPerImage::new(1000, 10).expect("a ratio");
        assert_eq!(ratio.images(12_345), 123);
        assert!(BytesPerImage::new(0, 10).is_none());
        assert_eq!(BytesPerImage::of_counted(&[]).images(1 << 40), 0);
    }
}
