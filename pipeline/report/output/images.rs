//! Images of the sampled rows from the inputs that the rows name, as a run reads them. Every image is compared with its row's
//! digest; whatever cannot be had leaves its reason. URLs are fetched only where that was asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt, stream};
use recaption_input::{
    fetch::Fetcher,
    read::{ReadRequest, ReadSettings, read_shard},
    shards::{ListError, ShardRef, list_shards},
};
use recaption_messages::{ByteBudget, ReadCounters, ReadItem, ReadSink, ReadStop};
use recaption_schemas::sha256_hex;
use recaption_store::{Location, Stores};
use tokio::sync::mpsc;

use super::{
    details::{ImageHint, ImageHints},
    job::ReportJob,
};
use crate::{
    config::RunConfig,
    report::{builder::ReportBuilder, content::SampledCaption, thumbnail::Picture},
    run::LastRun,
};

/// Default bytes of input shards that are read for images.
pub(crate) const DEFAULT_IMAGE_BYTES: u64 = 2 << 30;
/// Input shards that are looked for, at most: each costs requests.
const MAX_SHARDS: usize = 256;
/// Shards read at the same time.
const AT_ONCE: usize = 4;
/// Images fetched at the same time.
const FETCHES: usize = 16;
/// Image bytes of a shard in flight.
const BUFFER_BYTES: usize = 64 << 20;
/// Samples of a shard in flight.
const SAMPLES_AHEAD: usize = 16;
/// Part of a URL that names a part of a list.
const LIST_PART: &str = "#part=";

/// A sampled row whose image is looked for.
struct Wanted<'a> {
    sampled: &'a mut SampledCaption,
    hint: ImageHint,
}

/// Looks for the images of all sampled rows that have none yet.
pub(super) async fn add_images(
    stores: &mut Stores,
    (job, output): (&ReportJob, &Location),
    hints: &ImageHints,
    builder: &mut ReportBuilder,
) {
    let mut by_shard: BTreeMap<String, Vec<Wanted<'_>>> = BTreeMap::new();
    for sampled in builder.sampled().filter(|sampled| sampled.picture.is_none()) {
        let (shard, key) = (sampled.row.shard.clone(), sampled.row.key.clone());
        let hint = hints.get(&(shard.clone(), key)).cloned().unwrap_or_default();
        by_shard.entry(shard).or_default().push(Wanted { sampled, hint });
    }
    if by_shard.is_empty() {
        return;
    }
    let (settings, fetcher) = settings_of(output).await;
    let settings = Arc::new(settings);
    // Shards with most of the sample first.
    let mut by_shard: Vec<(String, Vec<Wanted<'_>>)> = by_shard.into_iter().collect();
    by_shard.sort_by_key(|(_, wanted)| std::cmp::Reverse(wanted.len()));
    let looked_for = by_shard.len().clamp(1, MAX_SHARDS) as u64;
    let share = job.image_bytes / looked_for;
    // Found one after the other: stores are opened once.
    let mut searches = Vec::new();
    for (n, (url, wanted)) in by_shard.into_iter().enumerate() {
        let shard = if n < MAX_SHARDS {
            find_shard(stores, &url, &settings).await
        } else {
            Err(format!("not looked for: the sample is of more than {MAX_SHARDS} shards"))
        };
        searches.push((shard, wanted));
    }
    let left = Arc::new(std::sync::atomic::AtomicU64::new(job.image_bytes - share * looked_for));
    let searched: Vec<Vec<Wanted<'_>>> = stream::iter(searches)
        .map(|(shard, wanted)| search(shard, wanted, Arc::clone(&settings), (share, Arc::clone(&left))))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    if let (true, Some(fetcher)) = (job.fetch, fetcher) {
        fetch_all(searched.into_iter().flatten().collect(), &fetcher).await;
    }
}

/// Returns how the last run read its inputs, and its fetcher; the defaults where no record says it.
async fn settings_of(output: &Location) -> (ReadSettings, Option<Fetcher>) {
    match last_config(output).await {
        Ok(config) => {
            let fetcher = config.input.read.fetcher.clone();
            (ReadSettings { fetcher: None, ..(*config.input.read).clone() }, fetcher)
        }
        Err(error) => {
            tracing::debug!(%error, "inputs are read with default settings");
            (ReadSettings::default(), Fetcher::new(recaption_input::fetch::FetchSettings::default()).ok())
        }
    }
}

async fn last_config(output: &Location) -> anyhow::Result<RunConfig> {
    let last = LastRun::of(output).await?;
    let with_inputs = last.with_inputs(output).await?;
    Ok(RunConfig::build(&with_inputs.unwrap_or(last).layers()?)?)
}

/// Finds the input of a shard.
async fn find_shard(stores: &mut Stores, url: &str, settings: &ReadSettings) -> Result<ShardRef, String> {
    if url.contains(LIST_PART) {
        return Err(LIST.to_owned());
    }
    let found = list_shards(stores, &[url.to_owned()], settings.format).await;
    let shards = found.map_err(|error| match error {
        ListError::AllUnavailable { error, .. } => format!("the input {url} cannot be read: {error}"),
        error => format!("the input cannot be found: {error}"),
    })?;
    let shard = shards.into_iter().find(|shard| shard.url == url);
    shard.ok_or_else(|| format!("the input {url} cannot be found"))
}

/// Why there is no image of a row of a list.
const LIST: &str = "the image is behind a URL; recaption report --fetch fetches it";

/// Looks for the images of one shard, within its share of the bytes.
async fn search(
    shard: Result<ShardRef, String>,
    mut wanted: Vec<Wanted<'_>>,
    settings: Arc<ReadSettings>,
    (share, left): (u64, Arc<std::sync::atomic::AtomicU64>),
) -> Vec<Wanted<'_>> {
    let missing = match shard {
        Ok(shard) => match read(shard, &mut wanted, settings, (share, &left)).await {
            Ok(missing) => missing,
            Err(error) => format!("the input cannot be read: {error:#}"),
        },
        Err(why) => why,
    };
    for one in wanted.iter_mut().filter(|one| one.sampled.picture.is_none()) {
        one.sampled.picture = Some(Picture::Missing(missing.clone()));
    }
    wanted
}

/// Reads a shard until every wanted image was found; returns why others were not.
async fn read(
    shard: ShardRef,
    wanted: &mut [Wanted<'_>],
    settings: Arc<ReadSettings>,
    (share, left): (u64, &std::sync::atomic::AtomicU64),
) -> anyhow::Result<String> {
    let (sender, mut items) = mpsc::channel(SAMPLES_AHEAD);
    let counters = Arc::new(ReadCounters::default());
    let counted = Arc::clone(&counters);
    let url = shard.url.clone();
    let reading = tokio::spawn(async move {
        let (budget, sink) = (ByteBudget::new(BUFFER_BYTES), ReadSink::Ordered(sender));
        let (settings, counters) = (&*settings, &*counted);
        let request = ReadRequest {
            number: 0,
            shard: &shard,
            settings,
            budget: &budget,
            counters,
            previous: None,
            sink: &sink,
        };
        read_shard(request).await
    });
    let mut missing = wanted.len();
    let mut charged = 0_u64;
    let mut end = None;
    while let Some(item) = items.recv().await {
        if let ReadItem::Sample(sample) = item {
            let is_it =
                |one: &&mut Wanted<'_>| one.sampled.picture.is_none() && one.sampled.row.key == sample.key;
            if let Some(one) = wanted.iter_mut().find(is_it) {
                one.sampled.picture = Some(picture(sample.image.clone(), &one.hint.sha256).await?);
                missing -= 1;
            }
        }
        if missing == 0 {
            break;
        }
        // Bytes are drawn on the shard's share first, then on what other shards left.
        let bytes = counters.bytes.load(Relaxed);
        let drawn = bytes.saturating_sub(share) - charged.saturating_sub(share);
        let room = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(drawn))).unwrap_or(0);
        charged = bytes;
        if drawn > room {
            end = Some(format!(
                "not found in the first {} MB of {url}: --image-bytes bounds what is read",
                bytes / 1_000_000
            ));
            break;
        }
    }
    left.fetch_add(share.saturating_sub(charged), Relaxed);
    drop(items);
    if missing == 0 {
        return Ok(String::new());
    }
    if let Some(end) = end {
        return Ok(end);
    }
    match reading.await.context("the reader broke down")? {
        Ok(_) => Ok(format!("{url} has no such sample any more")),
        Err(ReadStop::Failed(error)) if error.what.contains("list of URLs") => Ok(LIST.to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the thumbnail of an image that has the digest.
async fn picture(image: Bytes, sha256: &str) -> anyhow::Result<Picture> {
    let sha256 = sha256.to_owned();
    let made = tokio::task::spawn_blocking(move || {
        if sha256_hex(&image) == sha256 {
            Picture::of(&image)
        } else {
            Picture::Missing("the input has another image under this key: its SHA-256 differs".to_owned())
        }
    });
    made.await.context("a thumbnail failed")
}

/// Fetches the images that have a URL and were found in no input.
async fn fetch_all(wanted: Vec<Wanted<'_>>, fetcher: &Fetcher) {
    let missing = wanted.into_iter().filter(|one| !one.sampled.has_image() && one.hint.url.is_some());
    let fetched = stream::iter(missing).for_each_concurrent(FETCHES, |one| async move {
        let Some(url) = &one.hint.url else { return };
        let _permit = fetcher.permit().await;
        one.sampled.picture = Some(match fetcher.fetch(url).await {
            Ok(fetched) => picture(fetched.bytes, &one.hint.sha256)
                .await
                .unwrap_or_else(|error| Picture::Missing(error.to_string())),
            Err(error) => Picture::Missing(format!("the image cannot be fetched: {error}")),
        });
    });
    fetched.await;
}
