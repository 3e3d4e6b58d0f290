//! Every pooler and wiring, exported and run, against a forward pass in plain Rust; and that pass against open_clip's.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::path::PathBuf;

use common::{
    Weights, case,
    random::{Normal, WIRINGS, Wiring, config, write_checkpoint},
    reference::{Image, Reference},
};
use recaption_onnx::{
    ModelFolder, Precision,
    caption::{Admission, BeamSettings, CaptionSettings, Captioner, Generated, Strategy},
    checkpoint::{MultimodalInput, PoolerKind},
    export,
    runtime::{Decoder, ImageEncoder, RowUpdate, SessionOptions, TextEncoder},
};

/// Largest difference of features and logits, fp32.
const TOLERANCE: f64 = 1e-4;
const IMAGES: usize = 3;
/// With a packed pooler and without.
const VISION_WIDTHS: [usize; 2] = [16, 24];
const HOST: SessionOptions = SessionOptions::on_cpu(1);
/// Tensors stay with the sessions, as on a GPU.
const DEVICE: SessionOptions = SessionOptions { emulate_device: true, ..HOST };

/// A random model with images and texts.
struct Subject {
    dir: tempfile::TempDir,
    checkpoint: PathBuf,
    reference: Reference,
    /// u8 `[IMAGES, S, S, 3]`.
    pixels: Vec<u8>,
}

impl Subject {
    fn new(wiring: Wiring, vision_width: usize) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let checkpoint = dir.path().join("checkpoint");
        std::fs::create_dir(&checkpoint).expect("folder");
        write_checkpoint(&checkpoint, &config(wiring, vision_width), 17);
        let reference = Reference::open(&checkpoint);
        let mut normal = Normal(5);
        let size = reference.config.vision.image_size;
        let pixels = (0..IMAGES * size * size * 3).map(|_| (128.0 + 60.0 * normal.next()) as u8).collect();
        Self { dir, checkpoint, reference, pixels }
    }

    fn export(&self, precision: Precision) -> ModelFolder {
        let out = self.dir.path().join(format!("model-{precision}"));
        export(&self.checkpoint, &out, precision).expect("export")
    }

    fn images(&self) -> Vec<Image> {
        self.pixels.chunks_exact(self.pixels.len() / IMAGES).map(|p| self.reference.image(p)).collect()
    }

    /// Texts of several lengths, the longest as long as the context.
    fn texts(&self) -> Vec<Vec<i64>> {
        let (vocab, context) =
            (self.reference.config.text.vocab_size, self.reference.config.text.context_length);
        let word = |i: usize| 1 + (i * i * 7 + 3 * i) as i64 % (vocab as i64 - 3);
        let text = |words: usize| {
            let words = (0..words).map(|i| word(i + words));
            std::iter::once(vocab as i64 - 2).chain(words).chain([vocab as i64 - 1]).collect()
        };
        [0, 4, context - 2].map(text).to_vec()
    }
}

/// The larger of two differences; not a number wins and stays, so that no comparison with it passes.
fn worst(m: f64, d: f64) -> f64 {
    if m.is_nan() || d <= m { m } else { d }
}

fn difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, worst)
}

/// Teacher forcing through the decoder's step graph: the largest difference of any logit.
fn logit_difference(subject: &Subject, model: &ModelFolder, images: &[Image]) -> f64 {
    let texts = subject.texts();
    let encoded = ImageEncoder::load(model, &HOST).expect("encoder").encode(&subject.pixels).expect("encode");
    // The decoder's last position is not read: nothing follows the end token.
    let length = model.spec.dimensions.context_length - 1;
    let mut decoder = Decoder::load(model, &HOST, length, 1).expect("decoder");
    decoder.resize(IMAGES, &[]).expect("slots");
    (0..IMAGES).for_each(|i| decoder.load_image(i, &encoded, i).expect("loaded"));
    let wanted: Vec<_> = images.iter().zip(&texts).map(|(i, t)| subject.reference.logits(i, t)).collect();
    let mut largest = 0.0;
    for position in 0..length {
        let updates: Vec<_> =
            texts.iter().map(|t| t.get(position).map(|id| RowUpdate { id: *id, position })).collect();
        let got = decoder.step(&updates).expect("step");
        for (got, wanted) in got.chunks_exact(model.spec.dimensions.vocab_size).zip(&wanted) {
            // A text that has ended has no logits here.
            if let Some(wanted) = wanted.get(position) {
                largest = worst(largest, difference(got, wanted));
            }
        }
    }
    largest
}

fn check(wiring: Wiring) {
    for width in VISION_WIDTHS {
        let subject = Subject::new(wiring, width);
        let c = &subject.reference.config;
        let model = subject.export(Precision::Fp32);
        let images = subject.images();
        let sizes = model.decoder().expect("a decoder");
        assert_eq!(sizes.image_tokens, images[0].tokens.len());
        assert_eq!(sizes.text_layers, if wiring.1 == "embeddings" { 0 } else { c.text.layers });
        assert_eq!(c.vision.pooler.map(|p| p.kind.as_str()), Some(wiring.0));
        assert_eq!(c.decoder.map(|d| d.input.as_str()), Some(wiring.1));

        let encoded =
            ImageEncoder::load(&model, &HOST).expect("encoder").encode(&subject.pixels).expect("encode");
        let wanted: Vec<f64> = images.iter().flat_map(|i| i.features.clone()).collect();
        let image = difference(&encoded.features, &wanted);

        let texts = subject.texts();
        let ids: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
        let features = TextEncoder::load(&model, &HOST).expect("encoder").encode(&ids).expect("encode");
        let wanted: Vec<f64> = texts.iter().flat_map(|t| subject.reference.text(t)).collect();
        let text = difference(&features, &wanted);

        let logits = logit_difference(&subject, &model, &images);
        println!(
            "{wiring:?}, image tower {width} wide: image {image:.1e}, text {text:.1e}, logits {logits:.1e}"
        );
        assert!(image < TOLERANCE && text < TOLERANCE && logits < TOLERANCE, "{wiring:?}, {width}");
    }
}

#[test]
fn released_pooler_and_text_tower() {
    check(WIRINGS[0]);
}

#[test]
fn parallel_pooler_and_text_tower() {
    check(WIRINGS[1]);
}

#[test]
fn cascaded_pooler_and_text_tower() {
    check(WIRINGS[2]);
}

#[test]
fn released_pooler_and_embeddings() {
    check(WIRINGS[3]);
}

#[test]
fn parallel_pooler_and_embeddings() {
    check(WIRINGS[4]);
}

#[test]
fn cascaded_pooler_and_embeddings() {
    check(WIRINGS[5]);
}

/// The same weights in another wiring are another model: no two of them agree by accident.
#[test]
fn wirings_differ() {
    let mut subject = Subject::new(("cascade", "unimodal"), 16);
    let text = &subject.texts()[1];
    let mut results = Vec::new();
    for kind in [PoolerKind::Parallel, PoolerKind::Cascade] {
        for input in [MultimodalInput::Unimodal, MultimodalInput::Embeddings] {
            let c = &mut subject.reference.config;
            c.vision.pooler.as_mut().expect("a pooler").kind = kind;
            c.decoder.as_mut().expect("a decoder").input = input;
            let image = subject.reference.image(&subject.pixels[..subject.pixels.len() / IMAGES]);
            let logits = subject.reference.logits(&image, text).concat();
            results.push((kind, input, image.features, logits));
        }
    }
    let far = |a: &[f64], b: &[f64]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 100.0 * TOLERANCE);
    for (kind, input, features, logits) in &results {
        for other in &results {
            assert_eq!(far(features, &other.2), *kind != other.0, "{kind:?} {:?}", other.0);
            // Caption tokens do not depend on where the contrastive pooler looks.
            assert_eq!(far(logits, &other.3), *input != other.1, "{input:?} {:?}", other.1);
        }
    }
}

fn captions(
    subject: &Subject,
    model: &ModelFolder,
    options: &SessionOptions,
    settings: CaptionSettings,
) -> Vec<Generated> {
    let mut captioner = Captioner::load(model, options, settings).expect("captioner");
    let admissions: Vec<Admission> = (0..IMAGES as u64).map(|ticket| Admission { ticket, seed: 0 }).collect();
    captioner.admit(&admissions, &subject.pixels).expect("admit");
    let mut done = Vec::new();
    while captioner.active() > 0 {
        done.extend(captioner.step().expect("step"));
    }
    done.sort_by_key(|generated| generated.ticket);
    done
}

/// ln softmax of `logits` at `id`.
fn log_probability(logits: &[f64], id: i64) -> f64 {
    logits[id as usize] - logits.iter().map(|l| l.exp()).sum::<f64>().ln()
}

/// The most probable text of at most `most` tokens, token by token: never padding, no end before `least` tokens, and the end
/// token last.
fn greedy(reference: &Reference, image: &Image, least: usize, most: usize) -> Vec<i64> {
    let vocab = reference.config.text.vocab_size as i64;
    let mut ids = vec![vocab - 2];
    while ids.len() <= most && ids.last() != Some(&(vocab - 1)) {
        let logits = reference.logits(image, &ids).pop().expect("a row");
        let allowed = (1..vocab).filter(|id| ids.len() > least || *id != vocab - 1);
        let best =
            allowed.max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).expect("a token");
        ids.push(if ids.len() == most { vocab - 1 } else { best });
    }
    ids.split_off(1)
}

/// Captions on the host and on an emulated device equal the reference's, with its log-probabilities.
#[test]
fn captions_of_all_wirings_equal_the_references() {
    const LEAST: usize = 3;
    for wiring in WIRINGS {
        let subject = Subject::new(wiring, 24);
        let model = subject.export(Precision::Fp32);
        let images = subject.images();
        let most = model.spec.dimensions.context_length - 1;
        let plain = CaptionSettings::greedy(most, LEAST, IMAGES);
        let beams = Strategy::Beam(BeamSettings { beams: 3, ..BeamSettings::default() });
        let beams = CaptionSettings { strategy: beams, candidates: 2, ..plain.clone() };
        for options in [HOST, DEVICE] {
            for generated in captions(&subject, &model, &options, plain.clone()) {
                let image = &images[generated.ticket as usize];
                let wanted = greedy(&subject.reference, image, LEAST, most);
                assert_eq!(generated.candidates[0].ids, wanted, "{wiring:?}, image {}", generated.ticket);
            }
            for generated in captions(&subject, &model, &options, beams.clone()) {
                assert_eq!(generated.candidates.len(), 2, "{wiring:?}");
                for candidate in &generated.candidates {
                    let start = model.spec.special_ids.start;
                    let read = [&[start], &candidate.ids[..candidate.ids.len() - 1]].concat();
                    let logits = subject.reference.logits(&images[generated.ticket as usize], &read);
                    let logprob: f64 =
                        logits.iter().zip(&candidate.ids).map(|(l, id)| log_probability(l, *id)).sum();
                    let off = (f64::from(candidate.logprob) - logprob).abs();
                    assert!(off < 1e-3, "{wiring:?}: {} instead of {logprob}", candidate.logprob);
                }
            }
        }
    }
}

/// Lower precisions are other arithmetic on the same graphs.
#[test]
fn lower_precisions_keep_the_directions() {
    for wiring in WIRINGS {
        let subject = Subject::new(wiring, 24);
        let images = subject.images();
        for (precision, least) in [(Precision::Fp16, 0.9995), (Precision::Int8, 0.99)] {
            let model = subject.export(precision);
            let encoded =
                ImageEncoder::load(&model, &HOST).expect("encoder").encode(&subject.pixels).expect("encode");
            let width = model.spec.dimensions.embed_dim;
            for (got, image) in encoded.features.chunks_exact(width).zip(&images) {
                let cosine: f64 = got.iter().zip(&image.features).map(|(a, b)| f64::from(*a) * b).sum();
                assert!(cosine > least, "{wiring:?} {precision}: cosine {cosine}");
            }
            let difference = logit_difference(&subject, &model, &images);
            println!("{wiring:?} {precision}: logits {difference:.1e}");
            assert!(difference < 0.2, "{wiring:?} {precision}: {difference}");
        }
    }
}

/// The reference itself, against what open_clip computed.
#[test]
fn reference_agrees_with_open_clip() {
    for name in ["square", "odd", "nopool", "quickgelu", "layerscale"] {
        let reference = Reference::open(&case(name));
        let golden = Weights::read(&case(name).join("golden.safetensors"));
        let to_f64 = |tensor: &str| golden.f32(tensor).into_iter().map(f64::from).collect::<Vec<_>>();
        let (vocab, width) = (reference.config.text.vocab_size, reference.config.embed_dim);
        let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, worst);
        let (text_length, end) = (golden.0["text"].1[1], vocab as i64 - 1);
        let (image_features, text_features, logits) =
            (to_f64("image_features"), to_f64("text_features"), to_f64("logits"));
        let (pixels, ids) = (golden.u8("images"), golden.i64("text"));
        let (count, rows) = (golden.0["logits"].1[0], golden.0["logits"].1[1]);
        // Two are enough; the pass is slow.
        for i in 0..2 {
            let image = reference.image(&pixels[i * pixels.len() / count..(i + 1) * pixels.len() / count]);
            let text = &ids[i * text_length..(i + 1) * text_length];
            let text = &text[..=text.iter().position(|id| *id == end).expect("an end token")];
            let read = &text[..text.len().min(rows)];
            let got = reference.logits(&image, read).concat();
            let differences = [
                far(&image.features, &image_features[i * width..(i + 1) * width]),
                far(&reference.text(text), &text_features[i * width..(i + 1) * width]),
                far(&got, &logits[i * rows * vocab..]),
            ];
            println!("{name}, {i}: image, text, logits differ by {differences:?}");
            assert!(differences.iter().all(|d| *d < 2e-5), "{name}: {differences:?}");
        }
    }
}
