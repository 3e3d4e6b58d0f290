//! SigLIP of both layouts, and CLIPs with its parts (CLIPA, MetaCLIP's multilingual models, timm's ViTs), through export and `verify`.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::path::{Path, PathBuf};

use common::Weights;
use recaption_onnx::{
    ModelFolder, Precision,
    checkpoint::Checkpoint,
    export,
    model::{Architecture, SpecialIds, TextCleaning, TextRules},
    runtime::{ImageEncoder, SessionOptions, TextEncoder},
    tokenizer::Tokenizer,
    verify::{Check, CheckStatus, verify},
};
use serde_json::{Value, json};

const SIGLIPS: [&str; 4] = ["open-clip", "open-clip-2", "transformers", "transformers-2"];
const CLIPS: [&str; 8] = [
    "clipa",
    "worldwide",
    "timm-clip",
    "eva",
    "eva-2",
    "eva-2-enormous",
    "perception",
    "perception-gigantic",
];
const ONE_THREAD: SessionOptions = SessionOptions::on_cpu(1);

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/siglip").join(name)
}

/// A case, exported into a temporary folder.
fn exported(name: &str, precision: Precision) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case(name), &dir.path().join("model"), precision).expect("export");
    (dir, model)
}

fn verified(name: &str, precision: Precision) -> Vec<Check> {
    let (_dir, model) = exported(name, precision);
    let checks = verify(&model, &case(name).join("golden.safetensors"), &ONE_THREAD).expect("verify");
    for check in &checks {
        println!("{name} {precision}: {:?} {} {}", check.status, check.tensor, check.detail);
    }
    checks
}

fn failed(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().filter(|c| c.status != CheckStatus::Pass).map(|c| c.tensor).collect()
}

/// A copy of a case, to be changed.
fn copy_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    common::copy_of_files(&case(name))
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    change(&mut value);
    std::fs::write(path, value.to_string()).expect("written");
}

#[test]
fn every_tensor_agrees_with_the_reference() {
    let all = ["image_features", "text_features", "probability", "text_ids"];
    for name in SIGLIPS {
        let checks = verified(name, Precision::Fp32);
        assert_eq!(checks.iter().map(|c| c.tensor).collect::<Vec<_>>(), all, "{name}");
        assert!(failed(&checks).is_empty(), "{name}: {checks:#?}");
    }
    for name in CLIPS {
        let checks = verified(name, Precision::Fp32);
        assert!(failed(&checks).is_empty(), "{name}: {checks:#?}");
        let has_ids = checks.iter().any(|c| c.tensor == "text_ids");
        assert_eq!(has_ids, ["clipa", "worldwide"].contains(&name), "{name}");
    }
}

#[test]
fn half_and_8_bit_precision_keep_the_directions() {
    for precision in [Precision::Fp16, Precision::Int8] {
        for name in SIGLIPS.iter().chain(&CLIPS) {
            let checks = verified(name, precision);
            assert!(failed(&checks).is_empty(), "{name} {precision}: {checks:#?}");
        }
    }
}

#[test]
fn model_json_describes_texts_and_probability() {
    let (_dir, model) = exported("open-clip", Precision::Fp32);
    let spec = &model.spec;
    assert_eq!((spec.architecture, spec.format_version), (Architecture::Siglip, 2));
    assert_eq!(spec.special_ids, SpecialIds { pad: 1, start: 1, end: 1 });
    let rules = TextRules { cleaning: TextCleaning::Canonicalize, has_start: false, is_padded: true };
    assert_eq!(spec.text, Some(rules));
    let sigmoid = spec.sigmoid.expect("scale and bias");
    assert!(
        (sigmoid.scale - 1.5_f32.exp()).abs() < 1e-4 && (sigmoid.bias + 1.25).abs() < 1e-6,
        "{sigmoid:?}"
    );
    let again: Value =
        serde_json::from_slice(&std::fs::read(model.path("model.json")).expect("model.json")).expect("JSON");
    assert_eq!(again["text"], json!({"cleaning": "canonicalize", "has_start": false, "is_padded": true}));

    let (_dir, model) = exported("transformers-2", Precision::Fp32);
    let rules = TextRules { cleaning: TextCleaning::Lowercase, has_start: false, is_padded: true };
    assert_eq!((model.spec.text, model.spec.special_ids.pad), (Some(rules), 0));

    // A CLIP with text rules is not of version 1, whose readers would tokenise as CLIP does.
    let (_dir, model) = exported("clipa", Precision::Fp32);
    let spec = &model.spec;
    assert_eq!((spec.architecture, spec.format_version, spec.sigmoid), (Architecture::Clip, 2, None));
    assert_eq!(spec.special_ids, SpecialIds { pad: 0, start: 2, end: 0 });
    let (_dir, model) = exported("worldwide", Precision::Fp32);
    let rules = TextRules { cleaning: TextCleaning::Whitespace, has_start: true, is_padded: false };
    assert_eq!(model.spec.text, Some(rules));
}

/// Each change of the golden must fail its own tensor.
#[test]
fn wrong_values_fail_their_tensor() {
    let (_dir, model) = exported("open-clip", Precision::Fp32);
    let (_copy_dir, copy) = copy_of("open-clip");
    let path = copy.join("golden.safetensors");
    let original = Weights::read(&path);
    for tensor in ["image_features", "text_features", "probability"] {
        let mut golden = Weights::read(&path);
        let value = golden.f32(tensor)[3];
        golden.poke(tensor, 3, value + 2e-4);
        golden.write(&path);
        let checks = verify(&model, &path, &ONE_THREAD).expect("verify");
        assert_eq!(failed(&checks), [tensor]);
        original.write(&path);
    }
    edit(&copy.join("golden.json"), |json| json["texts"][0] = "Another photo".into());
    let checks = verify(&model, &path, &ONE_THREAD).expect("verify");
    assert_eq!(failed(&checks), ["text_ids"]);
}

/// Trap after trap of the formats: each must change what is computed, or be refused.
#[test]
fn options_of_the_configurations_matter() {
    let failures = |name: &str, change: &dyn Fn(&mut Value)| {
        let (dir, copy) = copy_of(name);
        let is_open_clip = copy.join(Checkpoint::CONFIG).exists();
        let path = copy.join(if is_open_clip { Checkpoint::CONFIG } else { "config.json" });
        edit(&path, |value| change(if is_open_clip { &mut value["model_cfg"] } else { value }));
        let model = export(&copy, &dir.path().join("model"), Precision::Fp32).expect("export");
        let checks = verify(&model, &case(name).join("golden.safetensors"), &ONE_THREAD).expect("verify");
        // Probabilities follow the features.
        failed(&checks).into_iter().filter(|tensor| *tensor != "probability").collect::<Vec<_>>()
    };
    let (text, image) = (["text_features"], ["image_features"]);
    assert!(failures("open-clip", &|_| {}).is_empty());
    assert_eq!(failures("open-clip", &|c| c["text_cfg"]["no_causal_mask"] = false.into()), text);
    assert_eq!(failures("open-clip", &|c| c["text_cfg"]["norm_kwargs"]["eps"] = 0.01.into()), text);
    assert_eq!(failures("open-clip", &|c| c["text_cfg"]["tokenizer_kwargs"] = json!({})), ["text_ids"]);
    assert_eq!(failures("open-clip-2", &|c| c["text_cfg"]["act_kwargs"] = Value::Null), text);
    let plain = |c: &mut Value| c["vision_cfg"]["timm_model_kwargs"]["act_layer"] = "gelu".into();
    assert_eq!(failures("open-clip-2", &plain), image);
    assert_eq!(failures("transformers", &|c| c["vision_config"]["hidden_act"] = "gelu".into()), image);
    assert_eq!(failures("transformers", &|c| c["text_config"]["layer_norm_eps"] = 0.01.into()), text);
    assert_eq!(failures("transformers-2", &|c| c["vision_config"]["layer_norm_eps"] = 0.01.into()), image);
    let normed_first = |c: &mut Value| c["vision_cfg"]["final_ln_after_pool"] = false.into();
    assert_eq!(failures("clipa", &normed_first), ["image_features"]);
    assert_eq!(failures("clipa", &|c| c["vision_cfg"]["pool_type"] = "tok".into()), ["image_features"]);
    assert_eq!(failures("timm-clip", &|c| c["text_cfg"]["no_causal_mask"] = false.into()), ["text_features"]);
}

#[test]
fn tokenizers_do_without_the_file_or_say_what_is_missing() {
    for (name, pad) in [("open-clip", 1), ("open-clip-2", 0), ("transformers", 1)] {
        let (dir, copy) = copy_of(name);
        std::fs::remove_file(copy.join("tokenizer.json")).expect("removed");
        std::fs::remove_file(copy.join("tokenizer_config.json")).expect("removed");
        let model = export(&copy, &dir.path().join("model"), Precision::Fp32).expect("export");
        let ids = model.spec.special_ids;
        assert_eq!((ids.pad, ids.end, model.has_tokenizer()), (pad, 1, false), "{name}");
        let error = Tokenizer::load(&model).expect_err("no tokenizer").to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
        std::fs::write(copy.join("spiece.model"), "x").expect("written");
        let error = export(&copy, &dir.path().join("other"), Precision::Fp32).expect_err("no tokenizer.json");
        assert!(error.to_string().contains("build_siglip_tokenizer.py"), "{error}");
    }
    // The file names another padding than SigLIP's.
    let (dir, copy) = copy_of("open-clip");
    edit(&copy.join("tokenizer_config.json"), |settings| settings["pad_token"] = json!({"content": "<pad>"}));
    let model = export(&copy, &dir.path().join("model"), Precision::Fp32).expect("export");
    assert_eq!(model.spec.special_ids.pad, 0);
    // BERT's tokenizer has no `</s>`.
    std::fs::copy(case("clipa").join("tokenizer.json"), copy.join("tokenizer.json")).expect("copied");
    let error = export(&copy, &dir.path().join("model"), Precision::Fp32).expect_err("another tokenizer");
    assert!(error.to_string().contains("`</s>`"), "{error}");
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let (dir, copy) = copy_of("transformers");
    let path = copy.join("model.safetensors");
    let original = Weights::read(&path);
    let changed = |change: &dyn Fn(&mut Weights)| {
        let mut weights = Weights(original.0.clone());
        change(&mut weights);
        weights.write(&path);
        export(&copy, &dir.path().join("model"), Precision::Fp32).expect_err("must fail").to_string()
    };
    let key = "vision_model.encoder.layers.0.self_attn.k_proj.weight";
    let error = changed(&|w| drop(w.0.remove(key)));
    assert!(error.contains("in_proj_weight") && error.contains("[48, 24]"), "{error}");
    let error = changed(&|w| {
        let bias = w.0["logit_bias"].clone();
        w.0.insert(key.into(), bias);
    });
    assert!(error.contains("cannot be joined"), "{error}");
    let error = changed(&|w| {
        let extra = w.0["logit_bias"].clone();
        w.0.insert("vision_model.embeddings.gate".into(), extra);
    });
    assert!(error.contains("vision_model.embeddings.gate"), "{error}");
    std::fs::remove_file(&path).expect("removed");
    let error = Checkpoint::open(&copy).expect_err("no weights").to_string();
    assert!(error.contains("model.safetensors") && error.contains("SigLIP"), "{error}");
    std::fs::write(copy.join("model.safetensors.index.json"), "{}").expect("written");
    let error = Checkpoint::open(&copy).expect_err("several files").to_string();
    assert!(error.contains("max_shard_size"), "{error}");
}

/// A text's embedding must not depend on the other texts of a batch, nor an image's on the other images.
#[test]
fn rows_do_not_depend_on_one_another() {
    let (_dir, model) = exported("open-clip-2", Precision::Fp32);
    let golden = Weights::read(&case("open-clip-2").join("golden.safetensors"));
    let width = model.spec.dimensions.embed_dim;
    let mut texts = TextEncoder::load(&model, &ONE_THREAD).expect("encoder");
    let rows: [&[i64]; 3] = [&[7, 8, 9, 1], &[1], &[12, 1]];
    let together = texts.encode(&rows).expect("encoded");
    let difference = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    for (row, features) in rows.iter().zip(together.chunks_exact(width)) {
        assert!(difference(&texts.encode(&[*row]).expect("encoded"), features) < 1e-6);
    }
    let mut images = ImageEncoder::load(&model, &ONE_THREAD).expect("encoder");
    let all = images.encode(golden.u8("images")).expect("encoded").features;
    let one = images.encode(&golden.u8("images")[..images.image_bytes()]).expect("encoded").features;
    assert!(difference(&one, &all[..width]) < 1e-6);
}
