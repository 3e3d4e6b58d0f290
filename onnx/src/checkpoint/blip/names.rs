//! Names of tensors: the authors' (github.com/salesforce/BLIP), which differ from transformers' in the image encoder alone, and
//! transformers', which the exporter reads.
//!
//! A checkpoint of the authors' pre-training holds a captioner and a model that scores, momentum copies and queues. What the
//! configured one does not have is left out.

use super::config::BlipTask;
use crate::checkpoint::tensors::TensorReader;

/// A tensor that every checkpoint with the authors' names has.
const MARK: &str = "visual_encoder.cls_token";
/// What training with several processes may put before every name.
const PARALLEL: &str = "module.";
/// Prefix of a captioner's tensors that both name alike.
const CAPTIONS: &[&str] = &["text_decoder."];
/// Prefixes of those of a model that scores.
const RETRIEVAL: &[&str] = &["text_encoder.", "vision_proj.", "text_proj.", "itm_head."];
/// The image encoder's tensors outside its layers: the authors' name and transformers'.
const OUTER: [(&str, &str); 6] = [
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual_encoder.patch_embed.proj.bias", "vision_model.embeddings.patch_embedding.bias"),
    ("visual_encoder.norm.weight", "vision_model.post_layernorm.weight"),
    ("visual_encoder.norm.bias", "vision_model.post_layernorm.bias"),
];
/// Parts of a layer.
const PARTS: [(&str, &str); 6] = [
    ("norm1", "layer_norm1"),
    ("attn.qkv", "self_attn.qkv"),
    ("attn.proj", "self_attn.projection"),
    ("norm2", "layer_norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
];

/// Gives the tensors transformers' names, if they have the authors'.
pub(super) fn as_in_transformers(tensors: TensorReader, task: BlipTask) -> TensorReader {
    let is_parallel = tensors.contains(&format!("{PARALLEL}{MARK}"));
    if !is_parallel && !tensors.contains(MARK) {
        return tensors;
    }
    tensors.renamed(|name| {
        renamed(if is_parallel { name.strip_prefix(PARALLEL).unwrap_or(name) } else { name }, task)
    })
}

/// Returns transformers' name of a tensor with the authors' name; `None` of one that the model does not have.
fn renamed(name: &str, task: BlipTask) -> Option<String> {
    let alike = match task {
        BlipTask::Captions => CAPTIONS,
        BlipTask::Retrieval { .. } => RETRIEVAL,
    };
    if alike.iter().any(|prefix| name.starts_with(prefix)) {
        return Some(name.to_owned());
    }
    if let Some((_, theirs)) = OUTER.iter().find(|(own, _)| *own == name) {
        return Some((*theirs).to_owned());
    }
    let (layer, rest) = name.strip_prefix("visual_encoder.blocks.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let known = PARTS.iter().find(|(own, _)| *own == part).map(|(_, theirs)| *theirs);
    // An unknown part keeps its name, so that the export names it.
    Some(match known {
        Some(theirs) => format!("vision_model.encoder.layers.{layer}.{theirs}.{kind}"),
        None => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{BlipTask, renamed};

    #[test]
    fn names_of_the_authors_become_transformers() {
        let cases = [
            ("visual_encoder.cls_token", Some("vision_model.embeddings.class_embedding")),
            ("visual_encoder.norm.bias", Some("vision_model.post_layernorm.bias")),
            (
                "visual_encoder.blocks.11.attn.qkv.weight",
                Some("vision_model.encoder.layers.11.self_attn.qkv.weight"),
            ),
            ("visual_encoder.blocks.0.norm2.bias", Some("vision_model.encoder.layers.0.layer_norm2.bias")),
            ("visual_encoder.blocks.0.gate.bias", Some("visual_encoder.blocks.0.gate.bias")),
            // No substring of a text's name is replaced.
            (
                "text_decoder.bert.encoder.layer.0.attention.self.query.bias",
                Some("text_decoder.bert.encoder.layer.0.attention.self.query.bias"),
            ),
            ("visual_encoder_m.cls_token", None),
            ("text_encoder.embeddings.LayerNorm.weight", None),
            ("image_queue", None),
            ("temp", None),
        ];
        for (name, want) in cases {
            assert_eq!(renamed(name, BlipTask::Captions).as_deref(), want, "{name}");
        }
        let scores = |name: &str| renamed(name, BlipTask::Retrieval { embed_dim: 8 });
        for name in ["text_encoder.embeddings.LayerNorm.weight", "itm_head.bias", "vision_proj.weight"] {
            assert_eq!(scores(name).as_deref(), Some(name));
        }
        assert_eq!(scores("text_decoder.cls.predictions.bias"), None);
        assert_eq!(scores("text_encoder_m.embeddings.LayerNorm.weight"), None);
        assert_eq!(scores("vision_proj_m.weight"), None);
    }
}
