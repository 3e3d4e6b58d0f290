//! Names of a SigLIP's tensors in transformers, and open_clip's names of the same, which the exporter reads.

use crate::checkpoint::{
    error::CheckpointError,
    tensors::{Place, TensorReader},
    timm_names::with_kind,
};

/// Tensors outside the layers, without `.weight` and `.bias`: transformers' name and open_clip's.
const OUTER: [(&str, &str); 10] = [
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("vision_model.head.attention.in_proj", "visual.attn_pool.attn.in_proj"),
    ("vision_model.head.attention.out_proj", "visual.attn_pool.attn.out_proj"),
    ("vision_model.head.layernorm", "visual.attn_pool.ln_2"),
    ("vision_model.head.mlp.fc1", "visual.attn_pool.mlp.c_fc"),
    ("vision_model.head.mlp.fc2", "visual.attn_pool.mlp.c_proj"),
    ("text_model.embeddings.token_embedding", "text.token_embedding"),
    ("text_model.final_layer_norm", "text.ln_final"),
    ("text_model.head", "text.text_projection"),
];
/// Parts of a layer: transformers' name, open_clip's, and the part of it.
const LAYER: [(&str, &str, usize); 8] = [
    ("layer_norm1", "ln_1", 0),
    ("self_attn.q_proj", "attn.in_proj", 0),
    ("self_attn.k_proj", "attn.in_proj", 1),
    ("self_attn.v_proj", "attn.in_proj", 2),
    ("self_attn.out_proj", "attn.out_proj", 0),
    ("layer_norm2", "ln_2", 0),
    ("mlp.fc1", "mlp.c_fc", 0),
    ("mlp.fc2", "mlp.c_proj", 0),
];

/// Gives the tensors open_clip's names.
///
/// # Errors
/// When projections of an attention do not fit each other.
pub(super) fn as_in_open_clip(tensors: TensorReader) -> Result<TensorReader, CheckpointError> {
    tensors.rearranged(place)
}

/// Returns the place of a tensor, `None` for an unknown one.
fn place(name: &str) -> Option<Place> {
    match name {
        "vision_model.head.probe" => {
            return Some(Place { leading_ones: 1, ..Place::of("visual.attn_pool.query") });
        }
        "logit_scale" | "logit_bias" => return Some(Place { leading_ones: 1, ..Place::of(name) }),
        "vision_model.embeddings.position_embedding.weight" => {
            return Some(Place::of("visual.positional_embedding"));
        }
        "text_model.embeddings.position_embedding.weight" => {
            return Some(Place::of("text.positional_embedding"));
        }
        _ => {}
    }
    for (theirs, own) in [("vision_model", "visual"), ("text_model", "text")] {
        let rest = name.strip_prefix(theirs).and_then(|rest| rest.strip_prefix(".encoder.layers."));
        let Some((layer, rest)) = rest.and_then(|rest| rest.split_once('.')) else { continue };
        let (stem, kind) = rest.rsplit_once('.')?;
        let (_, part_name, part) = LAYER.iter().find(|(theirs, ..)| *theirs == stem)?;
        let name = format!("{own}.transformer.resblocks.{layer}.{}", with_kind(part_name, kind));
        return Some(Place { part: *part, ..Place::of(name) });
    }
    // nn.MultiheadAttention's packed weights have no dot before their kind.
    let name = name.replace("in_proj_", "in_proj.");
    let (stem, kind) = name.rsplit_once('.')?;
    let (_, own) = OUTER.iter().find(|(theirs, _)| *theirs == stem)?;
    Some(Place::of(with_kind(own, kind)))
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn names_of_transformers_become_open_clips() {
        let cases = [
            ("vision_model.head.probe", Some(("visual.attn_pool.query", 0, 1))),
            ("vision_model.head.attention.in_proj_bias", Some(("visual.attn_pool.attn.in_proj_bias", 0, 0))),
            (
                "vision_model.encoder.layers.3.self_attn.v_proj.weight",
                Some(("visual.transformer.resblocks.3.attn.in_proj_weight", 2, 0)),
            ),
            (
                "text_model.encoder.layers.10.mlp.fc1.bias",
                Some(("text.transformer.resblocks.10.mlp.c_fc.bias", 0, 0)),
            ),
            ("text_model.head.weight", Some(("text.text_projection.weight", 0, 0))),
            ("text_model.embeddings.position_embedding.weight", Some(("text.positional_embedding", 0, 0))),
            ("text_model.encoder.layers.0.self_attn.q_norm.weight", None),
            ("logit_scale", Some(("logit_scale", 0, 1))),
            ("logit_shift", None),
        ];
        for (name, want) in cases {
            let got = place(name);
            let got = got.as_ref().map(|p| (p.name.as_str(), p.part, p.leading_ones));
            assert_eq!(got, want, "{name}");
        }
    }
}
