//! SigLIP, CLIPA and MetaCLIP's multilingual models, and keys that open_clip 4 has.

use serde_json::{Value, json};

use super::{clip, clip_with, parse};
use crate::{
    checkpoint::config::{
        Activation, EmbeddingProjection, ImageBlocks, ImagePooling, ModelConfig, RotaryPositions,
        TextPooling, TokenizerFamily,
    },
    model::{Architecture, TextCleaning},
};

/// open_clip's ViT-SO400M-16-SigLIP2-256.
fn so400m() -> Value {
    json!({"model_cfg": {
        "embed_dim": 1152, "init_logit_bias": -10, "custom_text": true,
        "vision_cfg": {"image_size": 256, "timm_model_name": "vit_so400m_patch16_siglip_256", "timm_model_pretrained": false,
            "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"context_length": 64, "vocab_size": 256_000, "hf_tokenizer_name": "timm/ViT-SO400M-16-SigLIP2-256",
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 1152, "heads": 16, "layers": 27, "mlp_ratio": 3.7362,
            "no_causal_mask": true, "proj_bias": true, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"}}
    }})
}

fn so400m_with(path: &str, value: Value) -> Value {
    let mut config = so400m();
    let (parent, key) = path.rsplit_once('/').map_or(("", path), |(parent, key)| (parent, key));
    let parent = if parent.is_empty() { "/model_cfg".to_owned() } else { format!("/model_cfg/{parent}") };
    config.pointer_mut(&parent).expect("a section")[key] = value;
    config
}

fn valid(config: &Value) -> ModelConfig {
    parse(config).expect("valid")
}

#[test]
fn siglip_is_timms_tower_of_that_name() {
    let c = valid(&so400m());
    let v = &c.vision;
    assert_eq!((v.image_size, v.patch_size, v.width, v.layers, v.heads), (256, 16, 1152, 27, 16));
    assert_eq!(
        (v.mlp_width, v.tokens(), v.pooling),
        (4304, 256, ImagePooling::Attention { heads: 16, mlp_width: 4304 })
    );
    assert_eq!(
        (v.projection, v.activation, v.epsilon),
        (EmbeddingProjection::None, Activation::GeluTanh, 1e-6)
    );
    let t = &c.text;
    assert_eq!((t.mlp_width, t.activation, t.epsilon), (4304, Activation::GeluTanh, 1e-6));
    assert_eq!(
        (t.pooling, t.is_causal, t.projection),
        (TextPooling::Last, false, EmbeddingProjection::Linear { bias: true })
    );
    assert_eq!((t.tokens.family, t.tokens.cleaning), (TokenizerFamily::Gemma, TextCleaning::Canonicalize));
    assert_eq!((c.architecture(), c.init_logit_bias), (Architecture::Siglip, Some(-10.0)));
}

/// A CLIP with a tower of timm's of its own size.
fn with_tower(name: &str, size: usize, pool: &str) -> Value {
    json!({"model_cfg": {"embed_dim": 512, "custom_text": true,
        "vision_cfg": {"image_size": size, "timm_model_name": name, "timm_model_pretrained": false, "timm_pool": pool, "timm_proj": null},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}}})
}

#[test]
fn evas_and_perception_encoders_are_clips_with_timms_towers() {
    let giant = valid(&with_tower("eva_giant_patch14_224", 224, "token"));
    let v = &giant.vision;
    assert_eq!((v.width, v.layers, v.heads, v.mlp_width, v.tokens()), (1408, 40, 16, 6144, 257));
    assert_eq!((v.blocks, v.rotary, v.patch_bias, v.ln_pre), (ImageBlocks::Eva, None, true, false));
    let large = valid(&with_tower("eva02_large_patch14_clip_336", 336, "token")).vision;
    assert_eq!((large.blocks, large.mlp_width, large.epsilon), (ImageBlocks::SubNorm, 2730, 1e-6));
    let rotary = RotaryPositions { grid: 16, offset: 0.0, is_column_first: false };
    assert_eq!((large.grid(), large.rotary), (24, Some(rotary)));
    let enormous = valid(&with_tower("eva02_enormous_patch14_clip_224", 224, "token")).vision;
    assert_eq!((enormous.blocks, enormous.mlp_width, enormous.rotary), (ImageBlocks::PostNorm, 15360, None));

    let small = valid(&with_tower("vit_pe_core_small_patch16_384", 384, "map"));
    let v = &small.vision;
    assert_eq!((small.architecture(), v.class_token, v.tokens()), (Architecture::Clip, true, 577));
    assert_eq!(v.pooling, ImagePooling::Attention { heads: 8, mlp_width: 1536 });
    let rotary = RotaryPositions { grid: 24, offset: 1.0, is_column_first: true };
    assert_eq!((v.rotary, v.patch_bias, v.ln_pre, v.epsilon), (Some(rotary), false, true, 1e-5));
    let gigantic = valid(&with_tower("vit_pe_core_gigantic_patch14_448", 448, "map")).vision;
    assert_eq!(
        (gigantic.class_token, gigantic.mlp_width, gigantic.rotary.map(|r| r.offset)),
        (false, 8960, Some(0.0))
    );
    assert_eq!(gigantic.pooling, ImagePooling::Attention { heads: 8, mlp_width: 6144 });

    for (name, size, pool, words) in [
        ("eva02_large_patch14_clip_336", 336, "map", "\"token\" with this tower"),
        ("eva02_large_patch14_448", 448, "token", "no image tower of a CLIP"),
        ("vit_pe_lang_large_patch14_448", 448, "map", "no image tower of a CLIP"),
        ("vit_pe_core_base_patch16_224", 256, "map", "takes 224 pixels"),
    ] {
        let error = parse(&with_tower(name, size, pool)).expect_err("refused");
        assert!(error.contains(words), "{name}: {error}");
    }
    let mut odd = with_tower("eva02_base_patch16_clip_224", 224, "token");
    odd["model_cfg"]["vision_cfg"]["timm_model_kwargs"] = json!({"embed_dim": 60, "num_heads": 5});
    assert!(parse(&odd).expect_err("refused").contains("heads of 60 / 5 numbers"));
    odd["model_cfg"]["vision_cfg"]["timm_model_kwargs"] = json!({"act_layer": "gelu"});
    assert!(parse(&odd).expect_err("refused").contains("act_layer"));
}

#[test]
fn timms_activation_depends_on_the_tower() {
    for (name, size, want) in [
        ("vit_so400m_patch14_siglip_224", 224, Activation::Gelu),
        ("vit_so400m_patch16_siglip_512", 512, Activation::GeluTanh),
    ] {
        let mut config = so400m_with("vision_cfg/timm_model_name", name.into());
        config["model_cfg"]["vision_cfg"]["image_size"] = size.into();
        assert_eq!(valid(&config).vision.activation, want, "{name}");
    }
}

#[test]
fn options_of_open_clip_4_change_timms_tower() {
    let options = json!({"img_size": 256, "patch_size": 8, "embed_dim": 1152, "depth": 3, "num_heads": 4, "mlp_ratio": 2.5,
        "act_layer": "gelu"});
    let v = valid(&so400m_with("vision_cfg/timm_model_kwargs", options)).vision;
    assert_eq!((v.patch_size, v.layers, v.heads, v.mlp_width), (8, 3, 4, 2880));
    assert_eq!(v.activation, Activation::Gelu);
    for options in [json!({"qk_norm": true}), json!({"act_layer": "silu"}), json!({"depth": 0}), json!([1])] {
        let message =
            parse(&so400m_with("vision_cfg/timm_model_kwargs", options.clone())).expect_err("refused");
        assert!(message.contains("timm_model_kwargs"), "{options}: {message}");
    }
}

#[test]
fn text_tower_without_projection_is_as_wide_as_the_embedding() {
    assert_eq!(
        valid(&so400m_with("text_cfg/proj_type", "none".into())).text.projection,
        EmbeddingProjection::None
    );
    let mut config = so400m_with("text_cfg/proj_type", "none".into());
    config["model_cfg"]["text_cfg"]["width"] = 768.into();
    assert!(parse(&config).expect_err("another width").contains("proj_type"));
}

#[test]
fn timms_projections_are_told_apart() {
    for (value, want) in [
        (Value::Null, EmbeddingProjection::Linear { bias: true }),
        ("linear".into(), EmbeddingProjection::Linear { bias: false }),
        ("none".into(), EmbeddingProjection::None),
    ] {
        let config = so400m_with("vision_cfg/timm_proj", value);
        assert_eq!(valid(&config).vision.projection, want);
    }
    let mut config = so400m_with("vision_cfg/timm_proj", "linear".into());
    config["model_cfg"]["vision_cfg"]["timm_proj_bias"] = true.into();
    assert_eq!(valid(&config).vision.projection, EmbeddingProjection::Linear { bias: true });
    for (path, value) in [
        ("vision_cfg/timm_proj", json!("mlp")),
        ("vision_cfg/timm_pool", "avg".into()),
        ("vision_cfg/image_size", 224.into()),
        ("vision_cfg/qk_norm", true.into()),
        ("embed_dim", 512.into()),
        ("text_cfg/hf_tokenizer_name", "t5-base".into()),
        ("text_cfg/tokenizer_kwargs", json!({"clean": "lower"})),
        ("text_cfg/tokenizer_kwargs", json!({"strip_sep_token": true})),
        ("text_cfg/tokenizer_kwargs", json!({"language": "en"})),
        ("text_cfg/pool_type", "argmax".into()),
    ] {
        let message = parse(&so400m_with(path, value.clone())).expect_err("refused");
        let key = path.rsplit('/').next().expect("a key");
        assert!(message.contains(key), "{path} = {value}: {message}");
    }
}

#[test]
fn reasons_name_what_another_tower_is() {
    for (name, want) in [
        ("naflexvit_base_patch16_siglip", "NaFlex"),
        ("eva02_large_patch14_448", "an EVA that is no image tower of a CLIP"),
        ("vit_pe_lang_large_patch14_448", "a Perception Encoder that is no image tower of a CLIP"),
        ("vit_base_patch16_siglip_gap_224", "neither SigLIP's, CLIP's nor"),
        ("vit_base_patchx_siglip_224", "neither SigLIP's, CLIP's nor"),
        ("convnext_base", "ConvNeXt"),
        ("resnet50", "none of the networks"),
    ] {
        let message = parse(&so400m_with("vision_cfg/timm_model_name", name.into())).expect_err("refused");
        assert!(message.contains(want) && message.contains(name), "{message}");
    }
    for key in ["audio_cfg", "genlip_cfg"] {
        let message = parse(&so400m_with(key, json!({}))).expect_err("refused");
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn clipas_parts_are_read() {
    let mut config = clip_with("vision_cfg/pool_type", "avg".into());
    let model = &mut config["model_cfg"];
    model["vision_cfg"]["final_ln_after_pool"] = true.into();
    for (key, value) in [
        ("hf_tokenizer_name", json!("bert-base-uncased")),
        ("tokenizer_kwargs", json!({"strip_sep_token": true})),
        ("pool_type", json!("last")),
        ("no_causal_mask", json!(true)),
    ] {
        model["text_cfg"][key] = value;
    }
    let c = valid(&config);
    assert_eq!(c.vision.pooling, ImagePooling::Mean { norm_first: false });
    let tokens = c.text.tokens;
    assert_eq!((tokens.family, tokens.cleaning), (TokenizerFamily::Bert, TextCleaning::Whitespace));
    assert!(tokens.strips_end && c.text.reads_padding());
    assert_eq!(c.architecture(), Architecture::Clip);
}

#[test]
fn end_token_is_pooled_by_its_id() {
    let mut config = clip_with("text_cfg/pool_type", "eos".into());
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "facebook/xlm-v-base".into();
    config["model_cfg"]["text_cfg"]["eos_id"] = 2.into();
    let c = valid(&config);
    assert_eq!((c.text.pooling, c.text.reads_padding()), (TextPooling::FirstOf(2), false));
    config["model_cfg"]["text_cfg"]["eos_id"] = 3.into();
    assert!(parse(&config).expect_err("another id").contains("eos_id"));
}

#[test]
fn keys_of_the_modern_text_tower_are_skipped_in_others() {
    let mut config = clip();
    let text = &mut config["model_cfg"]["text_cfg"];
    for (key, value) in [
        ("text_arch", json!("clip")),
        ("variable_text", json!(false)),
        ("bos_id", Value::Null),
        ("tokenizer_type", json!("")),
        ("tiktoken_name", json!("cl100k_base")),
        ("attention_mode", json!("causal")),
        ("pos_embed", json!("rope")),
        ("rope_temperature", json!(10000.0)),
        ("mlp_type", json!("swiglu")),
        ("norm_type", Value::Null),
        ("norm_eps", json!(1e-6)),
        ("attn_gated", json!(false)),
        ("pre_norm", json!(false)),
        ("norm_placement", json!("pre")),
        ("zero_init_residual", json!(false)),
        ("reg_tokens", json!(0)),
        ("value_residual", json!(false)),
        ("attention_bias", Value::Null),
        ("mlp_bias", Value::Null),
        ("gate_bias", Value::Null),
        ("hf_model_config", Value::Null),
    ] {
        text[key] = value;
    }
    config["model_cfg"]["vision_cfg"]["image_seq_len"] = Value::Null;
    config["model_cfg"]["vision_cfg"]["timm_model_kwargs"] = Value::Null;
    assert_eq!(valid(&config), valid(&clip()));
}
