//! Samples at places of a shard are those of the whole shard, wherever the places are.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{collections::BTreeMap, path::Path};

use recaption_input::{
    format::InputFormat,
    read::{Places, ReadRequest, ReadSettings, ShardSample, read_shard, sample_shard},
    shards::{ShardRef, list_shards},
};
use recaption_messages::{ByteBudget, ReadCounters, ReadItem, ReadSink, SampleOutcome, ShardContents};
use recaption_store::Stores;
use tokio::sync::mpsc;

/// A sample or reject, without its position: key, image or reason, caption, JSON.
type Item = (String, Vec<u8>, Option<String>, Option<String>);

/// What reading yielded.
struct Read<T> {
    items: Vec<Item>,
    contents: T,
    bytes: u64,
}

fn item(item: ReadItem) -> Item {
    match item {
        ReadItem::Sample(sample) => {
            let caption = sample.org_caption.as_ref().map(|caption| caption.as_str().to_owned());
            (sample.key, sample.image.to_vec(), caption, sample.meta)
        }
        ReadItem::Ended(result) => match result.outcome {
            SampleOutcome::Reject(reject) => {
                (reject.key, reject.reason.as_str().into(), reject.org_caption, None)
            }
            other => panic!("{other:?}"),
        },
    }
}

async fn shard_of(path: &Path) -> ShardRef {
    let pattern = [path.display().to_string()];
    let shards = list_shards(&mut Stores::default(), &pattern, InputFormat::Auto).await.expect("a shard");
    shards.into_iter().next().expect("one")
}

async fn read<T>(
    path: &Path,
    with: impl AsyncFnOnce(ReadRequest<'_>) -> Result<T, recaption_messages::ReadStop>,
) -> Read<T> {
    let (sender, mut received) = mpsc::channel(100_000);
    let (settings, budget, counters) =
        (ReadSettings::default(), ByteBudget::new(1 << 30), ReadCounters::default());
    let (shard, sink) = (shard_of(path).await, ReadSink::Ordered(sender));
    let request = ReadRequest {
        number: 0,
        shard: &shard,
        settings: &settings,
        budget: &budget,
        counters: &counters,
        previous: None,
        sink: &sink,
    };
    let contents = with(request).await.expect("readable");
    drop(sink);
    let mut items = Vec::new();
    while let Some(found) = received.recv().await {
        items.push(item(found));
    }
    Read { items, contents, bytes: counters.bytes.into_inner() }
}

async fn whole(path: &Path) -> Read<ShardContents> {
    read(path, async |request| read_shard(request).await).await
}

async fn some(path: &Path, places: &Places) -> Read<ShardSample> {
    read(path, async |request| sample_shard(request, places).await).await
}

/// A tar of samples of very different sizes; the names of some are in extended headers.
fn tar(samples: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8], is_pax: bool| {
        if is_pax {
            tar.append_pax_extensions([("path", name.as_bytes())]).expect("memory");
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(if is_pax { "short.bin" } else { name }).expect("a short name");
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).expect("memory");
    };
    for n in 0..samples {
        let size = if n % 10 == 0 { random.usize(0..900_000) } else { random.usize(0..60_000) };
        let image: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
        let is_pax = n % 3 == 0;
        add(&format!("{n:06}.jpg"), &image, is_pax);
        add(&format!("{n:06}.txt"), format!("caption {n}").as_bytes(), is_pax);
        if n % 5 == 0 {
            add(&format!("{n:06}.json"), format!("{{\"n\": {n}}}").as_bytes(), is_pax);
        }
    }
    tar.into_inner().expect("memory")
}

fn by_key(items: Vec<Item>) -> BTreeMap<String, Item> {
    items.into_iter().map(|item| (item.0.clone(), item)).collect()
}

#[tokio::test]
async fn samples_of_a_tar_are_whole_wherever_reading_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("0.tar");
    let bytes = tar(400);
    std::fs::write(&path, &bytes).expect("written");
    let all = whole(&path).await;
    assert_eq!(all.items.len(), 400);
    let all = by_key(all.items);
    let mut met = BTreeMap::new();
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let places = Places::new((0..4).map(|_| random.f64()).collect(), seed);
        let found = some(&path, &places).await;
        assert_eq!(found.items.len(), 4, "distinct samples");
        assert_eq!(found.contents.contents, ShardContents::whole(4));
        assert!(found.bytes < bytes.len() as u64 * 3 / 5, "{} of {}", found.bytes, bytes.len());
        let (measured, samples) = found.contents.tar_bytes;
        assert!(samples <= 4 && measured >= samples * 1024, "{measured} bytes of {samples} samples");
        for item in found.items {
            assert_eq!(all.get(&item.0), Some(&item), "{}", item.0);
            *met.entry(item.0).or_insert(0) += 1;
        }
    }
    // Samples behind large ones are met more often.
    assert!(met.len() > 120, "600 samples are {} of 400", met.len());
}

#[tokio::test]
async fn small_and_compressed_tars_are_read_from_the_beginning() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = tar(60);
    let [plain, packed] = ["0.tar", "0.tar.zst"].map(|name| folder.path().join(name));
    std::fs::write(&plain, &bytes).expect("written");
    std::fs::write(&packed, zstd::bulk::compress(&bytes, 1).expect("memory")).expect("written");
    let all = whole(&plain).await.items;
    let places = Places::new((0..50).map(|n| f64::from(n) / 50.0).collect(), 1);
    let found = some(&plain, &places).await;
    assert_eq!((found.items.len(), found.contents.shard_samples), (50, Some(60)), "any, and all are counted");
    let in_order = |items: &[Item]| {
        let mut rest = all.iter();
        items.iter().all(|item| rest.any(|other| other == item))
    };
    assert!(in_order(&found.items));
    let few = some(&packed, &Places::new(vec![0.3, 0.7, 0.9], 1)).await;
    assert_eq!((few.items.as_slice(), few.contents.shard_samples), (&all[..3], None), "the first ones");
    let more = some(&packed, &Places::new(vec![0.5; 100], 1)).await;
    assert_eq!((more.items, more.contents.shard_samples), (all, Some(60)));
}

#[tokio::test]
async fn truncated_tar_keeps_whole_samples_and_rejects_its_tail_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("0.tar");
    let bytes = tar(100);
    std::fs::write(&path, &bytes[..bytes.len() - 3000]).expect("written");
    let all = whole(&path).await;
    let damage = all.contents.damage.expect("the end is missing");
    let all = by_key(all.items);
    let size = bytes.len() as f64;
    let near_the_end = (1..30).map(|n| 1.0 - f64::from(n) * 8000.0 / size);
    let places = Places::new([0.1, 0.5].into_iter().chain(near_the_end).collect(), 1);
    let found = some(&path, &places).await;
    assert_eq!(found.contents.contents.damage.map(|damage| damage.offset), Some(damage.offset));
    let tails = found.items.iter().filter(|item| item.1 == b"damaged_shard").count();
    assert_eq!(tails, 1, "the tail is one reject");
    for item in found.items.into_iter().filter(|item| item.1 != b"damaged_shard") {
        assert_eq!(all.get(&item.0), Some(&item), "{}", item.0);
    }
}
