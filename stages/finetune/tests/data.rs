//! The order of training data: every sample once per epoch, given by the seed, and resumable at any position.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{SAMPLES, Workspace, bundled, members, tar};
use recaption_finetune::{
    batch::Batch,
    data::{
        Caption, CropSettings, DataError, Format, Inputs, LoadedBatch, Loader, LoaderSettings, Position,
        load_all,
    },
    open_clip::OpenClip,
    random::Random,
};
use recaption_image::DecodeOptions;
use recaption_onnx::{model::SpecialIds, tokenizer::Tokenizer};

/// Inputs with a tokenizer and settings to load them.
struct Reading {
    runtime: tokio::runtime::Runtime,
    inputs: Arc<Inputs>,
    tokenizer: Arc<Tokenizer>,
    settings: LoaderSettings,
}

impl Reading {
    fn of(workspace: &Workspace, pattern: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let patterns = [workspace.path(pattern).display().to_string()];
        let inputs =
            runtime.block_on(Inputs::list(&patterns, Format::Shards, Caption::Text)).expect("inputs");
        let special = SpecialIds { pad: 0, start: 510, end: 511 };
        let tokenizer =
            Tokenizer::from_file(&bundled().join("tokenizer.json"), special, 36, 512).expect("a tokenizer");
        let mut preprocess = OpenClip::read(&bundled()).expect("a checkpoint").config.preprocess;
        preprocess.size = 16;
        let settings = LoaderSettings {
            batch_size: 4,
            window: 12,
            group_similar: 1,
            seed: 1,
            preprocess,
            decode: DecodeOptions::default(),
            crop: None,
            cache_bytes: 1 << 30,
        };
        Self { runtime, inputs: Arc::new(inputs), tokenizer: Arc::new(tokenizer), settings }
    }

    fn start(&self, position: Position) -> Loader {
        let (inputs, tokenizer) = (Arc::clone(&self.inputs), Arc::clone(&self.tokenizer));
        Loader::start(inputs, tokenizer, self.settings.clone(), position).expect("a loader")
    }

    /// Loads the first batches after `position`.
    fn batches(&self, position: Position, count: usize) -> Vec<LoadedBatch> {
        let loader = self.start(position);
        (0..count).map(|_| loader.next().expect("a batch")).collect()
    }

    /// Loads the keys of the first `count` samples.
    fn keys(&self, count: usize) -> Vec<String> {
        let batches = self.batches(Position::default(), count.div_ceil(self.settings.batch_size));
        let mut keys: Vec<String> = batches.into_iter().flat_map(|loaded| loaded.batch.keys).collect();
        keys.truncate(count);
        keys
    }
}

/// Writes shards in which six of 40 samples cannot be used, for four reasons; one shard is truncated.
fn with_bad_samples(workspace: &Workspace) {
    let mut members = members(4, 14);
    for (name, content) in &mut members {
        match name.as_str() {
            "00004000000.jpg" | "00004000007.jpg" => content.truncate(100),
            "00004000003.txt" => content.clear(),
            _ => {}
        }
    }
    members.retain(|(name, _)| name != "00004000005.txt" && name != "00004000009.jpg");
    workspace.write("train/00004.tar", tar(&members));
    let mut cut = tar(&common::members(5, 6));
    cut.truncate(cut.len() * 2 / 3);
    workspace.write("train/00005.tar", cut);
}

#[test]
fn epoch_holds_every_sample_once() {
    let workspace = Workspace::new();
    let mut reading = Reading::of(&workspace, "train/*.tar");
    let epoch = SAMPLES as usize;
    for (window, batch_size) in [(1, 4), (4, 7), (10, 10), (12, 8), (30, 10), (31, 3), (1000, 45)] {
        reading.settings.window = window;
        reading.settings.batch_size = batch_size;
        let keys = reading.keys(3 * epoch);
        let epochs: Vec<&[String]> = keys.chunks(epoch).collect();
        for keys in &epochs {
            let once: BTreeSet<&String> = keys.iter().collect();
            assert_eq!(once.len(), epoch, "window {window}, batches of {batch_size}: {keys:?}");
        }
        // Three shards in a row have few orders.
        let new = epochs[0] != epochs[1] && epochs[1] != epochs[2];
        assert!(new || window == 1, "window {window}: two epochs in one order");
    }
}

#[test]
fn order_depends_on_seed_and_window_alone() {
    let workspace = Workspace::new();
    let mut reading = Reading::of(&workspace, "train/*.tar");
    let keys = reading.keys(60);
    for batch_size in [1, 7, 30, 60] {
        reading.settings.batch_size = batch_size;
        reading.settings.cache_bytes = batch_size;
        assert_eq!(reading.keys(60), keys, "batches of {batch_size}");
    }
    reading.settings.seed = 2;
    assert_ne!(reading.keys(60), keys, "another seed");
    reading.settings.seed = 1;
    reading.settings.window = 13;
    assert_ne!(reading.keys(60), keys, "another window");
    // Across shards, not only within them.
    reading.settings.window = 30;
    let shards: Vec<String> = reading.keys(30).iter().map(|key| key[..5].to_owned()).collect();
    let runs = 1 + shards.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(runs > 10, "{shards:?}");
}

/// Asserts that loading resumed after any batch gives the same batches and positions.
fn goes_on_from_anywhere(reading: &Reading, batches: usize, what: &str) {
    let all = reading.batches(Position::default(), batches + 4);
    let epochs = all.last().expect("batches").position.epoch;
    assert!(epochs >= 2, "{what}: only {epochs} epochs");
    for (i, from) in all.iter().enumerate().take(batches) {
        let wanted = &all[i + 1..i + 5];
        let got = reading.batches(from.position, 4);
        for (wanted, got) in wanted.iter().zip(&got) {
            let place = format!("{what}, behind batch {i}, {:?}", from.position);
            assert_eq!(got.batch.keys, wanted.batch.keys, "{place}");
            assert!(got.batch == wanted.batch, "{place}: other pixels or ids");
            assert_eq!(got.position, wanted.position, "{place}");
        }
    }
}

#[test]
fn loader_resumes_at_any_position() {
    let workspace = Workspace::new();
    let mut reading = Reading::of(&workspace, "train/*.tar");
    for (window, batch_size) in [(1, 4), (5, 8), (10, 10), (12, 7), (30, 10), (64, 9)] {
        reading.settings.window = window;
        reading.settings.batch_size = batch_size;
        goes_on_from_anywhere(&reading, 70_usize.div_ceil(batch_size), &format!("{window}, {batch_size}"));
    }
}

#[test]
fn loader_resumes_with_bad_samples_and_crops() {
    let workspace = Workspace::new();
    with_bad_samples(&workspace);
    let mut reading = Reading::of(&workspace, "train/*.tar");
    reading.settings.crop = Some(CropSettings { scale: [0.3, 1.0], ratio: [0.75, 1.34] });
    for (window, batch_size) in [(3, 4), (9, 8), (100, 7)] {
        reading.settings.window = window;
        reading.settings.batch_size = batch_size;
        goes_on_from_anywhere(&reading, 100_usize.div_ceil(batch_size), &format!("{window}, {batch_size}"));
    }
}

#[test]
fn bad_samples_are_counted_once_per_epoch() {
    let workspace = Workspace::new();
    with_bad_samples(&workspace);
    let mut reading = Reading::of(&workspace, "train/*.tar");
    // Whole epochs: 30 good ones, 9 of the shard with bad ones, and what is left of the cut one.
    reading.settings.window = 1000;
    reading.settings.batch_size = 1;
    let all = reading.batches(Position::default(), 200);
    let epoch = all.iter().position(|l| l.position.epoch == 1).expect("an epoch's end") + 1;
    let mut counts = recaption_finetune::data::DataCounts::default();
    // One batch more, since bad samples behind the last good one are met on the way to it.
    all[..=epoch].iter().for_each(|loaded| counts.add(&loaded.counts));
    assert_eq!(counts.used, epoch as u64 + 1, "{counts:?}");
    let met = |reason: &str| counts.bad.get(reason).copied().unwrap_or(0);
    // The next epoch's window is filled by then, its images are not decoded.
    assert_eq!((met("no_caption"), met("missing_image")), (4, 2), "{counts:?}");
    assert_eq!((met("damaged_shard"), counts.failed_shards), (2, 2), "{counts:?}");
    assert!((2..=3).contains(&met("corrupt_image")), "{counts:?}");
    let keys: BTreeSet<&String> = all[..epoch].iter().flat_map(|l| &l.batch.keys).collect();
    assert_eq!(keys.len(), epoch, "a sample came twice");
    assert!((39..=45).contains(&epoch), "{epoch} good samples");
}

#[test]
fn cached_images_equal_decoded_ones() {
    let workspace = Workspace::new();
    let mut reading = Reading::of(&workspace, "train/*.tar");
    let batches = |reading: &Reading| {
        reading.batches(Position::default(), 20).into_iter().map(|l| l.batch).collect::<Vec<Batch>>()
    };
    let kept = batches(&reading);
    for bytes in [0, 16 * 16 * 3 * 7] {
        reading.settings.cache_bytes = bytes;
        assert!(batches(&reading) == kept, "{bytes} bytes kept");
    }
}

#[test]
fn held_out_set_keeps_its_order() {
    let workspace = Workspace::new();
    let reading = Reading::of(&workspace, "train/*.tar");
    let wanted: Vec<String> = (0..3).flat_map(|s| (0..10).map(move |i| format!("{s:05}{i:06}"))).collect();
    for (limit, sizes) in [
        (1000, vec![4, 4, 4, 4, 4, 4, 4, 2]),
        (30, vec![4, 4, 4, 4, 4, 4, 4, 2]),
        (13, vec![4, 4, 4, 1]),
        (3, vec![3]),
    ] {
        let (inputs, tokenizer) = (Arc::clone(&reading.inputs), Arc::clone(&reading.tokenizer));
        let loading = load_all(inputs, tokenizer, reading.settings.clone(), limit);
        let (batches, counts) = reading.runtime.block_on(loading).expect("batches");
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), sizes, "at most {limit}");
        let keys: Vec<String> = batches.into_iter().flat_map(|b| b.keys).collect();
        assert_eq!(keys, wanted[..limit.min(30)], "at most {limit}");
        assert_eq!(counts.used, limit.min(30) as u64);
    }
}

#[test]
fn unusable_data_is_an_error_with_counts() {
    let workspace = Workspace::new();
    let mut all = members(4, 6);
    all.iter_mut().filter(|(name, _)| name.ends_with(".txt")).for_each(|(_, content)| content.clear());
    workspace.write("bad/00004.tar", tar(&all));
    let reading = Reading::of(&workspace, "bad/*.tar");
    match reading.start(Position::default()).next() {
        Err(DataError::Nothing { shards: 1, counts, caption, .. }) => {
            assert_eq!((counts.as_str(), caption.as_str()), ("0 used, 6 no_caption", "text"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn crops_stay_inside_their_ranges() {
    let settings = CropSettings { scale: [0.2, 0.9], ratio: [0.5, 2.0] };
    let mut random = Random::new(6, &[]);
    let (mut least, mut most) = (f64::MAX, f64::MIN);
    for i in 0..20_000 {
        let region = settings.choose(&mut random);
        let (right, bottom) = (region.left + region.width, region.top + region.height);
        let inside = region.left >= 0.0 && region.top >= 0.0 && right <= 1.0 + 1e-12 && bottom <= 1.0 + 1e-12;
        assert!(inside, "crop {i}: {region:?}");
        let (area, ratio) = (region.width * region.height, region.width / region.height);
        let whole = area == 1.0;
        assert!(whole || (0.2 - 1e-9..=0.9 + 1e-9).contains(&area), "crop {i}: {region:?} covers {area}");
        assert!((0.5 - 1e-9..=2.0 + 1e-9).contains(&ratio), "crop {i}: {region:?}, {ratio}");
        (least, most) = (least.min(area), most.max(area));
    }
    assert!(least < 0.22 && most > 0.85, "areas from {least} to {most}");
    let choose = |seed: u64| settings.choose(&mut Random::new(seed, &[3, 0, 1, 2]));
    assert_eq!(format!("{:?}", choose(1)), format!("{:?}", choose(1)));
    assert_ne!(format!("{:?}", choose(1)), format!("{:?}", choose(2)));
    // What cannot lie inside is the whole image.
    let impossible = CropSettings { scale: [1.0, 1.0], ratio: [1.5, 2.0] };
    let region = impossible.choose(&mut random);
    assert_eq!((region.left, region.top, region.width, region.height), (0.0, 0.0, 1.0, 1.0));
}

#[test]
fn crops_change_by_epoch_and_captions_do_not() {
    let workspace = Workspace::new();
    let mut reading = Reading::of(&workspace, "train/00000.tar");
    reading.settings.batch_size = 10;
    let by_key = |loaded: &LoadedBatch| {
        let image = loaded.batch.pixels.len() / loaded.batch.len();
        let mut samples: Vec<_> = (0..loaded.batch.len())
            .map(|i| {
                let pixels = loaded.batch.pixels[i * image..(i + 1) * image].to_vec();
                (loaded.batch.keys[i].clone(), loaded.batch.ids[i].clone(), pixels)
            })
            .collect();
        samples.sort();
        samples
    };
    let epochs =
        |reading: &Reading| reading.batches(Position::default(), 2).iter().map(by_key).collect::<Vec<_>>();
    let plain = epochs(&reading);
    assert!(plain[0] == plain[1], "one image, two pictures");
    reading.settings.crop = Some(CropSettings { scale: [0.2, 0.6], ratio: [0.75, 1.34] });
    let cropped = epochs(&reading);
    assert!(cropped == epochs(&reading), "one seed, two crops");
    for (a, b) in cropped[0].iter().zip(&cropped[1]) {
        assert_eq!((&a.0, &a.1), (&b.0, &b.1));
        assert!(a.2 != b.2, "{}: one crop in two epochs", a.0);
    }
}
