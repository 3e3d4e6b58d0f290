//! BLIPs and ALBEFs in fp16 and int8 against what transformers and the authors' code computed in fp32.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::path::{Path, PathBuf};

use common::Weights;
use recaption_onnx::{
    Precision, export,
    runtime::SessionOptions,
    verify::{CheckStatus, verify},
};

const PRECISIONS: [Precision; 2] = [Precision::Fp16, Precision::Int8];
/// Cases, with the tensors that must have passed.
const CASES: [(&str, &[&str]); 7] = [
    ("blip/tied", CAPTIONS),
    ("blip/untied", CAPTIONS),
    ("blip/many-tokens", CAPTIONS),
    ("blip/torch", CAPTIONS),
    ("blip/retrieval", &["image_features", "text_features_cls", "itm_logits_enc", "itm_prob_cls"]),
    ("albef/pretraining", &["image_features", "text_features", "itm_logits", "mlm_logits"]),
    ("albef/retrieval", &["image_features", "text_features", "itm_logits"]),
];
const CAPTIONS: &[&str] = &[
    "vision_hidden",
    "logits",
    "text_logprob",
    "greedy",
    "greedy_logprob",
    "greedy_min",
    "beam",
    "beam_score",
    "prompt_greedy",
    "prompt_beam",
];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

/// A copy of a case's files, to be changed.
fn copy_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    common::copy_of_files(&case(name))
}

/// Exports a checkpoint and compares it with its golden: tensors that passed and that failed.
fn compared(checkpoint: &Path, precision: Precision) -> [Vec<&'static str>; 2] {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(checkpoint, &dir.path().join("model"), precision).expect("export");
    assert_eq!(model.spec.precision, precision);
    let golden = checkpoint.join("golden.safetensors");
    let checks = verify(&model, &golden, &SessionOptions::on_cpu(1)).expect("verify");
    for check in &checks {
        println!(
            "{} {precision}: {:?} {} {}",
            checkpoint.display(),
            check.status,
            check.tensor,
            check.detail
        );
    }
    [CheckStatus::Pass, CheckStatus::Fail]
        .map(|status| checks.iter().filter(|c| c.status == status).map(|c| c.tensor).collect())
}

#[test]
fn every_kind_agrees_in_every_precision() {
    for (name, tensors) in CASES {
        for precision in PRECISIONS {
            let [passed, failed] = compared(&case(name), precision);
            assert!(failed.is_empty(), "{name} {precision}: {failed:?}");
            let missing: Vec<&&str> = tensors.iter().filter(|tensor| !passed.contains(tensor)).collect();
            assert!(missing.is_empty(), "{name} {precision}: {missing:?} did not pass");
        }
    }
}

/// Eight wrong numbers of one weight of every part are more than the precision's rounding.
#[test]
fn wrong_weight_fails_in_every_precision() {
    let wrong: [(&str, &str, &str); 5] = [
        ("blip/tied", "vision_model.encoder.layers.1.mlp.fc2.bias", "vision_hidden"),
        ("blip/tied", "text_decoder.bert.encoder.layer.1.crossattention.self.value.bias", "logits"),
        ("blip/tied", "text_decoder.bert.embeddings.LayerNorm.weight", "logits"),
        ("blip/retrieval", "itm_head.bias", "itm_logits_cls"),
        ("albef/pretraining", "text_encoder.cls.predictions.decoder.bias", "mlm_logits"),
    ];
    for (name, tensor, seen) in wrong {
        let (_dir, copy) = copy_of(name);
        let path = ["model.safetensors", "albef.safetensors"].map(|file| copy.join(file));
        let path = path.iter().find(|path| path.exists()).expect("weights");
        let mut weights = Weights::read(path);
        for at in 0..weights.f32(tensor).len().min(8) {
            let value = weights.f32(tensor)[at];
            weights.poke(tensor, at, value + if at % 2 == 0 { 2.0 } else { -2.0 });
        }
        weights.write(path);
        for precision in PRECISIONS {
            let [_, failed] = compared(&copy, precision);
            assert!(failed.contains(&seen), "{tensor} in {precision}: only {failed:?} failed");
        }
    }
}
