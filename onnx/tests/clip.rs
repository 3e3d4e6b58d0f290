//! CLIP checkpoints: parity with open_clip, and errors of a model without a decoder.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use common::{Weights, clip_case};
use recaption_onnx::{
    ModelFolder, Precision,
    caption::{CaptionSettings, Captioner},
    export,
    model::Architecture,
    runtime::{ImageEncoder, SessionOptions, TextEncoder},
    verify::{CheckStatus, FEATURE_TOLERANCE, verify},
};

const ONE_THREAD: SessionOptions = SessionOptions::on_cpu(1);

fn exported(name: &str, precision: Precision) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&clip_case(name), &dir.path().join("model"), precision).expect("export");
    (dir, model)
}

fn check(name: &str, precision: Precision) {
    let (_dir, model) = exported(name, precision);
    let golden = clip_case(name).join("golden.safetensors");
    let checks = verify(&model, &golden, &ONE_THREAD).expect("verify");
    for check in &checks {
        println!("{name} {precision}: {:?} {} {}", check.status, check.tensor, check.detail);
    }
    let tensors: Vec<&str> = checks.iter().map(|c| c.tensor).collect();
    assert_eq!(tensors, ["image_features", "text_features"]);
    assert!(checks.iter().all(|c| c.status == CheckStatus::Pass), "{name}: {checks:#?}");
}

#[test]
fn fp32_agrees_with_open_clip() {
    ["plain", "quickgelu", "odd"].iter().for_each(|name| check(name, Precision::Fp32));
}

#[test]
fn fp16_keeps_the_directions() {
    ["plain", "quickgelu", "odd"].iter().for_each(|name| check(name, Precision::Fp16));
}

/// Id 0 is a word of CLIP's vocabulary, and open_clip reads a text no further than its first end token.
#[test]
fn texts_with_id_0_or_an_early_end_agree() {
    for name in ["plain", "quickgelu", "odd"] {
        let (_dir, model) = exported(name, Precision::Fp32);
        let golden = Weights::read(&clip_case(name).join("golden.safetensors"));
        let context = model.spec.dimensions.context_length;
        let (ids, want) = (golden.i64("edge_text"), golden.f32("edge_text_features"));
        let last =
            |row: &[i64]| row.iter().rposition(|id| *id == model.spec.special_ids.end).expect("an end");
        let texts: Vec<&[i64]> = ids.chunks_exact(context).map(|row| &row[..=last(row)]).collect();
        assert!(texts.iter().any(|text| text.contains(&0)));
        let got = TextEncoder::load(&model, &ONE_THREAD).expect("encoder").encode(&texts).expect("encode");
        let difference = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {difference:.2e}");
        assert!(difference <= FEATURE_TOLERANCE, "{name}: {difference}");
    }
}

#[test]
fn clip_has_two_graphs_and_does_not_caption() {
    let (_dir, model) = exported("plain", Precision::Fp32);
    assert_eq!((model.spec.architecture, model.spec.dimensions.decoder), (Architecture::Clip, None));
    let mut names: Vec<&str> = model.spec.files.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["image_encoder.onnx", "text_encoder.onnx", "weights.bin"]);
    let images = Weights::read(&clip_case("plain").join("golden.safetensors"));
    let encoded = ImageEncoder::load(&model, &ONE_THREAD).expect("encoder").encode(images.u8("images"));
    assert!(encoded.expect("encode").cross.is_empty());
    let settings = CaptionSettings::greedy(5, 1, 1);
    let error = Captioner::load(&model, &ONE_THREAD, settings).expect_err("no decoder").to_string();
    assert!(error.contains("is a CLIP") && error.contains("--scorer"), "{error}");
}
