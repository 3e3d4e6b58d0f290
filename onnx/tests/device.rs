//! The code path of a GPU, emulated on the CPU: tensors stay with the sessions, graphs copy them and select tokens. Captions must
//! equal those of the host's path. (A GPU's arithmetic is not tested here.)

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use common::{Weights, bundled, case};
use recaption_onnx::{
    ModelFolder, Precision,
    caption::{
        Admission, BeamSettings, CaptionSettings, Captioner, Generated, SampleSettings, Strategy, image_seed,
    },
    export,
    runtime::{Decoder, ImageEncoder, RowUpdate, SessionOptions, load_library},
    verify::{CheckStatus, verify},
};

const HOST: SessionOptions = SessionOptions::on_cpu(1);
const DEVICE: SessionOptions = SessionOptions { emulate_device: true, ..HOST };
const GOLDENS: [&str; 7] = ["legacy-1", "legacy-2", "square", "quickgelu", "layerscale", "nopool", "odd"];

fn exported(checkpoint: &std::path::Path) -> (tempfile::TempDir, ModelFolder) {
    exported_in(checkpoint, Precision::Fp32)
}

fn exported_in(checkpoint: &std::path::Path, precision: Precision) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(checkpoint, &dir.path().join("model"), precision).expect("export");
    (dir, model)
}

/// Every strategy, with various settings.
fn strategies(model: &ModelFolder) -> Vec<(&'static str, CaptionSettings)> {
    let context = model.spec.dimensions.context_length;
    let greedy = CaptionSettings::greedy(context - 1, 1, 4);
    let sampled = |sample, candidates| CaptionSettings {
        strategy: Strategy::Sample(sample),
        candidates,
        ..greedy.clone()
    };
    let plain = SampleSettings::default();
    let beam = |beams| Strategy::Beam(BeamSettings { beams, ..BeamSettings::default() });
    let prompted = CaptionSettings { prompt: vec![5, 3], max_tokens: context - 3, ..greedy.clone() };
    vec![
        ("greedy", greedy.clone()),
        ("long", CaptionSettings { min_tokens: 6, ..greedy.clone() }),
        ("prompt", prompted.clone()),
        ("sample", sampled(plain, 1)),
        ("top-k", sampled(SampleSettings { top_k: 30, temperature: 1.5, ..plain }, 3)),
        ("top-p", sampled(SampleSettings { top_p: 0.9, temperature: 1.2, ..plain }, 10)),
        (
            "penalty",
            sampled(SampleSettings { repetition_penalty: 1.4, top_k: 40, top_p: 0.95, temperature: 1.3 }, 2),
        ),
        ("beam", CaptionSettings { strategy: beam(3), candidates: 2, ..prompted }),
        ("many beams", CaptionSettings { strategy: beam(6), ..greedy }),
    ]
}

/// Captions with images added one, two and three at a time, so that slots are resized and refilled; slots are halved after the
/// given steps.
fn captions(
    model: &ModelFolder,
    options: &SessionOptions,
    settings: &CaptionSettings,
    pixels: &[u8],
    halve_after: &[usize],
) -> Vec<Generated> {
    let mut captioner = Captioner::load(model, options, settings.clone()).expect("captioner");
    let images: Vec<&[u8]> = pixels.chunks_exact(captioner.image_bytes()).collect();
    let mut waiting: Vec<u64> = (0..images.len() as u64).collect();
    let (mut done, mut steps) = (Vec::new(), 0);
    while !waiting.is_empty() || captioner.active() > 0 {
        let count = (1 + steps % 3).min(captioner.free_slots()).min(waiting.len());
        let now: Vec<u64> = waiting.drain(..count).collect();
        let admissions: Vec<Admission> =
            now.iter().map(|t| Admission { ticket: *t, seed: image_seed(7, &t.to_string()) }).collect();
        let bytes: Vec<u8> = now.iter().flat_map(|t| images[*t as usize]).copied().collect();
        captioner.admit(&admissions, &bytes).expect("admit");
        done.extend(captioner.step().expect("step"));
        steps += 1;
        if halve_after.contains(&steps) {
            waiting.extend(captioner.halve_slots().expect("more than one slot"));
        }
    }
    done.sort_by_key(|generated| generated.ticket);
    done
}

fn check(name: &str, model: &ModelFolder, pixels: &[u8]) {
    for (strategy, settings) in strategies(model) {
        let host = captions(model, &HOST, &settings, pixels, &[]);
        for halve_after in [&[][..], &[2, 5]] {
            let device = captions(model, &DEVICE, &settings, pixels, halve_after);
            assert_eq!(host.len(), device.len(), "{name}, {strategy}");
            for (a, b) in host.iter().zip(&device) {
                let ids = |g: &Generated| g.candidates.iter().map(|c| c.ids.clone()).collect::<Vec<_>>();
                assert_eq!(ids(a), ids(b), "{name}, {strategy}, image {}, {halve_after:?}", a.ticket);
                assert_eq!(a.image_features, b.image_features, "{name}, {strategy}");
                for (a, b) in a.candidates.iter().zip(&b.candidates) {
                    assert!((a.logprob - b.logprob).abs() < 1e-3, "{name}, {strategy}: {a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn captions_of_goldens_equal_the_hosts() {
    for name in GOLDENS {
        let (_dir, model) = exported(&case(name));
        let golden = Weights::read(&case(name).join("golden.safetensors"));
        check(name, &model, golden.u8("images"));
    }
}

/// A GPU decodes fp16 alone.
#[test]
fn captions_of_blips_equal_the_hosts() {
    for name in ["tied", "untied"] {
        let checkpoint = case("../blip").join(name);
        let golden = Weights::read(&checkpoint.join("golden.safetensors"));
        for precision in [Precision::Fp32, Precision::Fp16] {
            let (_dir, model) = exported_in(&checkpoint, precision);
            check(&format!("{name} {precision}"), &model, golden.u8("images"));
        }
    }
}

/// Images of a square on a background, `[count, size, size, 3]`.
fn images_of_squares(count: usize, size: usize) -> Vec<u8> {
    let mut state = 11_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut pixels = Vec::new();
    for _ in 0..count {
        let background = [0; 3].map(|_: u8| (random() % 256) as u8);
        let mut picture = background.repeat(size * size);
        let (colour, side) = ([0; 3].map(|_: u8| (random() % 256) as u8), size / 4 + random() % (size / 4));
        let [top, left] = [0; 2].map(|_: usize| random() % (size - side));
        for y in top..top + side {
            for x in left..left + side {
                picture[3 * (y * size + x)..][..3].copy_from_slice(&colour);
            }
        }
        pixels.extend(picture);
    }
    pixels
}

#[test]
fn captions_of_the_bundled_model_equal_the_hosts() {
    let (_dir, model) = exported(&bundled());
    check("bundled", &model, &images_of_squares(7, model.spec.image_size as usize));
}

/// More images than the encoder takes per call.
#[test]
fn large_admissions_are_encoded_in_parts() {
    const IMAGES: usize = 19;
    let (_dir, model) = exported(&bundled());
    let pixels = images_of_squares(IMAGES, model.spec.image_size as usize);
    let ids = |options: &SessionOptions| {
        let mut captioner =
            Captioner::load(&model, options, CaptionSettings::greedy(20, 1, IMAGES)).expect("captioner");
        let images: Vec<Admission> = (0..IMAGES as u64).map(|ticket| Admission { ticket, seed: 0 }).collect();
        captioner.admit(&images, &pixels).expect("admit");
        let mut done = Vec::new();
        while captioner.active() > 0 {
            done.extend(captioner.step().expect("step"));
        }
        done.sort_by_key(|generated| generated.ticket);
        done.into_iter()
            .map(|generated| (generated.candidates[0].ids.clone(), generated.image_features))
            .collect::<Vec<_>>()
    };
    assert!(IMAGES > 2 * DEVICE.execution.encode_batch(&model));
    assert_eq!(ids(&DEVICE), ids(&HOST));
}

/// `verify` reads logits, keys and values through device memory too.
#[test]
fn goldens_verify() {
    for name in GOLDENS {
        let (_dir, model) = exported(&case(name));
        let checks = verify(&model, &case(name).join("golden.safetensors"), &DEVICE).expect("verify");
        assert!(checks.iter().all(|c| c.status != CheckStatus::Fail), "{name}: {checks:#?}");
        assert!(
            checks.iter().any(|c| c.tensor == "beam" && c.status == CheckStatus::Pass),
            "{name}: {checks:#?}"
        );
    }
}

/// Half precision, as on a GPU; rounding differs between the paths, so some tokens do too.
#[test]
fn fp16_captions_mostly_equal_the_hosts() {
    load_library().expect("ONNX Runtime");
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case("square"), &dir.path().join("model"), Precision::Fp16).expect("export");
    let golden = Weights::read(&case("square").join("golden.safetensors"));
    let (_, settings) = strategies(&model).pop().expect("beams");
    let device = captions(&model, &DEVICE, &settings, golden.u8("images"), &[2]);
    let host = captions(&model, &HOST, &settings, golden.u8("images"), &[]);
    let equal = host.iter().zip(&device).filter(|(a, b)| a.candidates[0].ids == b.candidates[0].ids).count();
    println!("{equal} of {} captions equal", host.len());
    assert!(host.len() == device.len() && 2 * equal > host.len());
}

/// Captions in half precision differ where tokens tie, but logits must be equal.
#[test]
fn fp16_logits_equal_the_hosts() {
    load_library().expect("ONNX Runtime");
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case("square"), &dir.path().join("model"), Precision::Fp16).expect("export");
    let golden = Weights::read(&case("square").join("golden.safetensors"));
    let images = golden.u8("images");
    let logits = |options: &SessionOptions| -> Vec<Vec<u32>> {
        let mut encoder = ImageEncoder::load(&model, options).expect("encoder");
        let count = images.len() / encoder.image_bytes();
        let encoded = encoder.encode(images).expect("encode");
        let mut decoder = Decoder::load(&model, options, 6, 1).expect("decoder");
        // In another order than the images, and in fewer slots at first.
        decoder.resize(count - 1, &[]).expect("slots");
        (1..count).for_each(|i| decoder.load_image(i - 1, &encoded, i).expect("an image"));
        decoder.resize(count, &(0..count - 1).collect::<Vec<_>>()).expect("another slot");
        decoder.load_image(count - 1, &encoded, 0).expect("an image");
        let step = |position: usize| {
            let updates: Vec<_> = (0..count)
                .map(|row| Some(RowUpdate { id: (7 * row + position + 1) as i64, position }))
                .collect();
            decoder.step(&updates).expect("step").iter().map(|v| v.to_bits()).collect()
        };
        (0..6).map(step).collect()
    };
    let (host, device) = (logits(&HOST), logits(&DEVICE));
    assert!(host[0] != host[5] && host[0].len() > 100);
    assert_eq!(host, device);
}
