//! `config.json` of ALBEFs: defaults, and what is refused.

use serde_json::{Value, json};

use super::{AlbefCheckpoint, AlbefConfig, names};
use crate::{
    checkpoint::{AnyCheckpoint, BlipCheckpoint},
    model::SpecialIds,
};

fn small() -> Value {
    json!({
        "image_res": 32, "patch_size": 8, "vision_width": 48, "vision_depth": 3, "vision_heads": 4, "vision_norm_eps": 2e-6,
        "embed_dim": 20, "queue_size": 64, "momentum": 0.995,
        "bert": {"hidden_size": 60, "intermediate_size": 96, "num_attention_heads": 5, "num_hidden_layers": 4, "fusion_layer": 1,
                 "encoder_width": 48, "vocab_size": 300, "max_position_embeddings": 40, "layer_norm_eps": 1e-11, "pad_token_id": 0,
                 "type_vocab_size": 3},
        "special_ids": {"pad": 0, "cls": 7, "sep": 8, "mask": 9},
        "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]
    })
}

fn parse(config: &Value) -> Result<AlbefConfig, String> {
    AlbefConfig::parse(&config.to_string(), None)
}

#[test]
fn options_are_read() {
    let c = parse(&small()).expect("valid");
    assert_eq!((c.vision.image_size, c.vision.tokens(), c.vision.width, c.vision.layers), (32, 17, 48, 3));
    assert_eq!((c.vision.heads, c.vision.mlp_width, c.vision.epsilon), (4, 192, 2e-6));
    assert_eq!((c.text.width, c.text.mlp_width, c.text.heads, c.text.layers), (60, 96, 5, 4));
    assert_eq!((c.text.vocab_size, c.text.context_length, c.text.epsilon), (300, 40, 1e-11));
    assert_eq!(c.text.special, SpecialIds { pad: 0, start: 7, end: 8 });
    assert_eq!((c.fusion_layer, c.token_types, c.embed_dim, c.queue_size), (1, 3, 20, Some(64)));
    assert_eq!((c.normalisation.mean, c.normalisation.std), ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3]));
}

#[test]
fn missing_options_have_the_authors_values() {
    let c = parse(&json!({"image_res": 384})).expect("valid");
    let v = c.vision;
    assert_eq!((v.patch_size, v.width, v.layers, v.heads, v.mlp_width), (16, 768, 12, 12, 3072));
    let t = c.text;
    assert_eq!(
        (t.vocab_size, t.width, t.layers, t.heads, t.mlp_width, t.context_length),
        (30522, 768, 12, 12, 3072, 512)
    );
    assert_eq!((c.fusion_layer, c.token_types, c.embed_dim), (6, 2, 256));
    assert_eq!((v.epsilon, t.epsilon), (1e-6, 1e-12));
    assert_eq!((t.special.pad, t.special.start, t.special.end), (0, 101, 102));
    assert_eq!((c.normalisation.mean[0], c.normalisation.std[2]), (0.481_454_66, 0.275_777_11));
    assert_eq!((c.queue_size, c.max_text_tokens), (None, None));
}

#[test]
fn unsupported_options_are_named() {
    let error = |path: &str, value: Value| {
        let mut config = small();
        *config.pointer_mut(path).expect("a key") = value;
        parse(&config).expect_err("unsupported")
    };
    assert!(error("/image_res", Value::Null).contains("`config.image_res` is missing"));
    assert!(error("/vision_heads", 5.into()).contains("not divisible by `vision_heads` 5"));
    assert!(error("/patch_size", 33.into()).contains("larger than `image_res`"));
    assert!(
        error("/bert/encoder_width", 50.into())
            .contains("`bert.encoder_width` is 50, but `vision_width` is 48")
    );
    assert!(error("/bert/fusion_layer", 4.into()).contains("`bert.fusion_layer` = 4"));
    assert!(error("/bert/fusion_layer", Value::Null).contains("`bert.fusion_layer` is missing"));
    assert!(
        error("/bert/num_attention_heads", 7.into()).contains("not divisible by `num_attention_heads` 7")
    );
    assert!(error("/bert/layer_norm_eps", 0.into()).contains("a positive number"));
    assert!(error("/bert/pad_token_id", 1.into()).contains("`special_ids.pad` is 0"));
    assert!(error("/bert", json!("config_bert.json")).contains("`bert` must be an object"));
    assert!(error("/special_ids/cls", 300.into()).contains("`bert.vocab_size` is 300"));
    assert!(error("/special_ids/cls", 8.into()).contains("must differ"));
    assert!(error("/std", json!([1, 0, 1])).contains("positive"));
    assert!(error("/mean", json!([1, 2])).contains("three numbers"));
    let mut config = small();
    config["bert"]["hidden_act"] = "relu".into();
    assert!(parse(&config).expect_err("unsupported").contains("`bert.hidden_act`"));
    let mut config = small();
    config["max_text_tokens"] = 1.into();
    assert!(parse(&config).expect_err("too short").contains("max_text_tokens"));
    let other = Some(SpecialIds { pad: 0, start: 2, end: 8 });
    let error = AlbefConfig::parse(&small().to_string(), other).expect_err("another tokenizer");
    assert!(error.contains("cls 7") && error.contains("0, 2 and 8"), "{error}");
}

#[test]
fn training_tensors_are_told_by_name() {
    for name in ["temp", "image_queue", "idx_queue", "visual_encoder_m.norm.bias", "text_proj_m.bias"] {
        assert!(names::is_training_only(name), "{name}");
    }
    for name in [
        "temperature",
        "itm_head.bias",
        "visual_encoder.norm.bias",
        "text_encoder.bert.embeddings.LayerNorm.bias",
    ] {
        assert!(!names::is_training_only(name), "{name}");
    }
    assert_eq!(names::without_parallel("module.temp"), "temp");
}

#[test]
fn directories_are_recognised_and_missing_files_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    assert!(!AlbefCheckpoint::is_in(dir.path()));
    write("a.pth", "");
    let error = AnyCheckpoint::open(dir.path()).expect_err("no configuration").to_string();
    assert!(error.contains("a .pth file without a config.json") && error.contains("image_res"), "{error}");
    std::fs::remove_file(dir.path().join("a.pth")).expect("removed");
    write("config.json", &small().to_string());
    assert!(AlbefCheckpoint::is_in(dir.path()) && !BlipCheckpoint::is_in(dir.path()));
    let error = AnyCheckpoint::open(dir.path()).expect_err("no weights").to_string();
    assert!(error.contains("albef.safetensors") && error.contains(".pth"), "{error}");
    for name in ["a.pth", "b.pth"] {
        write(name, "");
    }
    let error = AnyCheckpoint::open(dir.path()).expect_err("two files").to_string();
    assert!(error.contains("several .pth files"), "{error}");
    let mut other = small();
    other["model_type"] = "siglip".into();
    write("config.json", &other.to_string());
    assert!(!AlbefCheckpoint::is_in(dir.path()));
}
