//! `config.json` and `preprocessor_config.json` of BLIPs: defaults, and what is refused.

use serde_json::{Value, json};

use super::{BlipCheckpoint, BlipConfig, BlipTask};
use crate::checkpoint::AnyCheckpoint;

fn small() -> Value {
    json!({
        "architectures": ["BlipForConditionalGeneration"],
        "model_type": "blip",
        "vision_config": {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
                          "image_size": 32, "patch_size": 8, "layer_norm_eps": 3e-3},
        "text_config": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                        "max_position_embeddings": 40, "layer_norm_eps": 0.02, "vocab_size": 198, "bos_token_id": 196,
                        "sep_token_id": 7, "eos_token_id": 2, "encoder_hidden_size": 768}
    })
}

fn parse(config: &Value, processor: Option<&Value>) -> Result<BlipConfig, String> {
    BlipConfig::parse(&config.to_string(), processor.and_then(Value::as_object))
}

#[test]
fn options_are_read() {
    let c = parse(&small(), None).expect("valid");
    assert_eq!((c.vision.tokens(), c.vision.width, c.vision.epsilon), (17, 48, 3e-3));
    assert_eq!((c.text.heads, c.text.context_length, c.text.epsilon), (4, 40, 0.02));
    // The end is `sep_token_id`.
    assert_eq!((c.text.special.pad, c.text.special.start, c.text.special.end), (0, 196, 7));
    assert_eq!((c.preprocess.size, c.task), (32, BlipTask::Captions));
    let mut config = small();
    config["architectures"][0] = "BlipForImageTextRetrieval".into();
    // Not `projection_dim`.
    config["projection_dim"] = 24.into();
    assert_eq!(parse(&config, None).expect("valid").task, BlipTask::Retrieval { embed_dim: 256 });
    config["image_text_hidden_size"] = 28.into();
    assert_eq!(parse(&config, None).expect("valid").embed_dim(), 28);
}

#[test]
fn missing_options_have_transformers_defaults() {
    let c = parse(&json!({"model_type": "blip"}), None).expect("valid");
    let v = c.vision;
    assert_eq!(
        (v.image_size, v.patch_size, v.width, v.layers, v.heads, v.mlp_width),
        (384, 16, 768, 12, 12, 3072)
    );
    let t = c.text;
    assert_eq!(
        (t.vocab_size, t.width, t.layers, t.heads, t.mlp_width, t.context_length),
        (30524, 768, 12, 8, 3072, 512)
    );
    assert_eq!((v.epsilon, t.epsilon), (1e-5, 1e-12));
    assert_eq!((t.special.pad, t.special.start, t.special.end), (0, 30522, 102));
    assert_eq!((c.normalisation.mean[0], c.normalisation.std[2]), (0.481_454_66, 0.275_777_11));
    let mut nulls = small();
    nulls["text_config"]["num_attention_heads"] = Value::Null;
    assert_eq!(parse(&nulls, None).expect("valid").text.heads, 8);
}

#[test]
fn unsupported_options_are_named() {
    let error = |path: &str, value: Value| {
        let mut config = small();
        *config.pointer_mut(path).expect("a key") = value;
        parse(&config, None).expect_err("unsupported")
    };
    let answers = error("/architectures/0", "BlipForQuestionAnswering".into());
    assert!(answers.contains("BlipForQuestionAnswering") && answers.contains("BlipForConditionalGeneration"));
    assert!(error("/model_type", "blip-2".into()).contains("`model_type` is blip-2"));
    assert!(error("/text_config/sep_token_id", 198.into()).contains("`text_config.sep_token_id` = 198"));
    assert!(error("/text_config/sep_token_id", 196.into()).contains("must differ"));
    assert!(error("/text_config/hidden_size", 66.into()).contains("not divisible by 4 heads"));
    assert!(error("/text_config/layer_norm_eps", 0.into()).contains("a positive number"));
    assert!(error("/text_config/max_position_embeddings", 2.into()).contains("no room"));
    assert!(error("/vision_config/patch_size", 64.into()).contains("larger than `image_size`"));
    assert!(error("/vision_config", json!([1])).contains("`vision_config` must be an object"));
    let added = |section: &str, key: &str, value: Value| {
        let mut config = small();
        config[section][key] = value;
        parse(&config, None).expect_err("unsupported")
    };
    assert!(added("text_config", "is_decoder", false.into()).contains("`text_config.is_decoder` = false"));
    assert!(added("vision_config", "hidden_act", "gelu_new".into()).contains("`vision_config.hidden_act`"));
}

#[test]
fn images_are_squashed_and_other_processing_is_named() {
    use recaption_schemas::{Interpolation, ResizeMode};
    let hub = json!({"size": {"height": 32, "width": 32}, "size_divisor": 32, "do_resize": true, "resample": 2,
                     "image_mean": [0.5, 0.5, 0.5], "rescale_factor": 0.00392156862745098});
    let c = parse(&small(), Some(&hub)).expect("valid");
    assert_eq!(
        (c.preprocess.resize_mode, c.preprocess.interpolation),
        (ResizeMode::Squash, Interpolation::Bilinear)
    );
    assert_eq!(c.normalisation.mean, [0.5; 3]);
    let default = parse(&small(), None).expect("valid").preprocess;
    assert_eq!((default.resize_mode, default.interpolation), (ResizeMode::Squash, Interpolation::Bicubic));
    assert_eq!(parse(&small(), Some(&json!({"size": 32}))).expect("valid").preprocess.size, 32);
    let error = |processor: Value| parse(&small(), Some(&processor)).expect_err("unsupported");
    assert!(
        error(json!({"size": {"height": 384, "width": 384}}))
            .contains("is 384, but `vision_config.image_size` is 32")
    );
    assert!(error(json!({"size": {"height": 32, "width": 48}})).contains("32 by 48"));
    assert!(error(json!({"do_rescale": false})).contains("`preprocessor_config.do_rescale`"));
    assert!(error(json!({"rescale_factor": 1})).contains("1 / 255"));
    assert!(error(json!({"resample": 1})).contains("bicubic"));
    assert!(error(json!({"image_std": [1, 0, 1]})).contains("positive"));
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("config.json"), small().to_string()).expect("written");
    assert!(BlipCheckpoint::is_in(dir.path()));
    let error = AnyCheckpoint::open(dir.path()).expect_err("no weights").to_string();
    assert!(error.contains("model.safetensors") && error.contains("pytorch_model.bin"), "{error}");
    // Whatever transformers 5 writes all processors into.
    let processors = json!({"image_processor": {"size": {"height": 48, "width": 48}}});
    std::fs::write(dir.path().join("processor_config.json"), processors.to_string()).expect("written");
    let error = BlipCheckpoint::read_config(dir.path()).expect_err("another size").to_string();
    assert!(error.contains("is 48, but"), "{error}");
}
