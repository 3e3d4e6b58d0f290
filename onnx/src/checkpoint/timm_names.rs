//! Names of tensors in timm's ViTs, below `visual.trunk.`, and open_clip's names of the same, which the exporter reads.
//!
//! Where open_clip's ViT has no such tensor, the names are its style: `visual.attn_pool.query` is the pooling's query, and its query, key
//! and value projections are packed as in `nn.MultiheadAttention`.

use super::tensors::{Place, TensorReader};
use crate::checkpoint::error::CheckpointError;

/// Prefix of all of them.
const TRUNK: &str = "visual.trunk.";
/// Tensors outside the blocks, without `.weight` and `.bias`: timm's name, open_clip's, the part of it, and leading dimensions of 1.
const OUTER: [(&str, &str, usize, usize); 14] = [
    ("patch_embed.proj", "conv1", 0, 0),
    ("pos_embed", "positional_embedding", 0, 1),
    ("cls_token", "class_embedding", 0, 2),
    ("norm_pre", "ln_pre", 0, 0),
    ("norm", "ln_post", 0, 0),
    // EVA's, whose norm comes after the class token is taken.
    ("fc_norm", "ln_post", 0, 0),
    ("head", "proj", 0, 0),
    ("attn_pool.latent", "attn_pool.query", 0, 1),
    ("attn_pool.q", "attn_pool.attn.in_proj", 0, 0),
    ("attn_pool.kv", "attn_pool.attn.in_proj", 1, 0),
    ("attn_pool.proj", "attn_pool.attn.out_proj", 0, 0),
    ("attn_pool.norm", "attn_pool.ln_2", 0, 0),
    ("attn_pool.mlp.fc1", "attn_pool.mlp.c_fc", 0, 0),
    ("attn_pool.mlp.fc2", "attn_pool.mlp.c_proj", 0, 0),
];
/// Parts of a block, without `.weight` and `.bias`: timm's name, open_clip's, the part of it.
const BLOCK: [(&str, &str, usize); 13] = [
    ("norm1", "ln_1", 0),
    ("attn.qkv", "attn.in_proj", 0),
    ("attn.q_proj", "attn.in_proj", 0),
    ("attn.k_proj", "attn.in_proj", 1),
    ("attn.v_proj", "attn.in_proj", 2),
    ("attn.norm", "attn.ln_inner", 0),
    ("attn.proj", "attn.out_proj", 0),
    ("norm2", "ln_2", 0),
    ("mlp.fc1_g", "mlp.c_gate", 0),
    ("mlp.fc1_x", "mlp.c_fc", 0),
    ("mlp.fc1", "mlp.c_fc", 0),
    ("mlp.norm", "mlp.ln_inner", 0),
    ("mlp.fc2", "mlp.c_proj", 0),
];
/// Biases of an EVA's block, which has none of the keys: timm's name and this crate's.
const EVA_BIASES: [(&str, &str); 4] = [
    ("attn.q_bias", "attn.q_bias"),
    ("attn.v_bias", "attn.v_bias"),
    ("attn.q_proj.bias", "attn.q_bias"),
    ("attn.v_proj.bias", "attn.v_bias"),
];

/// Gives the tensors of timm's tower open_clip's names.
///
/// # Errors
/// When projections of the pooling do not fit each other.
pub(super) fn as_in_open_clip(tensors: TensorReader) -> Result<TensorReader, CheckpointError> {
    tensors.rearranged(place)
}

/// Returns the place of a tensor, `None` for one that is not timm's, or unknown.
fn place(name: &str) -> Option<Place> {
    if let Some(kind) = name.strip_prefix("visual.head.proj.") {
        return Some(Place::of(format!("visual.proj.{kind}")));
    }
    let name = name.strip_prefix(TRUNK)?;
    if let Some((layer, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        let block = format!("visual.transformer.resblocks.{layer}");
        if let Some((_, own)) = EVA_BIASES.iter().find(|(theirs, _)| *theirs == rest) {
            return Some(Place::of(format!("{block}.{own}")));
        }
        let (stem, kind) = rest.rsplit_once('.')?;
        let (_, own, part) = BLOCK.iter().find(|(theirs, ..)| *theirs == stem)?;
        return Some(Place { part: *part, ..Place::of(format!("{block}.{}", with_kind(own, kind))) });
    }
    let (stem, kind) = match name.rsplit_once('.') {
        Some((stem, kind @ ("weight" | "bias"))) => (stem, Some(kind)),
        _ => (name, None),
    };
    let (_, own, part, leading_ones) = OUTER.iter().find(|(theirs, ..)| *theirs == stem)?;
    let own = kind.map_or_else(|| (*own).to_owned(), |kind| with_kind(own, kind));
    Some(Place { name: format!("visual.{own}"), part: *part, leading_ones: *leading_ones })
}

/// Returns the name of a weight or bias: `nn.MultiheadAttention`'s packed ones have no dot before it.
pub(super) fn with_kind(stem: &str, kind: &str) -> String {
    let separator = if stem.ends_with("in_proj") { '_' } else { '.' };
    format!("{stem}{separator}{kind}")
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn names_of_timm_become_open_clips() {
        let cases = [
            ("visual.trunk.pos_embed", Some(("visual.positional_embedding", 0, 1))),
            ("visual.trunk.patch_embed.proj.bias", Some(("visual.conv1.bias", 0, 0))),
            (
                "visual.trunk.blocks.11.attn.qkv.weight",
                Some(("visual.transformer.resblocks.11.attn.in_proj_weight", 0, 0)),
            ),
            (
                "visual.trunk.blocks.0.mlp.fc2.bias",
                Some(("visual.transformer.resblocks.0.mlp.c_proj.bias", 0, 0)),
            ),
            (
                "visual.trunk.blocks.2.attn.v_proj.weight",
                Some(("visual.transformer.resblocks.2.attn.in_proj_weight", 2, 0)),
            ),
            (
                "visual.trunk.blocks.2.attn.v_proj.bias",
                Some(("visual.transformer.resblocks.2.attn.v_bias", 0, 0)),
            ),
            ("visual.trunk.blocks.2.attn.q_bias", Some(("visual.transformer.resblocks.2.attn.q_bias", 0, 0))),
            (
                "visual.trunk.blocks.2.mlp.fc1_g.bias",
                Some(("visual.transformer.resblocks.2.mlp.c_gate.bias", 0, 0)),
            ),
            ("visual.trunk.fc_norm.weight", Some(("visual.ln_post.weight", 0, 0))),
            ("visual.trunk.attn_pool.kv.bias", Some(("visual.attn_pool.attn.in_proj_bias", 1, 0))),
            ("visual.trunk.attn_pool.norm.weight", Some(("visual.attn_pool.ln_2.weight", 0, 0))),
            ("visual.head.proj.weight", Some(("visual.proj.weight", 0, 0))),
            ("visual.trunk.head.bias", Some(("visual.proj.bias", 0, 0))),
            ("visual.trunk.blocks.0.attn.q_norm.weight", None),
            ("visual.trunk.blocks.0.ls1.gamma", None),
            ("text.ln_final.bias", None),
            ("logit_bias", None),
        ];
        for (name, want) in cases {
            let got = place(name);
            let got = got.as_ref().map(|p| (p.name.as_str(), p.part, p.leading_ones));
            assert_eq!(got, want, "{name}");
        }
    }
}
