//! Image towers that open_clip takes from timm (`vision_cfg.timm_model_name`): of these the ViTs of SigLIP and of CLIP.
//!
//! Their sizes follow from their names, as in timm 1.0.31 (`timm/models/vision_transformer.py`), and from open_clip 4's
//! `timm_model_kwargs`. The tensors get open_clip's names when a file is opened, see `timm_names`.

use serde_json::{Map, Value};

use super::{
    section::{Parsed, Section},
    towers::custom_block_defaults,
    types::{Activation, EmbeddingProjection, ImagePooling, VisionConfig},
};

/// Epsilon of LayerNorm in timm's ViTs.
const EPSILON: f32 = 1e-6;
/// Epsilon of LayerNorm in timm's ViTs of CLIP.
const CLIP_EPSILON: f32 = 1e-5;

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
const REFUSED: [(&str, &str); 13] = [
    ("naflexvit_", "a NaFlex tower, which takes images of any shape; graphs here take squares of one size"),
    ("eva02_enormous_", "EVA-02's largest ViT, with LayerNorm after each part of a block"),
    ("eva02_", "EVA-02's ViT, with rotary positions, SwiGLU and LayerNorms inside its blocks"),
    ("eva_", "EVA's ViT, whose attention has no bias of the keys"),
    ("vit_pe_", "a Perception Encoder, with rotary positions"),
    ("vit_relpos_", "a ViT with relative positions"),
    ("vit_base_mci_", "MobileCLIP's ViT, with a convolutional stem"),
    ("vit_", "a ViT that is neither SigLIP's nor CLIP's"),
    ("fastvit_", "FastViT, a convolutional network"),
    ("convnext_", "ConvNeXt, a convolutional network"),
    ("vitamin_", "ViTamin, with convolutional stages"),
    ("swin_", "a Swin transformer, with windows"),
    ("", "none of the networks that are built here"),
];

/// A ViT that is built here.
struct TimmVit {
    is_siglip: bool,
    image_size: usize,
    patch_size: usize,
    width: usize,
    layers: usize,
    heads: usize,
    mlp_ratio: f64,
    activation: Activation,
}

impl TimmVit {
    /// Returns the ViT of a name `vit_SIZE_patchP_siglip_S` or `vit_SIZE_patchP_clip_S`.
    fn of_name(name: &str) -> Option<Self> {
        let (size, rest) = name.strip_prefix("vit_")?.split_once("_patch")?;
        let (patch, rest) = rest.split_once('_')?;
        let (kind, image) = rest.rsplit_once('_')?;
        let (patch_size, image_size) = (patch.parse().ok()?, image.parse().ok()?);
        let is_siglip = match kind {
            "siglip" => true,
            "clip" => false,
            _ => return None,
        };
        let (width, layers, heads, mlp_ratio) = match (size, is_siglip) {
            ("base", _) => (768, 12, 12, 4.0),
            ("large", _) => (1024, 24, 16, 4.0),
            ("so400m", true) => (1152, 27, 16, 3.7362),
            ("giantopt", true) => (1536, 40, 16, 4.0),
            ("huge", false) => (1280, 32, 16, 4.0),
            _ => return None,
        };
        let is_tanh =
            matches!((size, patch_size), ("base", 32) | ("so400m", 16) | ("giantopt", _)) && is_siglip;
        let activation = if is_tanh { Activation::GeluTanh } else { Activation::Gelu };
        Some(Self { is_siglip, image_size, patch_size, width, layers, heads, mlp_ratio, activation })
    }

    /// Applies `timm_model_kwargs`.
    fn with_options(mut self, s: &Section<'_>) -> Parsed<Self> {
        self.image_size = s.square("img_size", self.image_size)?;
        self.patch_size = s.square("patch_size", self.patch_size)?;
        self.width = s.size("embed_dim", Some(self.width))?;
        self.layers = s.size("depth", Some(self.layers))?;
        self.heads = s.size("num_heads", Some(self.heads))?;
        self.mlp_ratio = s.number("mlp_ratio", self.mlp_ratio)?;
        self.activation = match s.get("act_layer").map(|v| (v, v.as_str())) {
            None => self.activation,
            Some((_, Some("gelu"))) => Activation::Gelu,
            Some((_, Some("gelu_tanh"))) => Activation::GeluTanh,
            Some((v, _)) => return Err(s.unsupported("act_layer", v, "gelu or gelu_tanh")),
        };
        Ok(self)
    }

    /// Returns the width of the MLP: timm's `int(width * mlp_ratio)`.
    fn mlp_width(&self) -> Parsed<usize> {
        let scaled = (self.width as f64 * self.mlp_ratio) as usize;
        if scaled > 0 && self.mlp_ratio < 1e3 {
            return Ok(scaled);
        }
        Err(format!("`vision_cfg.timm_model_kwargs.mlp_ratio` = {} is not supported", self.mlp_ratio))
    }
}

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
    let pool = if vit.is_siglip { "map" } else { "token" };
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
    let config = VisionConfig {
        image_size: size,
        patch_size: vit.patch_size,
        width: vit.width,
        layers: vit.layers,
        heads: vit.heads,
        mlp_width: vit.mlp_width()?,
        pooler: None,
        ln_pre: !vit.is_siglip,
        layer_scale: None,
        pooling: if vit.is_siglip { ImagePooling::Attention } else { ImagePooling::ClassToken },
        projection: projection(&s, (vit.width, embed_dim))?,
        activation: vit.activation,
        epsilon: if vit.is_siglip { EPSILON } else { CLIP_EPSILON },
        is_timm: true,
    };
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
