//! ALBEFs of `tests/data/albef` through export, `verify`, and the scorer's parts: encoders, tokenizer, matcher.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::path::{Path, PathBuf};

use common::Weights;
use recaption_onnx::{
    ModelFolder, Precision, export,
    model::Architecture,
    runtime::{ImageEncoder, MatchStart, Matcher, SessionOptions, TextEncoder},
    tokenizer::Tokenizer,
    verify::{Check, CheckStatus, verify},
};
use safetensors::Dtype;
use serde_json::Value;

const CASES: [&str; 2] = ["pretraining", "retrieval"];
const WEIGHTS: &str = "albef.safetensors";

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/albef").join(name)
}

/// Exports a checkpoint into a temporary folder.
fn exported_from(checkpoint: &Path) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(checkpoint, &dir.path().join("model"), Precision::Fp32).expect("export");
    (dir, model)
}

fn exported(name: &str) -> (tempfile::TempDir, ModelFolder) {
    exported_from(&case(name))
}

fn export_error(checkpoint: &Path) -> String {
    let dir = tempfile::tempdir().expect("temporary folder");
    export(checkpoint, &dir.path().join("model"), Precision::Fp32).expect_err("an error").to_string()
}

fn verified(model: &ModelFolder, golden: &Path) -> Vec<Check> {
    verify(model, golden, &SessionOptions::on_cpu(1)).expect("verify")
}

fn with(checks: &[Check], status: CheckStatus) -> Vec<&'static str> {
    checks.iter().filter(|c| c.status == status).map(|c| c.tensor).collect()
}

/// A copy of a case's files, to be changed.
fn copy_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    common::copy_of_files(&case(name))
}

fn change_config(copy: &Path, change: &dyn Fn(&mut Value)) {
    let path = copy.join("config.json");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("config.json")).expect("JSON");
    change(&mut config);
    std::fs::write(path, config.to_string()).expect("written");
}

fn change_weights(copy: &Path, change: &dyn Fn(&mut Weights)) {
    let mut weights = Weights::read(&copy.join(WEIGHTS));
    change(&mut weights);
    weights.write(&copy.join(WEIGHTS));
}

#[test]
fn every_inference_tensor_agrees_with_torch() {
    for name in CASES {
        let (_dir, model) = exported(name);
        let path = case(name).join("golden.safetensors");
        let checks = verified(&model, &path);
        for check in &checks {
            println!("{name}: {:?} {} {}", check.status, check.tensor, check.detail);
        }
        let mut passed = vec!["image_features", "text_features", "itm_logits"];
        if name == "pretraining" {
            passed.push("mlm_logits");
        }
        assert_eq!(with(&checks, CheckStatus::Pass), passed, "{name}: {checks:#?}");
        assert!(with(&checks, CheckStatus::Fail).is_empty());
        for tensor in Weights::read(&path).0.keys() {
            assert_eq!(checks.iter().filter(|c| c.tensor == tensor).count(), 1, "{name}: {tensor}");
        }
    }
}

/// The golden of a training step: what an exported model does not compute is named, and nothing of it passes.
#[test]
fn training_tensors_are_unchecked_and_named() {
    let (dir, model) = exported("pretraining");
    let mut golden = Weights::read(&case("pretraining").join("golden.safetensors"));
    let numbers = (Dtype::F32, vec![1], 1.5_f32.to_le_bytes().to_vec());
    let more = ["loss_ita", "loss_mlm", "grad.temp", "grad.itm_head.weight", "negative_text", "surprise"];
    for name in more {
        golden.0.insert(name.into(), numbers.clone());
    }
    let path = dir.path().join("golden.safetensors");
    golden.write(&path);
    let checks = verified(&model, &path);
    let unchecked = with(&checks, CheckStatus::Unchecked);
    for name in more.iter().chain(&["masked_ids", "mlm_labels", "images", "ids", "attention_mask"]) {
        assert!(unchecked.contains(name), "{name}: {checks:#?}");
    }
    let detail = |name: &str| &checks.iter().find(|c| c.tensor == name).expect("a verdict").detail;
    assert!(detail("grad.temp").contains("training step") && detail("surprise").contains("not compared"));
    // What the golden lacks is named too.
    for name in ["mlm_logits", "masked_ids", "itm_logits"] {
        golden.0.remove(name);
    }
    golden.write(&path);
    let checks = verified(&model, &path);
    assert_eq!(with(&checks, CheckStatus::Pass), ["image_features", "text_features"]);
    assert!(with(&checks, CheckStatus::Unchecked).starts_with(&["itm_logits", "mlm_logits"]), "{checks:#?}");
}

#[test]
fn wrong_values_fail_their_tensor() {
    let (dir, model) = exported("pretraining");
    let path = dir.path().join("golden.safetensors");
    let failed = |tensor: &str, at: usize, difference: f32| {
        let mut golden = Weights::read(&case("pretraining").join("golden.safetensors"));
        let value = golden.f32(tensor)[at];
        golden.poke(tensor, at, value + difference);
        golden.write(&path);
        with(&verified(&model, &path), CheckStatus::Fail)
    };
    for (tensor, at, difference) in [
        ("image_features", 17, 3e-5),
        ("text_features", 63, -3e-5),
        ("itm_logits", 7, 2e-4),
        ("mlm_logits", 1234, 2e-4),
        ("mlm_logits", 0, f32::NAN),
    ] {
        assert_eq!(failed(tensor, at, difference), [tensor]);
        assert!(failed(tensor, at, 0.0).is_empty());
    }
}

/// One weight of every part, changed: each must be seen where it is used, and nowhere else.
#[test]
fn perturbed_weights_fail() {
    let (image, text) = ("image_features", "text_features");
    let (matching, words) = ("itm_logits", "mlm_logits");
    let cases: [(&str, &[&str]); 15] = [
        ("visual_encoder.patch_embed.proj.weight", &[image, matching, words]),
        ("visual_encoder.pos_embed", &[image, matching, words]),
        ("visual_encoder.blocks.1.attn.qkv.weight", &[image, matching, words]),
        ("visual_encoder.norm.bias", &[image, matching, words]),
        ("vision_proj.weight", &[image]),
        ("text_encoder.bert.embeddings.token_type_embeddings.weight", &[text, matching, words]),
        ("text_encoder.bert.embeddings.position_embeddings.weight", &[text, matching, words]),
        ("text_encoder.bert.encoder.layer.0.attention.self.query.weight", &[text, matching, words]),
        ("text_proj.bias", &[text]),
        ("text_encoder.bert.encoder.layer.1.crossattention.self.key.weight", &[matching, words]),
        ("text_encoder.bert.encoder.layer.2.output.LayerNorm.weight", &[matching, words]),
        ("itm_head.bias", &[matching]),
        ("text_encoder.cls.predictions.transform.dense.weight", &[words]),
        ("text_encoder.cls.predictions.decoder.weight", &[words]),
        ("text_encoder.cls.predictions.decoder.bias", &[words]),
    ];
    for (tensor, want) in cases {
        let (_dir, copy) = copy_of("pretraining");
        change_weights(&copy, &|weights| {
            let value = weights.f32(tensor)[0];
            weights.poke(tensor, 0, value + 0.5);
        });
        let (_model_dir, model) = exported_from(&copy);
        let failed = with(&verified(&model, &copy.join("golden.safetensors")), CheckStatus::Fail);
        assert_eq!(failed, want, "{tensor}");
    }
}

/// Options that no tensor's shape shows.
#[test]
fn options_of_the_configuration_matter() {
    let failed = |path: &str, value: Value| {
        let (_dir, copy) = copy_of("pretraining");
        change_config(&copy, &|config| *config.pointer_mut(path).expect("a key") = value.clone());
        let (_model_dir, model) = exported_from(&copy);
        with(&verified(&model, &copy.join("golden.safetensors")), CheckStatus::Fail)
    };
    assert!(failed("/temp", 0.05.into()).is_empty());
    assert_eq!(failed("/vision_norm_eps", 1e-6.into()), ["image_features", "itm_logits", "mlm_logits"]);
    assert_eq!(failed("/vision_heads", 4.into()), ["image_features", "itm_logits", "mlm_logits"]);
    assert_eq!(failed("/mean/1", 0.4.into()), ["image_features", "itm_logits", "mlm_logits"]);
    assert_eq!(failed("/bert/layer_norm_eps", 1e-12.into()), ["text_features", "itm_logits", "mlm_logits"]);
    assert_eq!(failed("/bert/num_attention_heads", 3.into()), ["text_features", "itm_logits", "mlm_logits"]);
}

#[test]
fn model_json_describes_a_scorer() {
    let (_dir, model) = exported("pretraining");
    let spec = &model.spec;
    assert_eq!((spec.architecture, spec.format_version), (Architecture::Albef, 2));
    let fusion = spec.dimensions.fusion.expect("sizes of the fusion");
    assert_eq!((fusion.image_tokens, fusion.image_width, fusion.text_width), (10, 20, 24));
    assert_eq!((fusion.enc_id, spec.special_ids.start, spec.special_ids.end), (4, 4, 5));
    assert_eq!((spec.dimensions.embed_dim, spec.dimensions.context_length), (16, 40));
    assert_eq!(fusion.max_text_tokens, Some(25));
    assert!(model.require_scores().is_ok() && model.decoder().is_err());
    let files: Vec<&str> = spec.files.iter().map(|f| f.name.as_str()).collect();
    assert!(files.contains(&"mlm.onnx") && files.contains(&"fusion.onnx"), "{files:?}");
    // Neither momentum copies nor queues.
    let weights = Weights::read(&case("pretraining").join(WEIGHTS));
    let is_own = |name: &str| {
        let top = name.split('.').next().unwrap_or(name);
        ["visual_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head"].contains(&top)
    };
    let own = weights.0.iter().filter(|(name, tensor)| is_own(name) && tensor.0 == Dtype::F32);
    assert_eq!(spec.parameters, own.map(|(_, tensor)| tensor.2.len() as u64 / 4).sum::<u64>());
    let (_other_dir, other) = exported("retrieval");
    assert!(other.spec.files.iter().all(|f| f.name != "mlm.onnx"));
    assert_eq!(other.spec.dimensions.fusion.expect("sizes").max_text_tokens, Some(30));
    assert_eq!(other.spec.image_size, 40);
}

/// The authors' cleaning, no end token, and at most the tokens that the model was trained with.
#[test]
fn texts_have_the_authors_ids() {
    for (name, most) in [("pretraining", 25), ("retrieval", 30)] {
        let (_dir, model) = exported(name);
        let tokenizer = Tokenizer::load(&model).expect("a tokenizer");
        let cases = std::fs::read(case(name).join("texts.json")).expect("texts.json");
        let cases: Vec<Value> = serde_json::from_slice(&cases).expect("JSON");
        let mut longest = 0;
        for case in &cases {
            let text = case["text"].as_str().expect("a text");
            let want: Vec<i64> =
                case["ids"].as_array().expect("ids").iter().filter_map(Value::as_i64).collect();
            let encoded = tokenizer.encode(text).expect("ids");
            assert_eq!(encoded.ids, want, "{name}: {text}");
            assert_eq!(encoded.truncated, text.starts_with("of of"), "{name}: {text}");
            longest = longest.max(want.len());
        }
        assert_eq!(longest, most);
    }
}

/// Many captions for one image: the image is encoded once, and a pair's logits depend on nothing else.
#[test]
fn matches_do_not_depend_on_the_batch() {
    for name in CASES {
        let (_dir, model) = exported(name);
        let golden = Weights::read(&case(name).join("golden.safetensors"));
        let (images, want) = (golden.u8("images"), golden.f32("itm_logits"));
        let (ids, length) = (golden.i64("ids"), golden.0["ids"].1[1]);
        let texts: Vec<&[i64]> = ids
            .chunks_exact(length)
            .map(|row| &row[..row.iter().position(|id| *id == 0).unwrap_or(length)])
            .collect();
        let options = SessionOptions::on_cpu(1);
        let mut encoder = ImageEncoder::load(&model, &options).expect("encoder");
        let each = images.len() / texts.len();
        for start in [MatchStart::Enc, MatchStart::Cls] {
            let mut matcher = Matcher::load(&model, &options, start).expect("matcher");
            for (at, image) in images.chunks_exact(each).enumerate() {
                let tokens = encoder.image_tokens(image).expect("tokens");
                let logits = matcher.logits(&tokens, &texts).expect("logits");
                assert_eq!(logits.len(), texts.len());
                for (got, want) in logits[at].iter().zip(&want[2 * at..]) {
                    assert!((got - want).abs() < 5e-5, "{name}: {at}: {got} {want}");
                }
            }
        }
        let mut text_encoder = TextEncoder::load(&model, &options).expect("text encoder");
        let alone = text_encoder.encode(&texts[1..2]).expect("features");
        let width = model.spec.dimensions.embed_dim;
        let want = &golden.f32("text_features")[width..2 * width];
        assert!(alone.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

/// The pre-training weights under a retrieval checkpoint's names, with the prefix of parallel training, in the only `.pth` file.
#[test]
fn weights_with_retrieval_names_give_the_same_scores() {
    let (_dir, copy) = copy_of("pretraining");
    change_weights(&copy, &|weights| {
        let renamed = |name: &str| name.replace("text_encoder.bert.", "text_encoder.");
        let without_head = std::mem::take(&mut weights.0).into_iter();
        weights.0 = without_head
            .filter(|(name, _)| !name.contains(".cls."))
            .map(|(name, tensor)| (format!("module.{}", renamed(&name)), tensor))
            .collect();
    });
    std::fs::rename(copy.join(WEIGHTS), copy.join("mscoco.pth")).expect("renamed");
    let (_model_dir, model) = exported_from(&copy);
    let checks = verified(&model, &copy.join("golden.safetensors"));
    assert_eq!(with(&checks, CheckStatus::Pass), ["image_features", "text_features", "itm_logits"]);
    let words = checks.iter().find(|c| c.tensor == "mlm_logits").expect("a verdict");
    assert!(words.status == CheckStatus::Unchecked && words.detail.contains("retrieval checkpoint"));
    assert_eq!(model.spec.dimensions.fusion.expect("sizes").max_text_tokens, Some(30));
}

/// The retrieval case has a stored grid of 3 and an image's of 5. Other grids fail, so the interpolation is seen.
#[test]
fn position_embeddings_are_interpolated() {
    let (_dir, copy) = copy_of("retrieval");
    let (_model_dir, model) = exported_from(&copy);
    let golden = copy.join("golden.safetensors");
    assert!(with(&verified(&model, &golden), CheckStatus::Fail).is_empty());
    change_config(&copy, &|config| config["image_res"] = 24.into());
    let (_same_dir, same) = exported_from(&copy);
    assert_eq!(same.spec.dimensions.fusion.expect("sizes").image_tokens, 10);
    let error = verify(&same, &golden, &SessionOptions::on_cpu(1)).expect_err("another size").to_string();
    assert!(error.contains("`images`") && error.contains("[any, 24, 24, 3]"), "{error}");
    let (_other_dir, other) = copy_of("pretraining");
    change_weights(&other, &|weights| {
        let positions = weights.0.get_mut("visual_encoder.pos_embed").expect("positions");
        positions.1[1] -= 1;
        positions.2.truncate(9 * 20 * 4);
    });
    let error = export_error(&other);
    assert!(
        error.contains("`visual_encoder.pos_embed` has shape [1, 9, 20]") && error.contains("square"),
        "{error}"
    );
}

#[test]
fn sizes_that_contradict_the_weights_are_named() {
    let error = |path: &str, value: Value| {
        let (_dir, copy) = copy_of("pretraining");
        change_config(&copy, &|config| *config.pointer_mut(path).expect("a key") = value.clone());
        export_error(&copy)
    };
    for (path, value, want) in [
        ("/vision_depth", 3, "`visual_encoder.blocks.2.norm1.weight` [20] is missing"),
        ("/vision_depth", 1, "unknown tensor(s), first `visual_encoder.blocks.1."),
        ("/patch_size", 4, "`visual_encoder.patch_embed.proj.weight` has shape [20, 3, 8, 8]"),
        ("/embed_dim", 12, "`image_queue` has shape [16, 8]"),
        ("/queue_size", 16, "`image_queue` has shape [16, 8]"),
        ("/bert/vocab_size", 80, "word_embeddings.weight` has shape [90, 24]"),
        ("/bert/num_hidden_layers", 4, "`text_encoder.bert.encoder.layer.3.attention.self.query."),
        ("/bert/num_hidden_layers", 2, "first `text_encoder.bert.encoder.layer.2."),
        ("/bert/fusion_layer", 2, "first `text_encoder.bert.encoder.layer.1.crossattention."),
        ("/bert/fusion_layer", 0, "`text_encoder.bert.encoder.layer.0.crossattention."),
        ("/bert/intermediate_size", 48, "intermediate.dense"),
        ("/bert/max_position_embeddings", 32, "position_embeddings.weight` has shape [40, 24]"),
        ("/bert/type_vocab_size", 1, "token_type_embeddings.weight` has shape [2, 24]"),
        ("/bert/encoder_width", 24, "`bert.encoder_width` is 24, but `vision_width` is 20"),
        ("/special_ids/cls", 7, "the tokenizer beside it has"),
    ] {
        let message = error(path, value.into());
        assert!(message.contains(want), "{path}: {message}");
    }
    let (_dir, copy) = copy_of("pretraining");
    change_config(&copy, &|config| config["bert"]["hidden_size"] = 32.into());
    assert!(export_error(&copy).contains("has shape [90, 24]"));
}

#[test]
fn unknown_tensors_and_other_variants_are_named() {
    let changed = |change: &dyn Fn(&mut Weights)| {
        let (_dir, copy) = copy_of("pretraining");
        change_weights(&copy, change);
        export_error(&copy)
    };
    let extra = |name: &'static str| {
        changed(&move |weights: &mut Weights| {
            let tensor = weights.0["itm_head.bias"].clone();
            weights.0.insert(name.into(), tensor);
        })
    };
    for name in
        ["text_decoder.cls.predictions.bias", "text_encoder.bert.pooler.dense.bias", "distill_head.weight"]
    {
        let error = extra(name);
        assert!(error.contains(&format!("unknown tensor(s), first `{name}`")), "{error}");
    }
    let gone = changed(&|weights| drop(weights.0.remove("visual_encoder.blocks.1.attn.qkv.bias")));
    assert!(gone.contains("`visual_encoder.blocks.1.attn.qkv.bias` [60] is missing"), "{gone}");
    let none = changed(&|weights| weights.0.retain(|name, _| !name.contains("word_embeddings")));
    assert!(none.contains("not an ALBEF checkpoint"), "{none}");
}

/// A pickle that asks for a function is refused by its name, and not run.
#[test]
fn pickles_are_not_executed() {
    let (_dir, copy) = copy_of("retrieval");
    let hostile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/torch/hostile.bin");
    std::fs::copy(hostile, copy.join("retrieval.pth")).expect("copied");
    let error = export_error(&copy);
    assert!(error.contains("posix.system") && error.contains("only tensors are read"), "{error}");
    assert!(!Path::new("RECAPTION_HOSTILE_WAS_RUN").exists());
    let whole = std::fs::read(case("retrieval").join("retrieval.pth")).expect("the file");
    std::fs::write(copy.join("retrieval.pth"), &whole[..whole.len() / 2]).expect("written");
    assert!(export_error(&copy).contains("retrieval.pth"));
}

#[test]
fn goldens_that_do_not_fit_are_errors() {
    let (dir, model) = exported("pretraining");
    let path = dir.path().join("golden.safetensors");
    let error = || verify(&model, &path, &SessionOptions::on_cpu(1)).expect_err("an error").to_string();
    let whole = std::fs::read(case("pretraining").join("golden.safetensors")).expect("the golden");
    for length in [0, 7, 200, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).expect("written");
        assert!(error().contains("golden.safetensors"), "{length}");
    }
    let changed = |change: &dyn Fn(&mut Weights)| {
        let mut golden = Weights::read(&case("pretraining").join("golden.safetensors"));
        change(&mut golden);
        golden.write(&path);
        error()
    };
    for name in ["images", "ids", "masked_ids"] {
        let message = changed(&|golden| drop(golden.0.remove(name)));
        assert!(message.contains(&format!("no tensor `{name}`")), "{message}");
    }
    let set = |name: &'static str, at: usize, id: u8| {
        move |golden: &mut Weights| golden.0.get_mut(name).expect("the tensor").2[8 * at] = id
    };
    assert!(changed(&set("ids", 0, 9)).contains("does not begin with [CLS] (id 4)"));
    assert!(changed(&set("attention_mask", 1, 0)).contains("text 0 of `ids`"));
    assert!(changed(&set("masked_ids", 1, 200)).contains("holds id 200"));
    let message =
        changed(&|golden| drop(golden.0.insert("mlm_logits".into(), golden.0["itm_logits"].clone())));
    assert!(message.contains("`mlm_logits`") && message.contains("this model needs"), "{message}");
}
