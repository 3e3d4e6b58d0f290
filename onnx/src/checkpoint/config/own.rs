//! The object `recaption` beside `model_cfg`: what a CoCa may be and open_clip has no option for.
//!
//! Poolers of two kinds are of the CoCa paper (Yu et al. 2022); reading embeddings is what some secondary texts make of its
//! decoder. A checkpoint without the object is what open_clip makes of the same `model_cfg`. open_clip's own strings for
//! `attentional_pool` mean another model (it normalises before pooling) and stay refused.

use serde_json::{Map, Value};

use super::{Parsed, VisionConfig};

/// Name of the object.
pub(super) const SECTION: &str = "recaption";
/// Key that names the pooler.
const POOLER: &str = "pooler";
/// Key that names what the decoder reads.
const INPUT: &str = "multimodal_input";

/// How the image's tokens become the caption tokens and the image embedding. All attend with LayerNorms of queries and
/// keys; `E` is the shared width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolerKind {
    /// One pooler, as in the released weights: its first query is the embedding, the others are caption tokens.
    #[default]
    Released,
    /// All of `attn_pool`'s queries are caption tokens. `attn_pool_contrastive`, of one query, attends to the same tokens of
    /// the image tower.
    Parallel,
    /// As [`PoolerKind::Parallel`], but `attn_pool_contrastive` attends to `attn_pool`'s output `[queries, E]`, before any
    /// `ln_post`.
    Cascade,
}

/// What the multimodal decoder reads of a text, `[T, W]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MultimodalInput {
    /// The text tower's output tokens, not normalised: the paper's and every released checkpoint's.
    #[default]
    Unimodal,
    /// Token plus position embeddings, as the text tower reads them itself.
    Embeddings,
}

const POOLERS: [(&str, PoolerKind); 3] = [
    ("released", PoolerKind::Released),
    ("parallel", PoolerKind::Parallel),
    ("cascade", PoolerKind::Cascade),
];
const INPUTS: [(&str, MultimodalInput); 2] =
    [("unimodal", MultimodalInput::Unimodal), ("embeddings", MultimodalInput::Embeddings)];

impl PoolerKind {
    /// As `recaption.pooler` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        name_of(&POOLERS, self)
    }
}

impl MultimodalInput {
    /// As `recaption.multimodal_input` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        name_of(&INPUTS, self)
    }
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], wanted: T) -> &'static str {
    names.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
}

/// The object, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub pooler: PoolerKind,
    pub input: MultimodalInput,
}

/// Reads the object of `root`, which may lack it.
pub(super) fn parse(root: &Map<String, Value>, has_decoder: bool) -> Parsed<Own> {
    let map = match root.get(SECTION) {
        None | Some(Value::Null) => return Ok(Own::default()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(format!("`{SECTION}` must be an object with `{POOLER}` and `{INPUT}`, is {other}"));
        }
    };
    if !has_decoder {
        return Err(format!("`{SECTION}` is for a CoCa, and this model has no `model_cfg.multimodal_cfg`"));
    }
    if let Some((key, value)) = map.iter().find(|(key, _)| ![POOLER, INPUT].contains(&key.as_str())) {
        return Err(format!(
            "unknown key `{SECTION}.{key}` = {value}; `{SECTION}` may have `{POOLER}` and `{INPUT}`"
        ));
    }
    Ok(Own { pooler: choice(map, POOLER, &POOLERS)?, input: choice(map, INPUT, &INPUTS)? })
}

/// The value of a key, or the default where it is missing or null.
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

impl Own {
    /// Makes the image tower's pooler the one that was named.
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

    fn coca(own: Value) -> Value {
        json!({
            "model_cfg": {
                "embed_dim": 64,
                "vision_cfg": {"width": 96, "head_width": 32, "layers": 2, "image_size": 48, "patch_size": 8,
                    "attentional_pool": true, "attn_pooler_queries": 5},
                "text_cfg": {"width": 64, "heads": 4, "layers": 2, "context_length": 16, "vocab_size": 200, "embed_cls": true},
                "multimodal_cfg": {"width": 64, "heads": 2, "layers": 3, "context_length": 16}
            },
            "recaption": own
        })
    }

    fn parsed(config: &Value) -> Parsed<ModelConfig> {
        ModelConfig::parse(&config.to_string())
    }

    fn refused(config: &Value, want: &[&str]) {
        let message = parsed(config).expect_err("must be refused");
        want.iter().for_each(|part| assert!(message.contains(part), "{part:?} is not in: {message}"));
    }

    #[test]
    fn names_are_read() {
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
    fn nothing_said_is_what_open_clip_makes() {
        let mut without = coca(json!({}));
        without.as_object_mut().expect("an object").remove(SECTION);
        let plain = parsed(&without).expect("valid");
        let nulls = json!({"pooler": null, "multimodal_input": null});
        for own in
            [json!({}), Value::Null, nulls, json!({"pooler": "released", "multimodal_input": "unimodal"})]
        {
            assert_eq!(parsed(&coca(own)), Ok(plain));
        }
    }

    #[test]
    fn other_keys_and_values_are_told_what_is_allowed() {
        refused(
            &coca(json!({"poolers": "cascade"})),
            &["`recaption.poolers` = \"cascade\"", "`pooler`", "`multimodal_input`"],
        );
        refused(
            &coca(json!({"pooler": "Cascade"})),
            &["`recaption.pooler` = \"Cascade\"", "\"released\", \"parallel\", \"cascade\""],
        );
        refused(&coca(json!({"pooler": true})), &["`recaption.pooler` = true"]);
        refused(
            &coca(json!({"multimodal_input": "raw"})),
            &["`recaption.multimodal_input` = \"raw\"", "\"unimodal\", \"embeddings\""],
        );
        refused(&coca(json!("cascade")), &["`recaption` must be an object"]);
    }

    #[test]
    fn a_pooler_is_needed_and_a_decoder() {
        for kind in ["parallel", "cascade"] {
            let mut config = coca(json!({"pooler": kind}));
            config["model_cfg"]["vision_cfg"]["attentional_pool"] = false.into();
            refused(&config, &[kind, "vision_cfg.attentional_pool"]);
            // One query is a caption token here, and nothing but an embedding in the released pooler.
            let mut config = coca(json!({"pooler": kind}));
            config["model_cfg"]["vision_cfg"]["attn_pooler_queries"] = 1.into();
            assert_eq!(parsed(&config).expect("valid").image_tokens(), 1);
        }
        let mut clip = coca(json!({}));
        let model = clip["model_cfg"].as_object_mut().expect("an object");
        model.remove("multimodal_cfg");
        model["vision_cfg"]["attentional_pool"] = false.into();
        model["text_cfg"]["embed_cls"] = false.into();
        refused(&clip, &["`recaption` is for a CoCa"]);
    }
}
