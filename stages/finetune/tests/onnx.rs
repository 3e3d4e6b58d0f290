//! What burn computes is what ONNX Runtime computes from the export, for every pooler and wiring.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod common;

use std::path::Path;

use burn::tensor::Device;
use common::write_model;
use recaption_finetune::{
    batch::Batch,
    model::{Coca, Parameters},
    open_clip::OpenClip,
    random::Random,
    run::write_golden,
};
use recaption_onnx::{
    Precision,
    checkpoint::Init,
    export,
    runtime::SessionOptions,
    verify::{CheckStatus, verify},
};
use serde_json::{Value, json};

/// Weights are this many times as large as a beginner's: logits of some units, whose differences show.
const SCALE: f32 = 2.0;
const SIDE: usize = 16;
const VOCABULARY: i64 = 40;
const CONTEXT: usize = 12;

/// `pooler`: `none`, or the value of `recaption.pooler`.
fn config(pooler: &str, input: &str, activation: &str) -> Value {
    let mut config = json!({
        "model_cfg": {
            "embed_dim": 16,
            "quick_gelu": activation == "quickgelu",
            "vision_cfg": {"image_size": SIDE, "patch_size": 4, "width": 24, "head_width": 8, "layers": 2},
            "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2,
                "embed_cls": true},
            "multimodal_cfg": {"context_length": CONTEXT, "width": 16, "heads": 2, "layers": 2}
        },
        "preprocess_cfg": {},
        "recaption": {"multimodal_input": input}
    });
    let vision = &mut config["model_cfg"]["vision_cfg"];
    if pooler == "none" {
        // Without a pooler the decoder reads the tower's tokens, which must be as wide as it.
        vision["width"] = json!(16);
        return config;
    }
    vision["attentional_pool"] = json!(true);
    vision["attn_pooler_queries"] = json!(5);
    vision["attn_pooler_heads"] = json!(4);
    config["recaption"]["pooler"] = json!(pooler);
    config
}

/// Nothing is one, nothing is nought, and little is little.
fn grow(model: &mut OpenClip) {
    let mut random = Random::new(3, &[]);
    for (parameter, values) in model.list.iter().zip(&mut model.values) {
        for value in values {
            let n = random.normal() as f32;
            match parameter.init {
                Init::Normal(_) => *value *= SCALE,
                Init::Ones => *value += 0.2 * n,
                Init::Zeros => *value = 0.2 * n,
                Init::Constant(_) => {}
            }
        }
    }
}

/// Texts of one word, of several, and one that fills the context.
fn batch() -> Batch {
    let mut random = Random::new(4, &[]);
    let mut batch = Batch::default();
    for (i, words) in [1, 0, 4, CONTEXT - 2].into_iter().enumerate() {
        let pixels: Vec<u8> = (0..SIDE * SIDE * 3).map(|_| random.below(256) as u8).collect();
        let words = (0..words).map(|_| 1 + random.below(VOCABULARY as usize - 3) as i64);
        let ids = std::iter::once(VOCABULARY - 2).chain(words).chain([VOCABULARY - 1]).collect();
        batch.push(i.to_string(), &pixels, ids);
    }
    batch
}

fn agrees(dir: &Path, name: &str, config: &Value) {
    let checkpoint = dir.join(name);
    write_model(&checkpoint, config);
    let mut model = OpenClip::read(&checkpoint).expect("a checkpoint");
    grow(&mut model);
    model.write(&checkpoint).expect("weights can be written");

    let device = Device::flex();
    let trained = vec![false; model.list.len()];
    let parameters = Parameters::new(model.list, model.values, &trained, &device);
    let coca = Coca::new(model.config, parameters).expect("a CoCa");
    let golden = dir.join(format!("{name}.safetensors"));
    write_golden(&golden, &coca, &batch(), &device).expect("what burn computes");

    let exported =
        export(&checkpoint, &dir.join(format!("{name}-onnx")), Precision::Fp32).expect("an export");
    let checks = verify(&exported, &golden, &SessionOptions::on_cpu(1)).expect("a comparison");
    for check in &checks {
        println!("{name}: {:?} {}: {}", check.status, check.tensor, check.detail);
    }
    let passed: Vec<&str> =
        checks.iter().filter(|c| c.status == CheckStatus::Pass).map(|c| c.tensor).collect();
    assert_eq!(passed, ["image_features", "text_features", "logits"], "{name}: {checks:?}");
    let logits = largest(&golden, "logits");
    assert!(logits > 1.0, "{name}: logits of at most {logits} prove little");
}

/// The largest value of a tensor.
fn largest(golden: &Path, tensor: &str) -> f32 {
    let bytes = std::fs::read(golden).expect("a file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let data = file.tensor(tensor).expect("a tensor").data().to_vec();
    data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_pooler_and_wiring_is_exported_as_it_was_trained() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for pooler in ["none", "released", "parallel", "cascade"] {
        for input in ["unimodal", "embeddings"] {
            agrees(dir.path(), &format!("{pooler}-{input}"), &config(pooler, input, "gelu"));
        }
    }
}

#[test]
fn so_are_layer_scale_quick_gelu_and_towers_without_ln_pre() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut config = config("cascade", "unimodal", "quickgelu");
    for section in ["vision_cfg", "text_cfg", "multimodal_cfg"] {
        config["model_cfg"][section]["ls_init_value"] = json!(0.5);
    }
    config["model_cfg"]["vision_cfg"]["no_ln_pre"] = json!(true);
    agrees(dir.path(), "options", &config);
}
