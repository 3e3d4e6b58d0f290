//! A row depends on its image or text alone, bit for bit: not on the batch it was in, its neighbours, the number of
//! slots or of threads. (CPU, fp32, one machine type and library version.)

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use common::{bundled, case};
use ort::value::DynTensor;
use recaption_onnx::{
    ModelFolder, Precision,
    caption::{CaptionSettings, Captioner},
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
        let dir = tempfile::tempdir().expect("temporary folder");
        let model = export(checkpoint, &dir.path().join("model"), Precision::Fp32).expect("export");
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
        let mut encoder = ImageEncoder::load(&subject.model, &SessionOptions { threads }).expect("encoder");
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
        let mut encoder = TextEncoder::load(&subject.model, &SessionOptions { threads }).expect("encoder");
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

/// Ids, log-probability bits and feature bits of one caption.
type Caption = (Vec<i64>, u32, Vec<u32>);

fn captions(subject: &Subject, threads: usize, max_slots: usize, order: &[usize]) -> Vec<Caption> {
    let max_tokens = subject.model.spec.dimensions.context_length - 1;
    let settings = CaptionSettings { max_tokens, min_tokens: 1, max_slots };
    let mut captioner =
        Captioner::load(&subject.model, &SessionOptions { threads }, settings).expect("captioner");
    let images: Vec<&[u8]> = subject.images().collect();
    let mut result: Vec<Option<Caption>> = vec![None; IMAGES];
    let mut waiting = order;
    while !waiting.is_empty() || captioner.active() > 0 {
        let (now, later) = waiting.split_at(captioner.room().min(waiting.len()));
        if !now.is_empty() {
            let tickets: Vec<u64> = now.iter().map(|i| *i as u64).collect();
            let pixels: Vec<u8> = now.iter().flat_map(|i| images[*i]).copied().collect();
            captioner.admit(&tickets, &pixels).expect("admit");
            waiting = later;
        }
        for done in captioner.step().expect("step") {
            let caption = (done.ids, done.logprob.to_bits(), bits(&done.image_features));
            let before = result[done.ticket as usize].replace(caption);
            assert!(before.is_none(), "image {} came out twice", done.ticket);
        }
    }
    result.into_iter().map(|c| c.expect("every image comes out")).collect()
}

fn check_captions(subject: &Subject) {
    let forwards: Vec<usize> = (0..IMAGES).collect();
    let shuffled: Vec<usize> = (0..IMAGES).map(|i| (i * 10 + 4) % IMAGES).collect();
    let alone = captions(subject, 1, 1, &forwards);
    let lengths: std::collections::BTreeSet<usize> = alone.iter().map(|c| c.0.len()).collect();
    assert!(lengths.len() > 1, "captions of one length only would not refill slots: {lengths:?}");
    let mut differences = Vec::new();
    for threads in THREADS {
        for slots in BATCHES {
            for (name, order) in [("forwards", &forwards), ("shuffled", &shuffled)] {
                let got = captions(subject, threads, slots, order);
                for (image, (a, b)) in alone.iter().zip(&got).enumerate() {
                    if a != b {
                        differences.push(format!(
                            "image {image}, {threads} threads, {slots} slots, {name}: ids {}, logprob {} and {}",
                            if a.0 == b.0 { "equal" } else { "differ" },
                            f32::from_bits(a.1),
                            f32::from_bits(b.1)
                        ));
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

macro_rules! subjects {
    ($($test:ident: $checkpoint:expr,)*) => { $(
        mod $test {
            use super::*;
            #[test]
            fn image_features_and_cross_keys() { check_images(&Subject::new(&$checkpoint)); }
            #[test]
            fn text_features() { check_texts(&Subject::new(&$checkpoint)); }
            #[test]
            fn generated_ids_and_logprobs() { check_captions(&Subject::new(&$checkpoint)); }
        }
    )* };
}

subjects! {
    bundled_captioner: bundled(),
    golden_without_pooler: case("nopool"),
    golden_with_odd_sizes: case("odd"),
}
