//! A captioning thread when things go wrong: memory that runs out, an image that the model refuses. Every image ends once.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{collections::BTreeMap, sync::Mutex};

use recaption_caption::{
    CaptionWorker, CaptionWorkerSettings, ImageQueue,
    filter::Filter,
    scorer::{ScoreImage, ScoreJob, Scorer},
};
use recaption_image::{DecodeOptions, prepare};
use recaption_messages::{Closed, PreparedSample, SampleOutcome, SampleResult};
use recaption_onnx::{
    ModelFolder,
    caption::{BeamSettings, CaptionSettings, SampleSettings, SlotDecoder, Strategy},
    runtime::{Encoded, ImageEncoder, Logits, RowUpdate, RuntimeError, SessionOptions},
};
use recaption_schemas::RejectReason;
use support::{model, shards::jpeg};

const IMAGES: u64 = 21;

/// What a [`FaultyDecoder`] fails on.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Allocations of more slots than this run out of memory.
    max_slots: Option<usize>,
    /// Features of an image; steps that decode it fail.
    failing_image: Option<Vec<f32>>,
}

/// A decoder that fails as `faults` says.
#[derive(Debug)]
struct FaultyDecoder {
    inner: Box<dyn SlotDecoder>,
    faults: Faults,
    /// Whether each slot holds the failing image.
    failing: Vec<bool>,
}

impl Faults {
    fn wrap(&self, inner: Box<dyn SlotDecoder>) -> Box<dyn SlotDecoder> {
        Box::new(FaultyDecoder { inner, faults: self.clone(), failing: Vec::new() })
    }

    fn of_max_slots(max_slots: usize) -> Self {
        Self { max_slots: Some(max_slots), ..Self::default() }
    }
}

impl SlotDecoder for FaultyDecoder {
    fn resize(&mut self, slots: usize, keep: &[usize]) -> Result<(), RuntimeError> {
        if self.faults.max_slots.is_some_and(|max| slots > max) {
            self.inner.release();
            let source = ort::Error::new("Failed to allocate memory for requested buffer of size 8589934592");
            return Err(RuntimeError::Run { graph: "decoder (allocating slots)", rows: slots, source });
        }
        let kept = |slot: usize| keep.get(slot).is_some_and(|old| self.failing[*old]);
        self.failing = (0..slots).map(kept).collect();
        self.inner.resize(slots, keep)
    }

    fn load_images(&mut self, places: &[(usize, usize)], encoded: &Encoded) -> Result<(), RuntimeError> {
        for (slot, index) in places {
            self.failing[*slot] = self
                .faults
                .failing_image
                .as_deref()
                .is_some_and(|image| encoded.features_of(*index) == image);
        }
        self.inner.load_images(places, encoded)
    }

    fn run(&mut self, updates: &[Option<RowUpdate>]) -> Result<Logits<'_>, RuntimeError> {
        let rows = updates.len() / self.failing.len();
        let mut slots = updates.chunks_exact(rows).zip(&self.failing);
        if slots.any(|(rows, failing)| *failing && rows.iter().any(Option::is_some)) {
            return Err(RuntimeError::Input("injected failure".into()));
        }
        self.inner.run(updates)
    }

    fn copy_caches(&mut self, copies: &[(usize, usize, usize)]) -> Result<(), RuntimeError> {
        self.inner.copy_caches(copies)
    }

    fn release(&mut self) {
        self.failing.clear();
        self.inner.release();
    }

    fn slot_bytes(&self) -> usize {
        self.inner.slot_bytes()
    }

    fn cross_bytes(&self) -> usize {
        self.inner.cross_bytes()
    }
}

fn samples(folder: &ModelFolder) -> Vec<PreparedSample> {
    let square = |n| {
        prepare(&jpeg(n), None, &folder.spec.preprocessing, &DecodeOptions::default()).expect("a picture")
    };
    (0..IMAGES)
        .map(|index| PreparedSample {
            shard: 0,
            index,
            key: format!("{index:03}"),
            suffix: "jpg".into(),
            stored: bytes::Bytes::new(),
            width: 1,
            height: 1,
            sha256: String::new(),
            pixels: square(index).pixels.as_slice().to_vec().into(),
            scorer_pixels: None,
            org_caption: Some("a red star".into()),
            url: None,
            meta: None,
            permit: None,
        })
        .collect()
}

/// Notes outcomes; none may come twice.
fn collect(
    found: &Mutex<BTreeMap<u64, SampleOutcome>>,
) -> impl Fn(SampleResult) -> Result<(), Closed> + Sync {
    |finished: SampleResult| {
        let twice = found.lock().expect("outcomes").insert(finished.index, finished.outcome).is_some();
        assert!(!twice, "{} came out twice", finished.index);
        Ok(())
    }
}

/// What came out of a worker, by index; nothing may come out twice.
fn outcomes(
    options: &SessionOptions,
    caption: CaptionSettings,
    change: impl Fn(&mut PreparedSample),
) -> BTreeMap<u64, SampleOutcome> {
    outcomes_with(&Faults::default(), options, caption, change)
}

/// As [`outcomes`], of a worker whose decoder fails.
fn outcomes_with(
    faults: &Faults,
    options: &SessionOptions,
    caption: CaptionSettings,
    change: impl Fn(&mut PreparedSample),
) -> BTreeMap<u64, SampleOutcome> {
    let folder = ModelFolder::open(model()).expect("a model");
    let settings = CaptionWorkerSettings {
        caption,
        seed: 5,
        keep_prompt: false,
        filter: Filter::default(),
        itm_top_k: 0,
        match_original: false,
        embed_images: false,
        keep_features: false,
    };
    let worker = CaptionWorker::load(&folder, None, options, settings).expect("a worker");
    let worker = worker.map_decoder(|decoder| faults.wrap(decoder));
    let (to_lane, input) = crossbeam_channel::unbounded();
    for mut sample in samples(&folder) {
        change(&mut sample);
        to_lane.send(sample).expect("an open channel");
    }
    drop(to_lane);
    let found = Mutex::new(BTreeMap::new());
    worker.run(&ImageQueue::new(input), collect(&found)).expect("the worker ends well");
    let found = found.into_inner().expect("outcomes");
    assert_eq!(found.len() as u64, IMAGES, "an image got lost");
    found
}

#[test]
fn memory_that_runs_out_halves_the_batch_and_loses_nothing() {
    let greedy = CaptionSettings::greedy(20, 1, 16);
    let sample = Strategy::Sample(SampleSettings { top_p: 0.9, ..SampleSettings::default() });
    let beam = Strategy::Beam(BeamSettings { beams: 3, ..BeamSettings::default() });
    for settings in [
        greedy.clone(),
        CaptionSettings { strategy: sample, candidates: 3, ..greedy.clone() },
        CaptionSettings { strategy: beam, candidates: 2, ..greedy },
    ] {
        let plain = SessionOptions::on_cpu(1);
        let want = outcomes(&plain, settings.clone(), |_| {});
        for (max_slots, emulate_device) in [(8, false), (3, false), (1, false), (2, true)] {
            let options = SessionOptions { emulate_device, ..plain };
            let got = outcomes_with(&Faults::of_max_slots(max_slots), &options, settings.clone(), |_| {});
            if emulate_device {
                assert!(got.values().all(|o| matches!(o, SampleOutcome::Caption(_))));
            } else {
                assert_eq!(got, want, "{max_slots} slots, {:?}", settings.strategy);
            }
        }
    }
}

#[test]
fn memory_that_does_not_hold_one_image_ends_the_lane() {
    let folder = ModelFolder::open(model()).expect("a model");
    let settings = CaptionWorkerSettings {
        caption: CaptionSettings::greedy(20, 1, 4),
        seed: 0,
        keep_prompt: false,
        filter: Filter::default(),
        itm_top_k: 0,
        match_original: false,
        embed_images: false,
        keep_features: false,
    };
    let worker = CaptionWorker::load(&folder, None, &SessionOptions::on_cpu(1), settings);
    let worker = worker.expect("a worker").map_decoder(|decoder| Faults::of_max_slots(0).wrap(decoder));
    let (to_lane, input) = crossbeam_channel::unbounded();
    samples(&folder).into_iter().for_each(|sample| to_lane.send(sample).expect("an open channel"));
    drop(to_lane);
    let failure =
        worker.run(&ImageQueue::new(input), |_| panic!("nothing can come out")).expect_err("no memory");
    assert!(failure.to_string().contains("memory"), "{failure}");
    // What lies in the queue is not the worker's.
    assert!(!failure.unfinished.is_empty(), "what it had comes back");
}

/// Two GPUs in one process, one of which fails while it holds images: the other captions them.
#[test]
fn images_of_a_failed_device_go_to_another() {
    let folder = ModelFolder::open(model()).expect("a model");
    let settings = CaptionWorkerSettings {
        caption: CaptionSettings::greedy(20, 1, 4),
        seed: 5,
        keep_prompt: false,
        filter: Filter::default(),
        itm_top_k: 0,
        match_original: false,
        embed_images: false,
        keep_features: false,
    };
    let want = outcomes(&SessionOptions::on_cpu(1), settings.caption.clone(), |_| {});
    for emulate_device in [false, true] {
        let options = SessionOptions { emulate_device, ..SessionOptions::on_cpu(1) };
        let load = || CaptionWorker::load(&folder, None, &options, settings.clone()).expect("a worker");
        let failing = load().map_decoder(|decoder| Faults::of_max_slots(0).wrap(decoder));
        let working = load();
        let (to_captioners, input) = crossbeam_channel::unbounded();
        samples(&folder).into_iter().for_each(|sample| to_captioners.send(sample).expect("an open channel"));
        drop(to_captioners);
        let queue = ImageQueue::with_requeue(input);
        let found = Mutex::new(BTreeMap::new());
        let returned = std::thread::scope(|scope| {
            // The failing one begins alone, so that it holds images; it is the other one's turn when it has failed.
            let failure = failing.run(&queue, collect(&found)).expect_err("no memory");
            let working = scope.spawn(|| working.run(&queue, collect(&found)));
            std::thread::sleep(std::time::Duration::from_millis(50));
            let returned = queue.requeue(failure.unfinished);
            working.join().expect("no panic").expect("the other goes on");
            returned
        });
        assert!(returned > 0, "the failing one held images");
        let found = found.into_inner().expect("outcomes");
        assert_eq!(found.len() as u64, IMAGES, "an image got lost");
        if emulate_device {
            assert!(found.values().all(|o| matches!(o, SampleOutcome::Caption(_))));
        } else {
            assert_eq!(found, want);
        }
    }
}

/// A device's stages have threads of their own; rows are those of one thread.
#[test]
fn overlapped_stages_caption_as_one_thread_does() {
    let greedy = CaptionSettings::greedy(20, 1, 5);
    let sample = Strategy::Sample(SampleSettings { top_p: 0.9, ..SampleSettings::default() });
    for settings in [greedy.clone(), CaptionSettings { strategy: sample, candidates: 3, ..greedy }] {
        let texts = |outcomes: BTreeMap<u64, SampleOutcome>| -> Vec<Vec<String>> {
            let text = |outcome| match outcome {
                SampleOutcome::Caption(row) => {
                    row.candidates.as_slice().iter().map(|c| c.text.clone()).collect()
                }
                SampleOutcome::Reject(reject) => panic!("{}", reject.detail),
                SampleOutcome::Kept(_) => panic!("kept without an earlier run"),
            };
            outcomes.into_values().map(text).collect()
        };
        let plain = SessionOptions::on_cpu(1);
        let in_turn = texts(outcomes(&plain, settings.clone(), |_| {}));
        let overlapped = texts(outcomes(&SessionOptions { emulate_device: true, ..plain }, settings, |_| {}));
        assert_eq!(in_turn, overlapped);
    }
}

#[test]
fn an_image_that_the_model_refuses_is_the_only_reject() {
    let cut = |sample: &mut PreparedSample| {
        if sample.index == 9 {
            sample.pixels.truncate(10);
        }
    };
    for emulate_device in [false, true] {
        let options = SessionOptions { emulate_device, ..SessionOptions::on_cpu(1) };
        for (index, outcome) in outcomes(&options, CaptionSettings::greedy(20, 1, 16), cut) {
            match outcome {
                SampleOutcome::Caption(_) => assert_ne!(index, 9),
                SampleOutcome::Reject(reject) => {
                    assert_eq!((index, reject.reason), (9, RejectReason::ModelError), "{}", reject.detail);
                }
                SampleOutcome::Kept(_) => panic!("kept without an earlier run"),
            }
        }
    }
}

#[test]
fn an_image_on_which_the_decoder_fails_is_the_only_reject() {
    let folder = ModelFolder::open(model()).expect("a model");
    let mut encoder = ImageEncoder::load(&folder, &SessionOptions::on_cpu(1)).expect("an encoder");
    let features = encoder.encode(&samples(&folder)[9].pixels).expect("features").features;
    let faults = Faults { failing_image: Some(features), ..Faults::default() };
    let beam = Strategy::Beam(BeamSettings { beams: 3, ..BeamSettings::default() });
    for settings in [
        CaptionSettings::greedy(20, 1, 16),
        CaptionSettings { strategy: beam, candidates: 2, ..CaptionSettings::greedy(20, 1, 16) },
    ] {
        let plain = SessionOptions::on_cpu(1);
        let mut want = outcomes(&plain, settings.clone(), |_| {});
        let mut got = outcomes_with(&faults, &plain, settings, |_| {});
        let Some(SampleOutcome::Reject(reject)) = got.remove(&9) else { panic!("it passed") };
        assert_eq!(reject.reason, RejectReason::ModelError, "{}", reject.detail);
        want.remove(&9);
        assert_eq!(got, want, "the others are as they are without it");
    }
}

#[test]
fn a_sample_that_the_scorer_refuses_is_the_only_reject() {
    let folder = ModelFolder::open(model()).expect("a model");
    let options = SessionOptions::on_cpu(1);
    let mut scorer = Scorer::separate(&folder, &options).expect("a scorer");
    let samples = samples(&folder);
    let job = |sample: &PreparedSample, bytes: usize| ScoreJob {
        payload: sample.index,
        key: sample.key.clone(),
        image: ScoreImage::Pixels(sample.pixels.slice(..bytes)),
        texts: vec!["a red star".into()],
    };
    let whole = samples[0].pixels.len();
    let jobs = samples.iter().map(|s| job(s, if s.index == 4 { 10 } else { whole })).collect();
    let Err(unscored) = scorer.score::<u64>(jobs) else { panic!("a cut image passed") };
    let (mut passed, mut refused) = (0, Vec::new());
    for job in unscored.jobs {
        match scorer.score(vec![job]) {
            Ok(scored) => passed += scored.len(),
            Err(unscored) => refused.extend(unscored.jobs.iter().map(|job| job.payload)),
        }
    }
    assert_eq!((passed as u64, refused), (IMAGES - 1, vec![4]), "every job came back with its pixels");
    scorer.probe().expect("the model works");
}
