//! The object `recaption` next to `model_cfg`: model variants that open_clip has no option for.
//!
//! The parallel and cascaded poolers are from the CoCa paper (Yu et al. 2022); a decoder that reads embeddings follows some
//! secondary descriptions of it. A checkpoint without the object is what open_clip builds from the same `model_cfg`. The strings
//! that open_clip accepts for `attentional_pool` mean another model (it normalises before pooling) and are not supported.

use serde_json::{Map, Value};

use super::{
    section::Parsed,
    types::{INPUTS, MultimodalInput, POOLERS, PoolerKind, VisionConfig},
};

/// Name of the object.
pub(super) const SECTION: &str = "recaption";
/// Key that names the pooler.
const POOLER: &str = "pooler";
/// Key that names what the decoder reads.
const INPUT: &str = "multimodal_input";

/// The parsed object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// How images are pooled.
    pub(super) pooler: PoolerKind,
    /// What the decoder reads.
    pub(super) input: MultimodalInput,
}

/// Parses the object in `root`, if there is one.
///
/// # Errors
/// A message naming the key that is unknown or unsupported.
pub(super) fn parse(root: &Map<String, Value>, has_decoder: bool) -> Parsed<Extensions> {
    let map = match root.get(SECTION) {
        None | Some(Value::Null) => return Ok(Extensions::default()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(format!("`{SECTION}` must be an object with `{POOLER}` and `{INPUT}`, is {other}"));
        }
    };
    if !has_decoder {
        return Err(format!(
            "`{SECTION}` applies to a CoCa, but this model has no `model_cfg.multimodal_cfg`"
        ));
    }
    if let Some((key, value)) = map.iter().find(|(key, _)| ![POOLER, INPUT].contains(&key.as_str())) {
        return Err(format!(
            "unknown key `{SECTION}.{key}` = {value}; `{SECTION}` may have `{POOLER}` and `{INPUT}`"
        ));
    }
    Ok(Extensions { pooler: choice(map, POOLER, &POOLERS)?, input: choice(map, INPUT, &INPUTS)? })
}

/// Parses the value of a key; returns the default if it is missing or null.
fn choice<T: Copy + Default>(map: &Map<String, Value>, key: &str, names: &[(&'static str, T)]) -> Parsed<T> {
    let value = match map.get(key) {
        None | Some(Value::Null) => return Ok(T::default()),
        Some(value) => value,
    };
    let found = names.iter().find(|(name, _)| value.as_str() == Some(name));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let allowed: Vec<String> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("`{SECTION}.{key}` = {value} is not supported: expected one of {}", allowed.join(", "))
    })
}

impl Extensions {
    /// Sets the kind of the image tower's pooler.
    ///
    /// # Errors
    /// When the image tower has no pooler.
    pub(super) fn apply_to(self, vision: &mut VisionConfig) -> Parsed<()> {
        match &mut vision.pooler {
            Some(pooler) => pooler.kind = self.pooler,
            None if self.pooler == PoolerKind::Released => {}
            None => {
                return Err(format!(
                    "`{SECTION}.{POOLER}` = \"{}\" needs `model_cfg.vision_cfg.attentional_pool` = true",
                    self.pooler.as_str()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checkpoint::ModelConfig;

    fn coca(extensions: Value) -> Value {
        json!({
            "model_cfg": {
                "embed_dim": 64,
                "vision_cfg": {"width": 96, "head_width": 32, "layers": 2, "image_size": 48, "patch_size": 8,
                    "attentional_pool": true, "attn_pooler_queries": 5},
                "text_cfg": {"width": 64, "heads": 4, "layers": 2, "context_length": 16, "vocab_size": 200, "embed_cls": true},
                "multimodal_cfg": {"width": 64, "heads": 2, "layers": 3, "context_length": 16}
            },
            "recaption": extensions
        })
    }

    fn parsed(config: &Value) -> Parsed<ModelConfig> {
        ModelConfig::parse(&config.to_string())
    }

    fn expect_error(config: &Value, want: &[&str]) {
        let message = parsed(config).expect_err("must fail");
        want.iter().for_each(|part| assert!(message.contains(part), "{part:?} is not in: {message}"));
    }

    #[test]
    fn names_are_parsed() {
        for (name, kind) in POOLERS {
            let config = parsed(&coca(json!({"pooler": name}))).expect("valid");
            let tokens = if kind == PoolerKind::Released { 4 } else { 5 };
            assert_eq!(config.vision.pooler.map(|p| (p.kind, p.queries)), Some((kind, 5)));
            assert_eq!((config.image_tokens(), kind.as_str()), (tokens, name));
        }
        for (name, input) in INPUTS {
            let config = parsed(&coca(json!({"multimodal_input": name}))).expect("valid");
            let layers = if input == MultimodalInput::Unimodal { 2 } else { 0 };
            assert_eq!(config.decoder.map(|d| d.input), Some(input));
            assert_eq!((config.decoding_text_layers(), input.as_str()), (layers, name));
        }
    }

    #[test]
    fn missing_extensions_are_open_clips_defaults() {
        let mut without = coca(json!({}));
        without.as_object_mut().expect("an object").remove(SECTION);
        let plain = parsed(&without).expect("valid");
        let nulls = json!({"pooler": null, "multimodal_input": null});
        for extensions in
            [json!({}), Value::Null, nulls, json!({"pooler": "released", "multimodal_input": "unimodal"})]
        {
            assert_eq!(parsed(&coca(extensions)), Ok(plain));
        }
    }

    #[test]
    fn unknown_keys_and_values_list_what_is_allowed() {
        expect_error(
            &coca(json!({"poolers": "cascade"})),
            &["`recaption.poolers` = \"cascade\"", "`pooler`", "`multimodal_input`"],
        );
        expect_error(
            &coca(json!({"pooler": "Cascade"})),
            &["`recaption.pooler` = \"Cascade\"", "\"released\", \"parallel\", \"cascade\""],
        );
        expect_error(&coca(json!({"pooler": true})), &["`recaption.pooler` = true"]);
        expect_error(
            &coca(json!({"multimodal_input": "raw"})),
            &["`recaption.multimodal_input` = \"raw\"", "\"unimodal\", \"embeddings\""],
        );
        expect_error(&coca(json!("cascade")), &["`recaption` must be an object"]);
    }

    #[test]
    fn extensions_need_a_pooler_and_a_decoder() {
        for kind in ["parallel", "cascade"] {
            let mut config = coca(json!({"pooler": kind}));
            config["model_cfg"]["vision_cfg"]["attentional_pool"] = false.into();
            expect_error(&config, &[kind, "vision_cfg.attentional_pool"]);
            // Here a single query yields a caption token; in the released pooler it would be the embedding.
            let mut config = coca(json!({"pooler": kind}));
            config["model_cfg"]["vision_cfg"]["attn_pooler_queries"] = 1.into();
            assert_eq!(parsed(&config).expect("valid").image_tokens(), 1);
        }
        let mut clip = coca(json!({}));
        let model = clip["model_cfg"].as_object_mut().expect("an object");
        model.remove("multimodal_cfg");
        model["vision_cfg"]["attentional_pool"] = false.into();
        model["text_cfg"]["embed_cls"] = false.into();
        expect_error(&clip, &["`recaption` applies to a CoCa"]);
    }
}
