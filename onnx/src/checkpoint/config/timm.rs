//! Image towers that open_clip takes from timm (`vision_cfg.timm_model_name`): of these the ViTs in [`TimmVit`]. The tensors get
//! open_clip's names when a file is opened, see `timm_names`.

use serde_json::{Map, Value};

use super::{
    section::{Parsed, Section},
    timm_vits::TimmVit,
    towers::custom_block_defaults,
    types::{EmbeddingProjection, VisionConfig},
};

/// Keys that act in training, or in open_clip's own ViT, only.
const SKIP: &[&str] = &[
    "patch_dropout",
    "output_tokens",
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
    "layers",
    "width",
    "head_width",
    "mlp_ratio",
    "patch_size",
    "ls_init_value",
    "attentional_pool",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "no_ln_pre",
    "pos_embed_type",
    "final_ln_after_pool",
    "pool_type",
    "act_kwargs",
    "norm_kwargs",
];

/// Families of names and why they are not supported; the first that a name begins with counts.
const REFUSED: [(&str, &str); 11] = [
    ("naflexvit_", "a NaFlex tower, which takes images of any shape; graphs here take squares of one size"),
    ("eva", "an EVA that is no image tower of a CLIP"),
    ("vit_pe_", "a Perception Encoder that is no image tower of a CLIP"),
    ("vit_relpos_", "a ViT with relative positions"),
    ("vit_base_mci_", "MobileCLIP's ViT, with a convolutional stem"),
    ("vit_", "a ViT that is neither SigLIP's, CLIP's nor a Perception Encoder"),
    ("fastvit_", "FastViT, a convolutional network"),
    ("convnext_", "ConvNeXt, a convolutional network"),
    ("vitamin_", "ViTamin, with convolutional stages"),
    ("swin_", "a Swin transformer, with windows"),
    ("", "none of the networks that are built here"),
];

/// Parses a `vision_cfg` with `timm_model_name`.
pub(super) fn parse_timm(s: Section<'_>, has_decoder: bool, embed_dim: usize) -> Parsed<VisionConfig> {
    let name = s.get("timm_model_name").cloned().unwrap_or_default();
    if has_decoder {
        return Err(s.unsupported("timm_model_name", &name, "none (a CoCa has open_clip's own ViT)"));
    }
    let text = name.as_str().unwrap_or_default();
    let Some(vit) = TimmVit::of_name(text) else {
        let reason = REFUSED.iter().find(|(prefix, _)| text.starts_with(prefix)).map_or("", |(_, why)| why);
        return Err(format!("`vision_cfg.timm_model_name` = {name} is not supported: {reason}"));
    };
    let empty = Map::new();
    let options = match s.get("timm_model_kwargs") {
        Some(Value::Object(map)) => Section::new("vision_cfg.timm_model_kwargs", map),
        Some(v) => return Err(s.unsupported("timm_model_kwargs", v, "an object")),
        None => Section::new("vision_cfg.timm_model_kwargs", &empty),
    };
    let vit = vit.with_options(&options)?;
    options.finish()?;
    s.skip(SKIP);
    s.require(&custom_block_defaults())?;
    s.require(&[("image_seq_len", vec![Value::Null])])?;
    let pool = vit.pool();
    match s.get("timm_pool") {
        Some(v) if v.as_str() == Some(pool) => {}
        v => {
            let v = v.cloned().unwrap_or_else(|| "avg".into());
            return Err(s.unsupported("timm_pool", &v, &format!("\"{pool}\" with this tower")));
        }
    }
    let size = s.square("image_size", 224)?;
    if size != vit.image_size {
        return Err(format!(
            "`vision_cfg.image_size` is {size}, but timm's {text} takes {} pixels",
            vit.image_size
        ));
    }
    let config = vit.config(projection(&s, (vit.width, embed_dim))?)?;
    s.finish()?;
    Ok(config)
}

/// Parses `timm_proj` for a tower of width `width`: null is timm's classifier, which has a bias.
fn projection(s: &Section<'_>, (width, embed_dim): (usize, usize)) -> Parsed<EmbeddingProjection> {
    let has_bias = s.flag("timm_proj_bias", false)?;
    s.skip(&["timm_proj"]);
    match s.map.get("timm_proj").map(|v| (v, v.as_str())) {
        Some((Value::Null, _) | (_, Some(""))) => Ok(EmbeddingProjection::Linear { bias: true }),
        Some((_, Some("linear"))) | None => Ok(EmbeddingProjection::Linear { bias: has_bias }),
        Some((_, Some("none"))) if width == embed_dim => Ok(EmbeddingProjection::None),
        Some((_, Some("none"))) => Err(format!(
            "`embed_dim` is {embed_dim}, but the image tower is {width} wide and `vision_cfg.timm_proj` is none"
        )),
        Some((v, _)) => Err(s.unsupported("timm_proj", v, "none, linear or null")),
    }
}
