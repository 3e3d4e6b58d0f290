//! `config.json` of SigLIPs: transformers' defaults, and errors that name what is not supported.

use recaption_schemas::{Interpolation, ResizeMode};
use serde_json::{Value, json};

use super::config;
use crate::{
    checkpoint::{Activation, EmbeddingProjection, ImagePooling, ModelConfig, TextPooling, TokenizerFamily},
    model::{Architecture, TextCleaning},
};

fn parse(config: &Value, processor: &Value, family: Option<TokenizerFamily>) -> Result<ModelConfig, String> {
    config::parse(&config.to_string(), processor.as_object(), family)
}

fn error(config: &Value) -> String {
    parse(config, &Value::Null, None).expect_err(&format!("accepted {config}"))
}

#[test]
fn defaults_are_those_of_siglip_base() {
    let c = parse(&json!({"model_type": "siglip"}), &Value::Null, None).expect("valid");
    let v = &c.vision;
    assert_eq!((v.image_size, v.patch_size, v.width, v.layers, v.heads), (224, 16, 768, 12, 12));
    assert_eq!(
        (v.mlp_width, v.pooling, v.projection),
        (3072, ImagePooling::Attention { heads: 12, mlp_width: 3072 }, EmbeddingProjection::None)
    );
    assert_eq!((v.tokens(), v.activation, v.epsilon), (196, Activation::GeluTanh, 1e-6));
    let t = &c.text;
    assert_eq!((t.context_length, t.vocab_size, t.width, t.pooling), (64, 32_000, 768, TextPooling::Last));
    assert!(!t.is_causal && t.projection == EmbeddingProjection::Linear { bias: true } && t.reads_padding());
    assert_eq!((t.tokens.family, t.tokens.cleaning), (TokenizerFamily::Siglip, TextCleaning::Siglip));
    assert_eq!(
        (c.preprocess.resize_mode, c.preprocess.interpolation),
        (ResizeMode::Squash, Interpolation::Bicubic)
    );
    assert_eq!((c.normalisation.mean, c.normalisation.std), ([0.5; 3], [0.5; 3]));
    assert_eq!((c.architecture(), c.embed_dim), (Architecture::Siglip, 768));
}

#[test]
fn tokenizer_tells_siglip_2() {
    let large = json!({"model_type": "siglip", "text_config": {"vocab_size": 256_000}});
    let small = json!({"model_type": "siglip", "text_config": {"vocab_size": 300}});
    let tokens = |config: &Value, family| parse(config, &Value::Null, family).expect("valid").text.tokens;
    let gemma = tokens(&large, None);
    assert_eq!((gemma.family, gemma.cleaning), (TokenizerFamily::Gemma, TextCleaning::Lowercase));
    assert_eq!(tokens(&small, Some(TokenizerFamily::Gemma)), gemma);
    assert_eq!(tokens(&large, Some(TokenizerFamily::Siglip)), tokens(&small, None));
}

#[test]
fn unsupported_models_and_options_are_named() {
    let with =
        |section: &str, key: &str, value: Value| json!({"model_type": "siglip", section: {key: value}});
    for (config, want) in [
        (json!({"model_type": "siglip2"}), "NaFlex"),
        (json!({"model_type": "clip"}), "`model_type` is clip"),
        (
            json!({"model_type": "siglip", "architectures": ["SiglipForImageClassification"]}),
            "SiglipForImageClassification",
        ),
        (with("vision_config", "vision_use_head", false.into()), "vision_use_head"),
        (with("vision_config", "num_channels", 1.into()), "num_channels"),
        (with("vision_config", "hidden_act", "relu".into()), "hidden_act"),
        (with("vision_config", "num_attention_heads", 7.into()), "vision_config.hidden_size"),
        (with("vision_config", "image_size", json!([224, 196])), "image_size"),
        (with("text_config", "layer_norm_eps", 0.into()), "layer_norm_eps"),
        (with("text_config", "projection_size", 512.into()), "projection_size"),
        (with("text_config", "hidden_size", 512.into()), "text_config.hidden_size"),
        (json!({"model_type": "siglip", "text_config": 7}), "text_config"),
    ] {
        let message = error(&config);
        assert!(message.contains(want), "{config}: {message}");
    }
    let base = json!({"model_type": "siglip"});
    for (processor, want) in [
        (json!({"size": {"height": 256, "width": 256}}), "256"),
        (json!({"do_center_crop": true}), "do_center_crop"),
        (json!({"resample": 1}), "resample"),
    ] {
        let message = parse(&base, &processor, None).expect_err("must fail");
        assert!(message.contains(want), "{processor}: {message}");
    }
    let processor =
        json!({"resample": 2, "image_mean": [0.1, 0.2, 0.3], "size": {"height": 224, "width": 224}});
    let c = parse(&base, &processor, None).expect("valid");
    assert_eq!(
        (c.preprocess.interpolation, c.normalisation.mean),
        (Interpolation::Bilinear, [0.1, 0.2, 0.3])
    );
}
