//! A row depends on its image or text alone, bit for bit: not on the batch, other rows, or the number of slots or threads.
//! (CPU, fp32 and int8, one machine type and library version.)

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::collections::BTreeSet;

use common::{bundled, case};
use ort::value::DynTensor;
use recaption_onnx::{
    ModelFolder, Precision,
    caption::{Admission, BeamSettings, CaptionSettings, Captioner, SampleSettings, Strategy, image_seed},
    export,
    runtime::{ImageEncoder, SessionOptions, TextEncoder},
};

const BATCHES: [usize; 7] = [1, 2, 3, 7, 8, 16, 33];
const THREADS: [usize; 3] = [1, 2, 4];
/// As many as the largest batch.
const IMAGES: usize = 33;

/// A model with images and texts to try it on.
struct Subject {
    _dir: tempfile::TempDir,
    model: ModelFolder,
    pixels: Vec<u8>,
    texts: Vec<Vec<i64>>,
}

impl Subject {
    fn new(checkpoint: &std::path::Path) -> Self {
        Self::of_precision(checkpoint, Precision::Fp32)
    }

    fn of_precision(checkpoint: &std::path::Path, precision: Precision) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let model = export(checkpoint, &dir.path().join("model"), precision).expect("export");
        let mut random = Random(11);
        let pixels = (0..IMAGES).flat_map(|_| picture(model.spec.image_size as usize, &mut random)).collect();
        let (d, ids) = (model.spec.dimensions, model.spec.special_ids);
        // Every length from the two special ids alone to the full context, several times, in no order.
        let texts = (0..3 * d.context_length)
            .map(|i| {
                let words = (i * 7) % (d.context_length - 1);
                let word = |_| 1 + (random.next() % (d.vocab_size as u64 - 3)) as i64;
                let words: Vec<i64> = (0..words).map(word).collect();
                [&[ids.start], &words[..], &[ids.end]].concat()
            })
            .collect();
        Self { _dir: dir, model, pixels, texts }
    }

    fn image_bytes(&self) -> usize {
        self.pixels.len() / IMAGES
    }

    fn images(&self) -> std::slice::ChunksExact<'_, u8> {
        self.pixels.chunks_exact(self.image_bytes())
    }
}

/// A linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Two blocks of colour on a background: enough for captions of different lengths.
fn picture(size: usize, random: &mut Random) -> Vec<u8> {
    let mut colour = || [0; 3].map(|_: u8| (random.next() % 256) as u8);
    let mut pixels = colour().repeat(size * size);
    for _ in 0..2 {
        let colour = [0; 3].map(|_: u8| (random.next() % 256) as u8);
        let side = size / 6 + random.next() as usize % (size / 4);
        let [top, left] = [0; 2].map(|_: usize| random.next() as usize % (size - side));
        for y in top..top + side {
            for x in left..left + side {
                pixels[3 * (y * size + x)..][..3].copy_from_slice(&colour);
            }
        }
    }
    pixels
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Row `row` of a tensor with `rows` rows.
fn row_bits(tensor: &DynTensor, row: usize, rows: usize) -> Vec<u32> {
    let values = tensor.try_extract_tensor::<f32>().expect("f32").1;
    let len = values.len() / rows;
    bits(&values[row * len..(row + 1) * len])
}

fn first_difference(a: &[u32], b: &[u32]) -> Option<String> {
    let at = a.iter().zip(b).position(|(a, b)| a != b)?;
    Some(format!("element {at}: {} and {}", f32::from_bits(a[at]), f32::from_bits(b[at])))
}

fn check_images(subject: &Subject) {
    let mut alone: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut differences = Vec::new();
    for threads in THREADS {
        let mut encoder =
            ImageEncoder::load(&subject.model, &SessionOptions::on_cpu(threads)).expect("encoder");
        for batch in BATCHES {
            for (start, pixels) in subject.pixels.chunks(batch * subject.image_bytes()).enumerate() {
                let rows = pixels.len() / subject.image_bytes();
                let encoded = encoder.encode(pixels).expect("encode");
                let width = encoded.features.len() / rows;
                for row in 0..rows {
                    let mut got = vec![bits(&encoded.features[row * width..(row + 1) * width])];
                    got.extend(encoded.cross.iter().map(|t| row_bits(t, row, rows)));
                    let image = start * batch + row;
                    if alone.len() <= image {
                        alone.push(got);
                        continue;
                    }
                    for (output, (a, b)) in alone[image].iter().zip(&got).enumerate() {
                        if let Some(what) = first_difference(a, b) {
                            differences.push(format!(
                                "image {image}, output {output}, {threads} threads, batch {batch} of {rows}: {what}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences, first {:#?}",
        differences.len(),
        &differences[..differences.len().min(5)]
    );
}

fn check_texts(subject: &Subject) {
    let mut alone: Vec<Vec<u32>> = Vec::new();
    let mut differences = Vec::new();
    for threads in THREADS {
        let mut encoder =
            TextEncoder::load(&subject.model, &SessionOptions::on_cpu(threads)).expect("encoder");
        let width = encoder.embed_dim();
        for batch in BATCHES {
            for (start, texts) in subject.texts.chunks(batch).enumerate() {
                let texts: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
                let features = encoder.encode(&texts).expect("encode");
                for (row, got) in features.chunks_exact(width).map(bits).enumerate() {
                    let text = start * batch + row;
                    if alone.len() <= text {
                        alone.push(got);
                    } else if let Some(what) = first_difference(&alone[text], &got) {
                        differences.push(format!("text {text}, {threads} threads, batch {batch}: {what}"));
                    }
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences, first {:#?}",
        differences.len(),
        &differences[..differences.len().min(5)]
    );
}

/// Ids and log-probability bits of every candidate, and feature bits of the image.
type Captions = (Vec<(Vec<i64>, u32)>, Vec<u32>);

/// Sampling with all options, in two waves of rows; beams with several candidates and a prompt; greedy.
fn strategies(model: &ModelFolder) -> [(&'static str, CaptionSettings); 3] {
    let context = model.spec.dimensions.context_length;
    let greedy = CaptionSettings::greedy(context - 1, 1, 1);
    let sample = SampleSettings { repetition_penalty: 1.2, temperature: 1.3, top_k: 40, top_p: 0.95 };
    let prompt = vec![5, 3];
    let beam = Strategy::Beam(BeamSettings { beams: 3, ..BeamSettings::default() });
    let shorter = CaptionSettings { max_tokens: context - 3, prompt, ..greedy.clone() };
    [
        ("greedy", greedy.clone()),
        ("sample", CaptionSettings { strategy: Strategy::Sample(sample), candidates: 10, ..greedy }),
        ("beam", CaptionSettings { strategy: beam, candidates: 2, ..shorter }),
    ]
}

fn captions(subject: &Subject, threads: usize, settings: CaptionSettings, order: &[usize]) -> Vec<Captions> {
    let candidates = settings.candidates;
    let mut captioner =
        Captioner::load(&subject.model, &SessionOptions::on_cpu(threads), settings).expect("captioner");
    let images: Vec<&[u8]> = subject.images().collect();
    let mut result: Vec<Option<Captions>> = vec![None; IMAGES];
    let mut waiting = order;
    while !waiting.is_empty() || captioner.active() > 0 {
        let (now, later) = waiting.split_at(captioner.free_slots().min(waiting.len()));
        if !now.is_empty() {
            let admissions: Vec<Admission> = now
                .iter()
                .map(|i| Admission { ticket: *i as u64, seed: image_seed(7, &i.to_string()) })
                .collect();
            let pixels: Vec<u8> = now.iter().flat_map(|i| images[*i]).copied().collect();
            captioner.admit(&admissions, &pixels).expect("admit");
            waiting = later;
        }
        for done in captioner.step().expect("step") {
            assert_eq!(done.candidates.len(), candidates);
            let ids = done.candidates.into_iter().map(|c| (c.ids, c.logprob.to_bits())).collect();
            let before = result[done.ticket as usize].replace((ids, bits(&done.image_features)));
            assert!(before.is_none(), "image {} came out twice", done.ticket);
        }
    }
    result.into_iter().map(|c| c.expect("every image comes out")).collect()
}

fn check_captions(subject: &Subject) {
    let forwards: Vec<usize> = (0..IMAGES).collect();
    let shuffled: Vec<usize> = (0..IMAGES).map(|i| (i * 10 + 4) % IMAGES).collect();
    let mut differences = Vec::new();
    for (strategy, settings) in strategies(&subject.model) {
        let alone = captions(subject, 1, settings.clone(), &forwards);
        let lengths: BTreeSet<usize> =
            alone.iter().flat_map(|c| c.0.iter().map(|(ids, _)| ids.len())).collect();
        assert!(lengths.len() > 1, "{strategy}: captions of one length would not refill slots: {lengths:?}");
        // Many rows per image take long; a few shapes of batch differ from each other as much as many.
        let few = strategy != "greedy";
        for threads in THREADS.into_iter().filter(|t| !few || *t == 2) {
            for slots in BATCHES.into_iter().filter(|b| !few || [3, 16].contains(b)) {
                for (name, order) in [("forwards", &forwards), ("shuffled", &shuffled)] {
                    let settings = CaptionSettings { max_slots: slots, ..settings.clone() };
                    let got = captions(subject, threads, settings, order);
                    let differ = alone.iter().zip(&got).enumerate().filter(|(_, (a, b))| a != b);
                    differences.extend(differ.map(|(i, _)| {
                        format!("{strategy}: image {i}, {threads} threads, {slots} slots, {name}")
                    }));
                }
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences, first {:#?}",
        differences.len(),
        &differences[..differences.len().min(5)]
    );
}

/// After memory runs out, images start over in half the slots, with the same captions.
#[test]
fn halving_the_slots_changes_no_caption() {
    let subject = Subject::new(&bundled());
    for (strategy, settings) in strategies(&subject.model) {
        let settings = CaptionSettings { max_slots: 8, ..settings };
        let want = captions(&subject, 1, settings.clone(), &(0..IMAGES).collect::<Vec<_>>());
        let mut captioner =
            Captioner::load(&subject.model, &SessionOptions::on_cpu(1), settings).expect("captioner");
        let admissions = |tickets: &[u64]| -> Vec<Admission> {
            tickets.iter().map(|t| Admission { ticket: *t, seed: image_seed(7, &t.to_string()) }).collect()
        };
        let pixels = |tickets: &[u64]| -> Vec<u8> {
            tickets.iter().flat_map(|t| subject.images().nth(*t as usize).expect("image")).copied().collect()
        };
        let mut waiting: Vec<u64> = (0..8).collect();
        let (mut done, mut steps) = (0, 0);
        while !waiting.is_empty() || captioner.active() > 0 {
            let now: Vec<u64> = waiting.drain(..captioner.free_slots().min(waiting.len())).collect();
            if !now.is_empty() {
                captioner.admit(&admissions(&now), &pixels(&now)).expect("admit");
            }
            for generated in captioner.step().expect("step") {
                let ids = generated
                    .candidates
                    .into_iter()
                    .map(|c| (c.ids, c.logprob.to_bits()))
                    .collect::<Vec<_>>();
                assert_eq!(ids, want[generated.ticket as usize].0, "{strategy}");
                done += 1;
            }
            steps += 1;
            if [2, 4, 6].contains(&steps) {
                waiting.extend(captioner.halve_slots().expect("more than one slot"));
            }
        }
        assert_eq!((done, captioner.max_slots(), captioner.halve_slots()), (8, 1, None), "{strategy}");
    }
}

#[test]
fn slots_are_limited_by_cache_bytes() {
    let subject = Subject::new(&case("square"));
    let load = |settings| Captioner::load(&subject.model, &SessionOptions::on_cpu(1), settings);
    let settings = CaptionSettings::greedy(10, 1, 32);
    let slot = load(settings.clone()).expect("captioner").slot_bytes() as u64;
    let d = subject.model.decoder().expect("a captioner");
    // Held twice by a batch of 8 while it is admitted.
    let cross = (2 * d.decoder_layers * d.image_tokens * d.cross_width() * 4) as u64;
    let slots =
        |cache_bytes| load(CaptionSettings { cache_bytes, ..settings.clone() }).map(|c| c.max_slots());
    assert_eq!(slots(5 * (slot + cross)).expect("five fit"), 5);
    assert_eq!(slots(20 * slot + 8 * cross).expect("twenty fit"), 20);
    assert_eq!(slots(1000 * slot).expect("all fit"), 32);
    let error = slots(slot + cross - 1).expect_err("none fits").to_string();
    assert!(error.contains("one image needs"), "{error}");
}

#[test]
fn prompt_is_read_but_not_returned() {
    let subject = Subject::new(&bundled());
    let greedy = CaptionSettings::greedy(20, 1, 4);
    let plain = captions(&subject, 1, greedy.clone(), &(0..IMAGES).collect::<Vec<_>>());
    // Continuing a greedy caption from its own beginning gives its end.
    let first = &plain[0].0[0].0;
    let prompt = first[..2].to_vec();
    let prompted = CaptionSettings { prompt, max_tokens: 18, ..greedy.clone() };
    let continued = captions(&subject, 1, prompted, &(0..IMAGES).collect::<Vec<_>>());
    assert_eq!(continued[0].0[0].0, first[2..]);
    let padding = CaptionSettings { prompt: vec![subject.model.spec.special_ids.pad], ..greedy };
    let error = Captioner::load(&subject.model, &SessionOptions::on_cpu(1), padding);
    assert!(error.expect_err("refused").to_string().contains("padding"));
}

macro_rules! subjects {
    ($($test:ident: $checkpoint:expr, $precision:ident,)*) => { $(
        mod $test {
            use super::*;
            fn subject() -> Subject { Subject::of_precision(&$checkpoint, Precision::$precision) }
            #[test]
            fn image_features_and_cross_keys() { check_images(&subject()); }
            #[test]
            fn text_features() { check_texts(&subject()); }
            #[test]
            fn generated_ids_and_logprobs() { check_captions(&subject()); }
        }
    )* };
}

subjects! {
    bundled_captioner: bundled(), Fp32,
    golden_without_pooler: case("nopool"), Fp32,
    golden_with_odd_sizes: case("odd"), Fp32,
    bundled_captioner_in_int8: bundled(), Int8,
}

/// A CLIP has no captions.
mod clip {
    use super::*;
    use common::clip_case;
    #[test]
    fn image_features() {
        check_images(&Subject::new(&clip_case("plain")));
    }
    #[test]
    fn text_features() {
        check_texts(&Subject::new(&clip_case("plain")));
    }
}
