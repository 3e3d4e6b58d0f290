//! open_clip 3.3.0's defaults, and an error that names the key for every unsupported option.

use recaption_schemas::{Interpolation, ResizeMode};
use serde_json::json;

mod scorers;

use super::{section::Parsed, *};

/// A configuration with everything that has no default, small.
fn base() -> Value {
    json!({
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"width": 96, "head_width": 32, "layers": 2, "image_size": 48, "patch_size": 8, "attentional_pool": true},
            "text_cfg": {"width": 64, "heads": 4, "layers": 2, "context_length": 16, "vocab_size": 200, "embed_cls": true},
            "multimodal_cfg": {"width": 64, "heads": 2, "layers": 3, "context_length": 16}
        },
        "preprocess_cfg": {}
    })
}

/// [`base`] with one value set; `path` is `section/key`, relative to `model_cfg` unless it starts with a slash.
fn with(path: &str, value: Value) -> Value {
    let mut config = base();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/model_cfg/{path}") };
    let (parent, key) = path.rsplit_once('/').expect("a path");
    config.pointer_mut(parent).expect("a section")[key] = value;
    config
}

fn parse(config: &Value) -> Parsed<ModelConfig> {
    ModelConfig::parse(&config.to_string())
}

fn error(config: &Value) -> String {
    parse(config).expect_err(&format!("accepted {config}"))
}

/// Asserts that setting `path` fails with a message that names the key.
fn expect_error_naming(path: &str, value: Value) {
    let message = error(&with(path, value.clone()));
    let key = path.rsplit('/').next().expect("a key");
    assert!(message.contains(key), "{path} = {value}: {message}");
    println!("{path} = {value}: {message}");
}

#[test]
fn base_is_parsed_as_written() {
    let config = parse(&base()).expect("valid");
    assert_eq!(
        config.vision,
        VisionConfig {
            image_size: 48,
            patch_size: 8,
            width: 96,
            layers: 2,
            heads: 3,
            mlp_width: 384,
            pooler: Some(PoolerConfig { kind: PoolerKind::Released, queries: 256, heads: 8 }),
            class_token: true,
            patch_bias: false,
            ln_pre: true,
            blocks: ImageBlocks::PreNorm,
            rotary: None,
            layer_scale: None,
            pooling: ImagePooling::ClassToken,
            projection: EmbeddingProjection::Matrix,
            activation: Activation::Gelu,
            epsilon: 1e-5,
            is_timm: false,
        }
    );
    assert_eq!(config.text.mlp_width, 256);
    assert_eq!(config.image_tokens(), 255);
    assert_eq!(config.activation, Activation::Gelu);
}

/// `CLIPVisionCfg()`, `CLIPTextCfg()`, `MultimodalCfg()` and `PreprocessCfg()` of open_clip 3.3.0, written out.
fn explicit_defaults() -> Value {
    // Shared by all three towers.
    let blocks = [
        ("ls_init_value", Value::Null),
        ("final_ln_after_pool", false.into()),
        ("output_tokens", false.into()),
        ("act_kwargs", Value::Null),
        ("norm_kwargs", Value::Null),
        ("block_type", Value::Null),
        ("qk_norm", false.into()),
        ("scaled_cosine_attn", false.into()),
        ("scale_heads", false.into()),
        ("scale_attn_inner", false.into()),
        ("scale_attn", false.into()),
        ("scale_fc", false.into()),
    ];
    let mut vision = json!({
        "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
        "patch_dropout": 0.0, "attentional_pool": false, "attn_pooler_queries": 256, "attn_pooler_heads": 8,
        "no_ln_pre": false, "pos_embed_type": "learnable", "pool_type": "tok",
        "timm_model_name": null, "timm_model_pretrained": false, "timm_pool": "avg", "timm_proj": "linear",
        "timm_proj_bias": false, "timm_drop": 0.0, "timm_drop_path": null
    });
    let mut text = json!({
        "context_length": 77, "vocab_size": 49408, "hf_tokenizer_name": null, "tokenizer_mode": null,
        "tokenizer_kwargs": null, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0,
        "embed_cls": false, "pad_id": 0, "eos_id": 2, "no_causal_mask": false, "pool_type": "argmax",
        "proj_bias": false, "proj_type": "linear",
        "hf_model_name": null, "hf_model_pretrained": true, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"
    });
    for (key, value) in blocks {
        vision[key] = value.clone();
        text[key] = value;
    }
    let mut multimodal = text.clone();
    for (key, value) in
        [("mlp_ratio", 4), ("dim_head", 64), ("heads", 8), ("n_queries", 256), ("attn_pooler_heads", 8)]
    {
        multimodal[key] = value.into();
    }
    let preprocess = json!({
        "size": 224, "mode": "RGB", "mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
        "std": [0.268_629_54, 0.261_302_58, 0.275_777_11], "interpolation": "bicubic", "resize_mode": "shortest",
        "fill_color": 0
    });
    json!({
        "model_cfg": {
            "embed_dim": 512, "quick_gelu": false, "init_logit_scale": 2.659_260_036_932_778, "init_logit_bias": null,
            "nonscalar_logit_scale": false, "cast_dtype": null, "pad_id": 0, "custom_text": true,
            "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": multimodal
        },
        "preprocess_cfg": preprocess
    })
}

/// The defaults contradict each other (no CLS embedding, widths 512 and 768) until these are set.
fn made_consistent(mut config: Value) -> Value {
    let model = &mut config["model_cfg"];
    model["text_cfg"]["embed_cls"] = true.into();
    model["vision_cfg"]["attentional_pool"] = true.into();
    config
}

#[test]
fn defaults_are_open_clips_and_every_key_is_known() {
    let explicit = parse(&made_consistent(explicit_defaults())).expect("all keys known");
    let bare =
        json!({"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}, "multimodal_cfg": {}}});
    assert_eq!(parse(&made_consistent(bare)).expect("all defaults"), explicit);
    assert_eq!(explicit.vision.heads, 12);
    assert_eq!(
        (explicit.text.context_length, explicit.text.vocab_size, explicit.decoder.map(|d| d.layers)),
        (77, 49408, Some(12))
    );
}

#[test]
fn null_is_the_default() {
    let mut config = base();
    for section in ["vision_cfg", "text_cfg", "multimodal_cfg"] {
        let Value::Object(map) = &mut config["model_cfg"][section] else { panic!("an object") };
        for key in ["mlp_ratio", "ls_init_value", "qk_norm", "norm_kwargs"] {
            map.insert(key.into(), Value::Null);
        }
    }
    config["preprocess_cfg"] = Value::Null;
    assert_eq!(parse(&config), parse(&base()));
}

#[test]
fn custom_blocks_are_rejected_in_every_tower() {
    for section in ["vision_cfg", "text_cfg", "multimodal_cfg"] {
        for key in
            ["qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"]
        {
            expect_error_naming(&format!("{section}/{key}"), true.into());
        }
        expect_error_naming(&format!("{section}/block_type"), "custom".into());
        expect_error_naming(&format!("{section}/act_kwargs"), json!({"approximate": "tanh"}));
        expect_error_naming(&format!("{section}/norm_kwargs"), json!({"eps": 1e-6}));
        assert!(parse(&with(&format!("{section}/block_type"), "default".into())).is_ok());
    }
}

#[test]
fn other_image_towers_are_expect_error_naming() {
    expect_error_naming("vision_cfg/timm_model_name", "vit_medium_patch16_gap_256".into());
    expect_error_naming("vision_cfg/layers", json!([3, 4, 6, 3]));
    expect_error_naming("vision_cfg/attentional_pool", "parallel".into());
    expect_error_naming("vision_cfg/attentional_pool", "cascade".into());
    expect_error_naming("vision_cfg/pool_type", "avg".into());
    expect_error_naming("vision_cfg/pool_type", "none".into());
    expect_error_naming("vision_cfg/final_ln_after_pool", true.into());
    expect_error_naming("vision_cfg/pos_embed_type", "none".into());
    expect_error_naming("vision_cfg/image_size", json!([48, 64]));
    expect_error_naming("vision_cfg/patch_size", json!([8, 16]));
    expect_error_naming("vision_cfg/image_size", json!([48]));
}

#[test]
fn other_text_towers_are_expect_error_naming() {
    expect_error_naming("text_cfg/hf_model_name", "roberta-base".into());
    expect_error_naming("multimodal_cfg/hf_model_name", "roberta-base".into());
    expect_error_naming("text_cfg/proj_bias", true.into());
    expect_error_naming("text_cfg/proj_type", "mlp".into());
    expect_error_naming("text_cfg/no_causal_mask", true.into());
    expect_error_naming("text_cfg/final_ln_after_pool", true.into());
    expect_error_naming("text_cfg/pad_id", 1.into());
    expect_error_naming("pad_id", 1.into());
    expect_error_naming("nonscalar_logit_scale", true.into());
    expect_error_naming("text_cfg/embed_cls", false.into());
    let mut missing = base();
    missing["model_cfg"]["text_cfg"].as_object_mut().expect("an object").remove("embed_cls");
    assert!(error(&missing).contains("embed_cls"));
}

#[test]
fn unknown_keys_are_rejected_with_their_section() {
    for section in ["vision_cfg", "text_cfg", "multimodal_cfg"] {
        let message = error(&with(&format!("{section}/rotary"), true.into()));
        assert!(message.contains(&format!("{section}.rotary")), "{message}");
    }
    // Keys are known where open_clip has them, and nowhere else.
    expect_error_naming("text_cfg/head_width", 64.into());
    expect_error_naming("vision_cfg/heads", 4.into());
    expect_error_naming("flux_capacitor", 1.into());
    expect_error_naming("/preprocess_cfg/crop_pct", 0.9.into());
    expect_error_naming("/training", json!({}));
    expect_error_naming("/recaption", json!({"captions": 1}));
}

#[test]
fn other_json_is_rejected() {
    let bare = error(&base()["model_cfg"]);
    assert!(bare.contains("bare model configuration"), "{bare}");
    for section in ["vision_cfg", "text_cfg"] {
        let mut missing = base();
        missing["model_cfg"].as_object_mut().expect("an object").remove(section);
        assert!(error(&missing).contains(section));
        assert!(error(&with(section, 7.into())).contains(section));
    }
    assert!(error(&json!({})).contains("model_cfg"));
    assert!(error(&json!([])).contains("JSON object"));
    assert!(ModelConfig::parse("{").expect_err("cut").contains("JSON"));
    assert!(ModelConfig::parse("").is_err());
}

#[test]
fn numbers_out_of_range_are_expect_error_naming() {
    for value in [json!(0), json!(-1), json!(1.5), json!("4"), json!(1_u64 << 40), json!(true), json!([])] {
        expect_error_naming("vision_cfg/width", value.clone());
        expect_error_naming("text_cfg/heads", value.clone());
        expect_error_naming("multimodal_cfg/layers", value.clone());
        expect_error_naming("vision_cfg/patch_size", value.clone());
        expect_error_naming("embed_dim", value);
    }
    expect_error_naming("vision_cfg/image_size", json!([1_u64 << 40, 1_u64 << 40]));
    expect_error_naming("vision_cfg/mlp_ratio", "4".into());
    expect_error_naming("vision_cfg/mlp_ratio", 0.into());
    expect_error_naming("text_cfg/mlp_ratio", (-1.0).into());
    expect_error_naming("text_cfg/mlp_ratio", 1e300.into());
    expect_error_naming("text_cfg/ls_init_value", "1e-5".into());
    expect_error_naming("text_cfg/ls_init_value", 1e300.into());
    expect_error_naming("init_logit_scale", "2.66".into());
    expect_error_naming("init_logit_bias", true.into());
    expect_error_naming("quick_gelu", 1.into());
    let mut missing = base();
    missing["model_cfg"].as_object_mut().expect("an object").remove("embed_dim");
    assert!(error(&missing).contains("embed_dim"));
}

#[test]
fn contradictions_between_sections_are_named() {
    let cases = [
        ("text_cfg/width", json!(128), "text_cfg.width 128 differs from multimodal_cfg.width 64"),
        ("embed_dim", json!(128), "image tokens are 128 wide, multimodal_cfg.width is 64"),
        ("embed_dim", json!(60), "width 60 is not divisible by 8 heads"),
        ("vision_cfg/attentional_pool", json!(false), "image tokens are 96 wide"),
        ("vision_cfg/head_width", json!(128), "width 96 is not divisible by 0 heads"),
        ("text_cfg/heads", json!(5), "text_cfg: width 64 is not divisible by 5 heads"),
        ("multimodal_cfg/heads", json!(3), "multimodal_cfg: width 64 is not divisible by 3 heads"),
        ("vision_cfg/attn_pooler_heads", json!(7), "pooler"),
        ("vision_cfg/attn_pooler_queries", json!(1), "attn_pooler_queries"),
        ("vision_cfg/patch_size", json!(64), "patch_size"),
        ("multimodal_cfg/context_length", json!(14), "context_length 14"),
        ("text_cfg/vocab_size", json!(3), "vocab_size"),
        ("text_cfg/context_length", json!(2), "context_length"),
    ];
    for (path, value, want) in cases {
        let message = error(&with(path, value));
        assert!(message.contains(want), "{path}: {message}");
    }
    // open_clip rounds the number of heads down: 96 / 20 is 4 heads of 24.
    assert_eq!(parse(&with("vision_cfg/head_width", json!(20))).expect("valid").vision.heads, 4);
}

#[test]
fn preprocessing_is_read_or_expect_error_naming() {
    let preprocess =
        |key: &str, value: Value| parse(&with(&format!("/preprocess_cfg/{key}"), value)).expect("valid");
    assert_eq!(
        preprocess("interpolation", "bilinear".into()).preprocess.interpolation,
        Interpolation::Bilinear
    );
    assert_eq!(preprocess("resize_mode", "squash".into()).preprocess.resize_mode, ResizeMode::Squash);
    assert_eq!(preprocess("size", json!([48, 48])).preprocess.size, 48);
    let mut longest = with("/preprocess_cfg/resize_mode", "longest".into());
    longest["preprocess_cfg"]["fill_color"] = 127.into();
    assert_eq!(
        parse(&longest).expect("valid").preprocess.resize_mode,
        ResizeMode::Longest { fill: [127; 3] }
    );
    assert_eq!(preprocess("mean", json!([0.5, 0.5, 0.5])).normalisation.mean, [0.5; 3]);
    assert_eq!(preprocess("std", json!([1, 1, 1])).normalisation.std, [1.0; 3]);

    expect_error_naming("/preprocess_cfg/mode", "BGR".into());
    expect_error_naming("/preprocess_cfg/size", 224.into());
    expect_error_naming("/preprocess_cfg/size", json!([48, 64]));
    expect_error_naming("/preprocess_cfg/interpolation", "random".into());
    expect_error_naming("/preprocess_cfg/resize_mode", "stretch".into());
    expect_error_naming("/preprocess_cfg/fill_color", 256.into());
    expect_error_naming("/preprocess_cfg/fill_color", json!([0, 0, 0]));
    expect_error_naming("/preprocess_cfg/mean", json!([0.5]));
    expect_error_naming("/preprocess_cfg/mean", 0.5.into());
    expect_error_naming("/preprocess_cfg/mean", json!(["a", "b", "c"]));
    expect_error_naming("/preprocess_cfg/std", json!([0.5, 0.0, 0.5]));
    assert!(error(&with("/preprocess_cfg", 7.into())).contains("preprocess_cfg"));
}

#[test]
fn decoder_ignores_keys_as_open_clip_does() {
    let plain = parse(&base()).expect("valid");
    // Neither reaches the decoder in open_clip: its MLP is 4 times wider, its vocabulary is the text tower's.
    for (key, value) in
        [("mlp_ratio", json!(2)), ("vocab_size", json!(999)), ("n_queries", json!(1)), ("dim_head", json!(7))]
    {
        assert_eq!(parse(&with(&format!("multimodal_cfg/{key}"), value)), Ok(plain), "{key}");
    }
    // The text tower reads its own.
    let text = parse(&with("text_cfg/mlp_ratio", json!(2.5))).expect("valid").text;
    assert_eq!(text.mlp_width, 160);
    // `int(width * ratio)` rounds down: 64 * 2.67 is 170.88.
    assert_eq!(parse(&with("text_cfg/mlp_ratio", json!(2.67))).expect("valid").text.mlp_width, 170);
    // Teacher forcing needs one place less than the text.
    assert!(parse(&with("multimodal_cfg/context_length", json!(15))).is_ok());
    let scaled = parse(&with("text_cfg/ls_init_value", json!(0.0))).expect("valid");
    assert_eq!((scaled.text.layer_scale, scaled.vision.layer_scale), (Some(0.0), None));
}

/// `model_configs/coca_*.json` of open_clip 3.3.0.
#[test]
fn open_clips_model_configurations_are_parsed() {
    let vit = |layers: usize, width: usize, patch: usize| json!({"image_size": 224, "layers": layers, "width": width, "patch_size": patch, "attentional_pool": true, "attn_pooler_heads": 8, "output_tokens": true});
    let text = |width: usize, heads: usize| json!({"context_length": 76, "vocab_size": 49408, "width": width, "heads": heads, "layers": 12, "embed_cls": true, "output_tokens": true});
    let decoder = |width: usize, heads: usize| json!({"context_length": 76, "vocab_size": 49408, "width": width, "heads": heads, "layers": 12, "attn_pooler_heads": heads});
    let hub = |model: Value| json!({"model_cfg": model, "preprocess_cfg": {}});

    let b32 = hub(
        json!({"embed_dim": 512, "vision_cfg": vit(12, 768, 32), "text_cfg": text(512, 8), "multimodal_cfg": decoder(512, 8), "custom_text": true}),
    );
    assert_eq!(parse(&b32).expect("coca_ViT-B-32").vision.grid(), 7);
    let l14 = hub(
        json!({"embed_dim": 768, "vision_cfg": vit(24, 1024, 14), "text_cfg": text(768, 12), "multimodal_cfg": decoder(768, 12), "custom_text": true}),
    );
    assert_eq!(parse(&l14).expect("coca_ViT-L-14").vision.heads, 16);
    let base = hub(json!({
        "embed_dim": 512,
        "multimodal_cfg": {"width": 768, "context_length": 76, "vocab_size": 64000, "mlp_ratio": 4, "layers": 12, "dim_head": 64, "heads": 12, "n_queries": 256, "attn_pooler_heads": 8},
        "vision_cfg": {"image_size": 288, "layers": 12, "width": 768, "patch_size": 18, "output_tokens": true},
        "text_cfg": {"context_length": 76, "vocab_size": 64000, "layers": 12, "heads": 12, "width": 768, "embed_cls": true, "output_tokens": true},
        "custom_text": true
    }));
    let config = parse(&base).expect("coca_base");
    assert_eq!((config.vision.pooler, config.image_tokens()), (None, 256));
    let roberta = hub(json!({
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32, "output_tokens": true},
        "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base", "hf_proj_type": "linear", "width": 768, "output_tokens": true},
        "multimodal_cfg": {"context_length": 76, "width": 768, "heads": 8, "layers": 12},
        "custom_text": true
    }));
    let message = error(&roberta);
    assert!(message.contains("text_cfg.hf_model_name") && message.contains("roberta-base"), "{message}");
}

/// A small CLIP, as the configurations on the hub have it: no `custom_text`.
fn clip() -> Value {
    let mut config = base();
    let model = config["model_cfg"].as_object_mut().expect("an object");
    model.remove("multimodal_cfg");
    model["vision_cfg"]["attentional_pool"] = false.into();
    model["text_cfg"]["embed_cls"] = false.into();
    config
}

fn clip_with(path: &str, value: Value) -> Value {
    let mut config = clip();
    let (section, key) = path.split_once('/').expect("a path");
    config["model_cfg"][section][key] = value;
    config
}

#[test]
fn model_without_multimodal_cfg_is_a_clip() {
    let config = parse(&clip()).expect("valid");
    assert_eq!((config.decoder, config.vision.pooler), (None, None));
    assert_eq!((config.text.pooling, config.text.prefix), (TextPooling::EndToken, "text."));
    assert_eq!(parse(&base()).expect("valid").text.pooling, TextPooling::ClassToken);
    // Widths of the towers have nothing to do with one another.
    assert!(parse(&clip_with("text_cfg/width", 128.into())).is_ok());
    for custom_text in [true, false] {
        let mut custom = clip();
        custom["model_cfg"]["custom_text"] = custom_text.into();
        assert_eq!(parse(&custom), Ok(config));
    }
    // Every key with open_clip's own default.
    let mut explicit = explicit_defaults();
    explicit["model_cfg"].as_object_mut().expect("an object").remove("multimodal_cfg");
    let bare = json!({"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}});
    assert_eq!(parse(&explicit).expect("all keys known"), parse(&bare).expect("all defaults"));
}

#[test]
fn other_clips_are_expect_error_naming() {
    for (path, value) in [
        ("vision_cfg/attentional_pool", json!(true)),
        ("vision_cfg/pool_type", "none".into()),
        ("vision_cfg/timm_model_name", "vit_base_patch16_siglip_gap_224".into()),
        ("vision_cfg/layers", json!([3, 4, 6, 3])),
        ("vision_cfg/image_seq_len", 576.into()),
        ("vision_cfg/act_kwargs", json!({"approximate": "sigmoid"})),
        ("vision_cfg/norm_kwargs", json!({"eps": 0.0})),
        ("vision_cfg/norm_kwargs", json!({"elementwise_affine": false})),
        ("text_cfg/pool_type", "first".into()),
        // No tokenizer whose end token could be known.
        ("text_cfg/pool_type", "eos".into()),
        ("text_cfg/embed_cls", true.into()),
        ("text_cfg/proj_type", "mlp".into()),
        ("text_cfg/hf_model_name", "roberta-base".into()),
        ("text_cfg/hf_tokenizer_name", "roberta-base".into()),
        ("text_cfg/tokenizer_kwargs", json!({"clean": "canonicalize"})),
        ("text_cfg/tokenizer_mode", "clips".into()),
        ("text_cfg/qk_norm", true.into()),
        ("text_cfg/text_arch", "modern".into()),
        ("text_cfg/variable_text", true.into()),
        ("text_cfg/tokenizer_type", "tiktoken".into()),
        ("text_cfg/norm_type", "rmsnorm".into()),
    ] {
        let message = error(&clip_with(path, value.clone()));
        let key = path.rsplit('/').next().expect("a key");
        assert!(message.contains(key), "{path} = {value}: {message}");
    }
}
