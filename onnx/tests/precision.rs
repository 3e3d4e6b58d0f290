//! fp16 and int8 of models that have no golden from open_clip: trained weights, and more layers than the reference cases have.
//! Their fp32 export, which `goldens.rs` holds against open_clip, makes the golden.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::path::Path;

use common::{Weights, bundled, random::write_checkpoint};
use recaption_onnx::{
    ModelFolder, Precision, export,
    runtime::{Decoder, ImageEncoder, RowUpdate, SessionOptions, TextEncoder},
    verify::{CheckStatus, verify},
};
use safetensors::Dtype;
use serde_json::json;

const CPU: SessionOptions = SessionOptions::on_cpu(1);
const IMAGES: usize = 4;

/// A linear congruential generator, `0..below`.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Images of coloured squares over gradients, `[IMAGES, side, side, 3]`.
fn images(side: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut pixels = Vec::new();
    for _ in 0..IMAGES {
        let colours: Vec<usize> = (0..6).map(|_| numbers.below(256)).collect();
        let (left, top) = (numbers.below(side / 2), numbers.below(side / 2));
        for y in 0..side {
            for x in 0..side {
                let inside = (left..left + side / 2).contains(&x) && (top..top + side / 2).contains(&y);
                let shade =
                    |c: usize| if inside { colours[c] } else { (colours[3 + c] + 100 * (x + y) / side) / 2 };
                pixels.extend((0..3).map(|c| shade(c) as u8));
            }
        }
    }
    pixels
}

/// What the model computes, in the form that `verify` reads.
fn write_golden(path: &Path, model: &ModelFolder) {
    let d = model.spec.dimensions;
    let special = model.spec.special_ids;
    let mut numbers = Numbers(5);
    let pixels = images(model.spec.image_size as usize, &mut numbers);
    let length = d.context_length.min(20);
    let texts: Vec<Vec<i64>> = (0..IMAGES)
        .map(|i| {
            let words = (0..length - 2 - i).map(|_| 1 + numbers.below(d.vocab_size - 3) as i64);
            std::iter::once(special.start).chain(words).chain([special.end]).collect()
        })
        .collect();
    let encoded = ImageEncoder::load(model, &CPU).expect("encoder").encode(&pixels).expect("encode");
    let slices: Vec<&[i64]> = texts.iter().map(Vec::as_slice).collect();
    let text_features = TextEncoder::load(model, &CPU).expect("encoder").encode(&slices).expect("encode");
    let mut decoder = Decoder::load(model, &CPU, length - 1, 1).expect("decoder");
    decoder.resize(IMAGES, &[]).expect("slots");
    (0..IMAGES).for_each(|i| decoder.load_image(i, &encoded, i).expect("an image"));
    let mut logits = vec![0.0; IMAGES * (length - 1) * d.vocab_size];
    for position in 0..length - 1 {
        let updates: Vec<_> =
            texts.iter().map(|t| t.get(position).map(|id| RowUpdate { id: *id, position })).collect();
        let got = decoder.step(&updates).expect("step");
        for (row, got) in got.chunks_exact(d.vocab_size).enumerate() {
            logits[(row * (length - 1) + position) * d.vocab_size..][..d.vocab_size].copy_from_slice(got);
        }
    }
    let ids: Vec<u8> = texts
        .iter()
        .flat_map(|t| t.iter().chain(std::iter::repeat(&special.pad)).take(length))
        .flat_map(|id| id.to_le_bytes())
        .collect();
    let floats = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let side = model.spec.image_size as usize;
    let tensors = [
        ("images", Dtype::U8, vec![IMAGES, side, side, 3], pixels),
        ("text", Dtype::I64, vec![IMAGES, length], ids),
        ("image_features", Dtype::F32, vec![IMAGES, d.embed_dim], floats(&encoded.features)),
        ("text_features", Dtype::F32, vec![IMAGES, d.embed_dim], floats(&text_features)),
        ("logits", Dtype::F32, vec![IMAGES, length - 1, d.vocab_size], floats(&logits)),
    ];
    let named =
        tensors.into_iter().map(|(name, dtype, shape, bytes)| (name.to_owned(), (dtype, shape, bytes)));
    Weights(named.collect()).write(path);
    let settings = json!({"sot": special.start, "eos": special.end, "pad": special.pad});
    std::fs::write(path.with_extension("json"), settings.to_string()).expect("written");
}

fn check(checkpoint: &Path) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let golden = dir.path().join("golden.safetensors");
    write_golden(&golden, &export(checkpoint, &dir.path().join("fp32"), Precision::Fp32).expect("export"));
    for precision in [Precision::Fp16, Precision::Int8] {
        let model = export(checkpoint, &dir.path().join("model"), precision).expect("export");
        let checks = verify(&model, &golden, &CPU).expect("verify");
        for check in &checks {
            println!("{precision}: {:?} {} {}", check.status, check.tensor, check.detail);
        }
        let passed = checks.iter().filter(|c| c.status == CheckStatus::Pass).map(|c| c.tensor);
        assert_eq!(passed.collect::<Vec<_>>(), ["image_features", "text_features", "logits"], "{checks:#?}");
    }
}

#[test]
fn trained_weights_stay_within_the_bounds() {
    check(&bundled());
}

#[test]
fn twelve_layers_stay_within_the_bounds() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let config = json!({
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 192, "head_width": 64, "layers": 12,
                "attentional_pool": true, "attn_pooler_queries": 33, "attn_pooler_heads": 2},
            "text_cfg": {"context_length": 24, "vocab_size": 3000, "width": 128, "heads": 2, "layers": 12, "embed_cls": true},
            "multimodal_cfg": {"context_length": 24, "width": 128, "heads": 2, "layers": 12}
        },
        "preprocess_cfg": {}
    });
    write_checkpoint(dir.path(), &config, 9);
    check(dir.path());
}
