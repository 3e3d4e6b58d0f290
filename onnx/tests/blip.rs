//! BLIP captioners of `tests/data/blip` through export, `verify` and `CaptionModel`.

#![allow(clippy::expect_used, reason = "a test that cannot set up should say so and end")]

mod common;

use std::path::{Path, PathBuf};

use common::Weights;
use recaption_onnx::{
    CaptionModel, CaptionOptions, ModelFolder, Precision, export,
    model::Architecture,
    runtime::{ImageEncoder, MatchStart, Matcher, SessionOptions, TextEncoder},
    tokenizer::Tokenizer,
    verify::{Check, CheckStatus, verify},
};

const CASES: [&str; 4] = ["tied", "untied", "many-tokens", "torch"];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/blip").join(name)
}

/// A case, exported into a temporary folder.
fn exported(name: &str) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let model = export(&case(name), &dir.path().join("model"), Precision::Fp32).expect("export");
    (dir, model)
}

fn verified(model: &ModelFolder, name: &str) -> Vec<Check> {
    verify(model, &case(name).join("golden.safetensors"), &SessionOptions::on_cpu(1)).expect("verify")
}

fn failed(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().filter(|c| c.status == CheckStatus::Fail).map(|c| c.tensor).collect()
}

/// A copy of a case's files, to be changed.
fn copy_of(name: &str) -> (tempfile::TempDir, PathBuf) {
    common::copy_of_files(&case(name))
}

#[test]
fn every_tensor_agrees_with_transformers() {
    for name in CASES {
        let (_dir, model) = exported(name);
        let checks = verified(&model, name);
        for check in &checks {
            println!("{name}: {:?} {} {}", check.status, check.tensor, check.detail);
        }
        assert!(failed(&checks).is_empty(), "{name}: {checks:#?}");
        let with =
            |status| checks.iter().filter(|c| c.status == status).map(|c| c.tensor).collect::<Vec<_>>();
        assert_eq!(with(CheckStatus::Unchecked), ["attention_mask", "images", "raw_image", "text"], "{name}");
        let golden = Weights::read(&case(name).join("golden.safetensors"));
        let passed = with(CheckStatus::Pass);
        let inputs = with(CheckStatus::Unchecked);
        let missing: Vec<&String> = golden
            .0
            .keys()
            .filter(|tensor| !passed.contains(&tensor.as_str()) && !inputs.contains(&tensor.as_str()))
            .collect();
        assert!(missing.is_empty(), "{name}: no verdict on {missing:?}");
        for other in ["tokenizer_cases", "greedy_text", "beam_text", "prompt_greedy_text"] {
            assert!(passed.contains(&other), "{name}: {other}");
        }
    }
}

#[test]
fn model_json_describes_a_blip() {
    let (_dir, model) = exported("tied");
    let spec = &model.spec;
    assert_eq!((spec.architecture, spec.format_version), (Architecture::Blip, 2));
    let d = spec.dimensions.decoder.expect("a decoder");
    assert_eq!((spec.dimensions.embed_dim, d.image_tokens, d.text_layers, d.decoder_layers), (0, 10, 0, 2));
    // Heads of 10 are padded to 16.
    assert_eq!((d.decoder_heads, d.decoder_head_dim), (4, 16));
    let (most, few) = (model.caption_tokens(0), model.caption_tokens(2));
    assert_eq!((most.default, most.largest, few.default, few.largest), (19, 23, 19, 21));
    let text = std::fs::read_to_string(model.path("model.json")).expect("model.json");
    assert!(text.contains("\"architecture\": \"blip\"") && text.contains("\"normalisation\""), "{text}");
}

/// Each change of the golden must fail its own tensor, and no more than those that follow from it.
#[test]
fn wrong_values_fail_their_tensor() {
    let (_dir, model) = exported("untied");
    let (dir, copy) = copy_of("untied");
    let path = copy.join("golden.safetensors");
    let changed = |change: &dyn Fn(&mut Weights)| {
        let mut golden = Weights::read(&case("untied").join("golden.safetensors"));
        change(&mut golden);
        golden.write(&path);
        let checks = verify(&model, &path, &SessionOptions::on_cpu(1)).expect("verify");
        failed(&checks)
    };
    for tensor in
        ["pixel_values", "raw_pixel_values", "vision_hidden", "logits", "text_logprob", "greedy_logprob"]
    {
        let failed = changed(&|golden| {
            let value = golden.f32(tensor)[0];
            golden.poke(tensor, 0, value + 3e-4);
        });
        assert_eq!(failed, [tensor]);
    }
    for tensor in ["beam_score", "beams_all_score", "beams_all_448_score", "prompt_beam_score"] {
        let failed = changed(&|golden| {
            let value = golden.f32(tensor)[1];
            golden.poke(tensor, 1, value + 4e-5);
        });
        assert_eq!(failed, [tensor]);
    }
    let increment = |golden: &mut Weights, tensor: &str, at: usize| {
        let bytes = &mut golden.0.get_mut(tensor).expect("the tensor").2;
        bytes[at] = bytes[at].wrapping_add(1);
    };
    for tensor in
        ["greedy", "greedy_min", "beam", "beams_all", "beams_all_448", "prompt_greedy", "prompt_beam"]
    {
        // The last id of the first row.
        assert_eq!(changed(&|golden| increment(golden, tensor, 8 * 11)), [tensor]);
    }
    assert_eq!(changed(&|golden| increment(golden, "raw_squashed", 7)), ["raw_squashed"]);
    drop(dir);
}

/// Trap after trap of the format: each must change what is computed.
#[test]
fn options_of_the_configuration_matter() {
    let failures = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let (dir, copy) = copy_of(name);
        let path = copy.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("config.json")).expect("JSON");
        change(&mut config);
        std::fs::write(&path, config.to_string()).expect("written");
        let model = export(&copy, &dir.path().join("model"), Precision::Fp32).expect("export");
        failed(&verified(&model, name))
    };
    assert!(failures("tied", &|_| {}).is_empty());
    let vision = failures("tied", &|c| c["vision_config"]["layer_norm_eps"] = 1e-5.into());
    assert!(vision.contains(&"vision_hidden") && vision.contains(&"logits"), "{vision:?}");
    let text = failures("tied", &|c| c["text_config"]["layer_norm_eps"] = 1e-12.into());
    assert!(text.contains(&"logits") && !text.contains(&"vision_hidden"), "{text:?}");
    let heads = failures("untied", &|c| c["text_config"]["num_attention_heads"] = 4.into());
    assert!(heads.contains(&"logits") && !heads.contains(&"vision_hidden"), "{heads:?}");
    // Not the end token, and not the width of the image tokens.
    let ignored = failures("tied", &|c| {
        c["text_config"]["eos_token_id"] = 9.into();
        c["text_config"]["encoder_hidden_size"] = 7.into();
    });
    assert!(ignored.is_empty(), "{ignored:?}");
}

#[test]
fn output_embeddings_of_their_own_are_used_and_equal_ones_are_stored_once() {
    let size = |model: &ModelFolder| {
        model.spec.files.iter().find(|f| f.name == "weights.bin").expect("weights").size
    };
    let (dir, copy) = copy_of("untied");
    let path = copy.join("model.safetensors");
    let mut weights = Weights::read(&path);
    let words = weights.0["text_decoder.bert.embeddings.word_embeddings.weight"].clone();
    weights.0.insert("text_decoder.cls.predictions.decoder.weight".into(), words);
    weights.write(&path);
    let tied = export(&copy, &dir.path().join("tied"), Precision::Fp32).expect("export");
    let failures = failed(&verified(&tied, "untied"));
    assert!(failures.contains(&"logits") && !failures.contains(&"vision_hidden"), "{failures:?}");
    let (_own_dir, own) = exported("untied");
    let d = own.spec.dimensions;
    let embeddings = (d.vocab_size * 32 * 4) as u64;
    // But for the alignment of what follows.
    assert!((embeddings..embeddings + 64).contains(&(size(&own) - size(&tied))));
}

#[test]
fn captions_are_transformers_texts() {
    let (_dir, model) = exported("tied");
    let golden = Weights::read(&case("tied").join("golden.safetensors"));
    let settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(case("tied").join("golden.json")).expect("golden.json"))
            .expect("JSON");
    let options = CaptionOptions { max_tokens: Some(11), min_tokens: 0, ..CaptionOptions::default() };
    let mut captioner = CaptionModel::open_with(&model.dir, &options).expect("a captioner");
    let side = model.spec.image_size;
    let images = golden.u8("images").chunks_exact((side * side * 3) as usize);
    let images: Vec<_> = images
        .map(|pixels| image::RgbImage::from_raw(side, side, pixels.to_vec()).expect("an image"))
        .collect();
    let captions = captioner.caption_batch(images.iter()).expect("captions");
    let tidy = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (caption, want) in captions.iter().zip(settings["greedy_text"].as_array().expect("texts")) {
        assert_eq!(caption.text, tidy(want.as_str().expect("a text")));
        assert!(caption.tokens <= 11 && caption.similarity.is_none());
    }
    // Without a limit of its own a caption has transformers' maximal length.
    let plain = CaptionModel::open(&model.dir).expect("a captioner").caption(&images[0]).expect("a caption");
    assert!(plain.tokens <= 19);
    let long = CaptionOptions { max_tokens: Some(24), ..CaptionOptions::default() };
    let error = CaptionModel::open_with(&model.dir, &long).expect_err("too long").to_string();
    assert!(error.contains("at most 23 tokens"), "{error}");
}

#[test]
fn a_captioner_has_no_similarity() {
    let (_dir, model) = exported("torch");
    let error =
        TextEncoder::load(&model, &SessionOptions::on_cpu(1)).expect_err("no text encoder").to_string();
    assert!(error.contains("BLIP captioner") && error.contains("--scorer MODEL"), "{error}");
    let options = CaptionOptions { similarity: true, ..CaptionOptions::default() };
    assert_eq!(CaptionModel::open_with(&model.dir, &options).expect_err("no similarity").to_string(), error);
}

#[test]
fn texts_are_not_cleaned_and_special_tokens_are_read_as_transformers_does() {
    let (_dir, model) = exported("tied");
    let tokenizer = Tokenizer::load(&model).expect("a tokenizer");
    let special = model.spec.special_ids;
    let ids = tokenizer.encode("a [SEP] a").expect("ids").ids;
    assert_eq!((ids[0], ids[2], ids[4]), (special.start, special.end, special.end));
    // open_clip's cleaning would read the entity as an ampersand.
    let entity = tokenizer.encode("a &amp; a").expect("ids").ids;
    assert_ne!(entity, tokenizer.encode("a & a").expect("ids").ids);
    let long = tokenizer.encode(&"a ".repeat(100)).expect("ids");
    assert!(long.truncated && long.ids.len() == 24 && long.ids.last() == Some(&special.end));
}

#[test]
fn what_cannot_be_exported_is_named() {
    let error = |checkpoint: &Path, precision| {
        let dir = tempfile::tempdir().expect("temporary folder");
        export(checkpoint, &dir.path().join("model"), precision).expect_err("an error").to_string()
    };
    let changed = |change: &dyn Fn(&mut Weights)| {
        let (_dir, copy) = copy_of("tied");
        let path = copy.join("model.safetensors");
        let mut weights = Weights::read(&path);
        change(&mut weights);
        weights.write(&path);
        error(&copy, Precision::Fp32)
    };
    let gone = changed(&|w| drop(w.0.remove("vision_model.encoder.layers.1.self_attn.qkv.bias")));
    assert!(gone.contains("`vision_model.encoder.layers.1.self_attn.qkv.bias` [108] is missing"), "{gone}");
    let extra = changed(&|w| {
        let copy = w.0["text_decoder.cls.predictions.bias"].clone();
        w.0.insert("text_decoder.bert.pooler.dense.bias".into(), copy);
    });
    assert!(extra.contains("unknown tensor(s), first `text_decoder.bert.pooler.dense.bias`"), "{extra}");
}

/// The names of the authors, whose files hold more than a captioner.
#[test]
fn checkpoints_with_the_authors_names_give_the_same_model() {
    let (dir, copy) = copy_of("tied");
    let path = copy.join("model.safetensors");
    let mut weights = Weights::read(&path);
    let authors = |name: &str| {
        let replaced = [
            ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
            ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
            ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
            ("vision_model.post_layernorm", "visual_encoder.norm"),
            ("vision_model.encoder.layers", "visual_encoder.blocks"),
            ("layer_norm1", "norm1"),
            ("layer_norm2", "norm2"),
            ("self_attn.projection", "attn.proj"),
            ("self_attn.qkv", "attn.qkv"),
        ];
        replaced.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
    };
    weights.0 = weights.0.into_iter().map(|(name, tensor)| (authors(&name), tensor)).collect();
    let queue = weights.0["visual_encoder.norm.bias"].clone();
    for extra in
        ["image_queue", "temp", "text_encoder.embeddings.LayerNorm.weight", "visual_encoder_m.norm.bias"]
    {
        weights.0.insert(extra.into(), queue.clone());
    }
    weights.write(&path);
    let (_plain_dir, plain) = exported("tied");
    let model = export(&copy, &dir.path().join("model"), Precision::Fp32).expect("export");
    assert_eq!(model.spec.parameters, plain.spec.parameters);
    let files = |model: &ModelFolder| model.spec.files.iter().map(|f| f.sha256.clone()).collect::<Vec<_>>();
    assert_eq!(files(&model), files(&plain));
    // Any file of that kind is read where it is the only one.
    std::fs::rename(&path, copy.join("model_base_caption.pth")).expect("renamed");
    let model = export(&copy, &dir.path().join("model"), Precision::Fp32).expect("export");
    assert_eq!(files(&model), files(&plain));
    std::fs::copy(copy.join("model_base_caption.pth"), copy.join("other.pth")).expect("copied");
    let error = export(&copy, &dir.path().join("model"), Precision::Fp32).expect_err("two files").to_string();
    assert!(error.contains("model.safetensors"), "{error}");
}

/// A model that scores: embeddings (ITC), and matching of every image with every text (ITM).
#[test]
fn scores_agree_with_transformers() {
    let (_dir, model) = exported("retrieval");
    let checks = verified(&model, "retrieval");
    for check in &checks {
        println!("retrieval: {:?} {} {}", check.status, check.tensor, check.detail);
    }
    let with = |status| checks.iter().filter(|c| c.status == status).map(|c| c.tensor).collect::<Vec<_>>();
    assert!(failed(&checks).is_empty(), "{checks:#?}");
    assert_eq!(with(CheckStatus::Unchecked), ["images", "attention_mask"]);
    let golden = Weights::read(&case("retrieval").join("golden.safetensors"));
    assert_eq!(checks.len(), golden.0.len(), "a verdict per tensor");
    let spec = &model.spec;
    let fusion = spec.dimensions.fusion.expect("sizes of the fusion");
    assert_eq!((spec.architecture.as_str(), spec.dimensions.embed_dim), ("blip-retrieval", 20));
    assert_eq!((fusion.image_tokens, fusion.enc_id, spec.special_ids.start), (10, 94, 4));
    assert!(model.require_scores().is_ok() && model.decoder().is_err());
}

/// The matching probability of a pair depends on neither the other texts, their lengths, nor the other images.
#[test]
fn matches_do_not_depend_on_the_batch() {
    let (_dir, model) = exported("retrieval");
    let golden = Weights::read(&case("retrieval").join("golden.safetensors"));
    let options = SessionOptions::on_cpu(1);
    let images = golden.u8("images");
    let each = images.len() / 3;
    let mut encoder = ImageEncoder::load(&model, &options).expect("encoder");
    let mut matcher = Matcher::load(&model, &options, MatchStart::default()).expect("matcher");
    let tokenizer = Tokenizer::load(&model).expect("tokenizer");
    let texts = ["a red circle on the left", "cat", "two  Dogs, above a boat!", "with"];
    let ids: Vec<Vec<i64>> = texts.iter().map(|text| tokenizer.encode(text).expect("ids").ids).collect();
    let want = golden.f32("itm_logits_enc");
    for image in 0..3 {
        let tokens = encoder.image_tokens(&images[image * each..][..each]).expect("tokens");
        for (text, ids) in ids.iter().enumerate() {
            let [[other, matched]] = matcher.logits(&tokens, &[ids]).expect("logits")[..] else {
                panic!("one pair")
            };
            let at = 2 * (image * texts.len() + text);
            assert!(
                (other - want[at]).abs() < 5e-5 && (matched - want[at + 1]).abs() < 5e-5,
                "{image} {text}"
            );
        }
    }
    let tokens = encoder.image_tokens(images).expect("tokens");
    let three: Vec<&[i64]> = ids[..2].iter().map(Vec::as_slice).collect();
    let error = matcher.logits(&tokens, &three).expect_err("two texts for three images").to_string();
    assert!(error.contains("2 texts"), "{error}");
    let (_captioner_dir, captioner) = exported("tied");
    let error = Matcher::load(&captioner, &options, MatchStart::Cls).expect_err("no head").to_string();
    assert!(error.contains("BlipForImageTextRetrieval"), "{error}");
}
