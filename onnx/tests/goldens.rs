//! Every reference case through export and `verify`, in fp32 and fp16.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use common::{Weights, case, copy_of};
use recaption_onnx::{
    Precision, export,
    runtime::{ImageEncoder, SessionOptions, TextEncoder},
    verify::{CheckStatus, verify},
};
use safetensors::Dtype;

fn check(name: &str, precision: Precision) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case(name), &dir.path().join("model"), precision).expect("export");
    let checks =
        verify(&model, &case(name).join("golden.safetensors"), &SessionOptions::on_cpu(1)).expect("verify");
    for check in &checks {
        println!("{name} {precision}: {:?} {} {}", check.status, check.tensor, check.detail);
    }
    let passed: Vec<&str> =
        checks.iter().filter(|c| c.status == CheckStatus::Pass).map(|c| c.tensor).collect();
    assert!(checks.iter().all(|c| c.status != CheckStatus::Fail), "{name}: {checks:#?}");
    let must = ["image_features", "text_features", "logits", "greedy", "beam", "beam_score"];
    assert!(must.iter().all(|tensor| passed.contains(tensor)), "{name}: {checks:#?}");
    let left: Vec<&str> =
        checks.iter().filter(|c| c.status == CheckStatus::Unchecked).map(|c| c.tensor).collect();
    assert_eq!(left, ["image_tokens"], "{name}: {checks:#?}");
}

/// 8 bits round each number of a product by up to 1/254 of its row's largest; random weights have no large ones.
fn check_int8(name: &str) {
    const LEAST: f64 = 0.995;
    check(name, Precision::Int8);
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case(name), &dir.path().join("model"), Precision::Int8).expect("export");
    let golden = Weights::read(&case(name).join("golden.safetensors"));
    let (width, options) = (model.spec.dimensions.embed_dim, SessionOptions::on_cpu(1));
    let images = ImageEncoder::load(&model, &options).expect("encoder").encode(golden.u8("images"));
    let ids = texts(&golden, "text", model.spec.special_ids.end);
    let ids: Vec<&[i64]> = ids.iter().map(Vec::as_slice).collect();
    let texts = TextEncoder::load(&model, &options).expect("encoder").encode(&ids).expect("encode");
    for (tensor, got) in [("image_features", images.expect("encode").features), ("text_features", texts)] {
        let want = golden.f32(tensor);
        assert_ne!(got, want, "{name}: {tensor} was not computed in 8 bits");
        let cosine = smallest_cosine(&got, &want, width);
        println!("{name}: {tensor} cosine {cosine:.6}");
        assert!(cosine > LEAST, "{name}: {tensor} cosine {cosine}");
    }
}

macro_rules! goldens {
    ($($test:ident: $name:literal,)*) => { $(
        mod $test {
            #[test]
            fn fp32_agrees_with_open_clip() { super::check($name, super::Precision::Fp32); }
            #[test]
            fn fp16_keeps_the_directions() { super::check($name, super::Precision::Fp16); }
            #[test]
            fn int8_stays_near() { super::check_int8($name); }
        }
    )* };
}

goldens! {
    legacy_1: "legacy-1",
    legacy_2: "legacy-2",
    square: "square",
    quickgelu: "quickgelu",
    layerscale: "layerscale",
    nopool: "nopool",
    odd: "odd",
}

/// Smallest cosine of two sets of feature vectors `[N, width]`.
fn smallest_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    assert_eq!(a.len(), b.len());
    a.chunks_exact(width)
        .zip(b.chunks_exact(width))
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt())
        .fold(f64::INFINITY, f64::min)
}

/// Ids of texts `[N, T]` up to and including the end token.
fn texts(golden: &Weights, tensor: &str, end: i64) -> Vec<Vec<i64>> {
    let length = golden.0[tensor].1[1];
    let cut = |row: &[i64]| row[..=row.iter().position(|id| *id == end).expect("an end token")].to_vec();
    golden.i64(tensor).chunks_exact(length).map(cut).collect()
}

/// Checkpoints are published in half precision too. Rounding the weights moves the features; 8 bits of mantissa move
/// them about 8 times further than 11.
#[test]
fn half_precision_weights_are_read() {
    for (dtype, least) in [(Dtype::F16, 0.999_99), (Dtype::BF16, 0.999)] {
        for name in ["square", "legacy-1", "nopool"] {
            let (dir, checkpoint) = copy_of(&case(name));
            let file = checkpoint.join("open_clip_model.safetensors");
            let mut weights = Weights::read(&file);
            weights.convert(dtype);
            weights.write(&file);
            let model = export(&checkpoint, &dir.path().join("model"), Precision::Fp32).expect("export");
            let golden = Weights::read(&case(name).join("golden.safetensors"));
            let options = SessionOptions::on_cpu(1);
            let (width, end) = (model.spec.dimensions.embed_dim, model.spec.special_ids.end);
            let images = ImageEncoder::load(&model, &options).expect("encoder").encode(golden.u8("images"));
            let images = images.expect("encode").features;
            let ids = texts(&golden, "text", end);
            let ids: Vec<&[i64]> = ids.iter().map(Vec::as_slice).collect();
            let texts = TextEncoder::load(&model, &options).expect("encoder").encode(&ids).expect("encode");
            for (tensor, got) in [("image_features", images), ("text_features", texts)] {
                let cosine = smallest_cosine(&got, &golden.f32(tensor), width);
                println!("{name} from {dtype:?}: {tensor} cosine {cosine:.7}");
                assert!(cosine > least, "{name} from {dtype:?}: {tensor} cosine {cosine}");
            }
        }
    }
}

/// Id 0 is padding and, in CLIP's vocabulary, a word: it is masked wherever it is. A text may also have no words.
#[test]
fn texts_with_padding_inside_or_without_words() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case("odd"), &dir.path().join("model"), Precision::Fp32).expect("export");
    let golden = Weights::read(&case("odd").join("golden.safetensors"));
    let ids = texts(&golden, "edge_text", model.spec.special_ids.end);
    assert!(ids.iter().any(|text| text.contains(&0)) && ids.iter().any(|text| text.len() == 2));
    let ids: Vec<&[i64]> = ids.iter().map(Vec::as_slice).collect();
    let mut encoder = TextEncoder::load(&model, &SessionOptions::on_cpu(1)).expect("encoder");
    let got = encoder.encode(&ids).expect("encode");
    let want = golden.f32("edge_text_features");
    let difference = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("max abs difference {difference:.2e}");
    assert!(got.len() == want.len() && difference < 1e-5, "{difference}");
}
