//! timm's ViTs that are built here: of SigLIP, of CLIP, EVA's and Perception Encoders.
//!
//! Their sizes follow from their names, as in timm 1.0.31 (`timm/models/vision_transformer.py`, `timm/models/eva.py`), and from
//! open_clip 4's `timm_model_kwargs`.

use super::{
    section::{Parsed, Section},
    types::{Activation, EmbeddingProjection, ImageBlocks, ImagePooling, RotaryPositions, VisionConfig},
};

/// Epsilon of LayerNorm in timm's ViTs.
const EPSILON: f32 = 1e-6;
/// Epsilon of LayerNorm in its ViTs of CLIP and in Perception Encoders.
const CLIP_EPSILON: f32 = 1e-5;
/// Heads of the pooling of a Perception Encoder (`attn_pool_num_heads`).
const PERCEPTION_POOL_HEADS: usize = 8;
/// Ratio of the pooling's MLP to its width (`attn_pool_mlp_ratio`), and of most towers' MLPs.
const MLP_RATIO: f64 = 4.0;
/// Ratio of a SwiGLU's width, which has a third matrix.
const SWIGLU_RATIO: f64 = MLP_RATIO * 2.0 / 3.0;
/// Patches per side of the grid that the positions of an EVA-02 are scaled to.
const EVA02_GRID: usize = 16;

/// What a tower is, beside its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Siglip,
    Clip,
    /// EVA, without rotary positions.
    Eva,
    /// EVA-02's largest, whose norms come after attention and MLP.
    EvaPostNorm,
    /// EVA-02 of other sizes.
    Eva02,
    Perception,
}

/// A ViT of timm's.
pub(super) struct TimmVit {
    family: Family,
    pub(super) image_size: usize,
    patch_size: usize,
    pub(super) width: usize,
    layers: usize,
    heads: usize,
    mlp_ratio: f64,
    activation: Activation,
    has_class_token: bool,
    rotary: Option<RotaryPositions>,
}

impl TimmVit {
    /// Returns the ViT of a name such as `vit_SIZE_patchP_siglip_S`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once("_patch")?;
        let (patch, rest) = rest.split_once('_')?;
        let (suffix, image) = rest.rsplit_once('_').unwrap_or(("", rest));
        let (patch_size, image_size) = (patch.parse().ok()?, image.parse().ok()?);
        let (family, (width, layers, heads, mlp_ratio)) = match (kind, suffix) {
            ("eva_giant", "") => (Family::Eva, (1408, 40, 16, 6144.0 / 1408.0)),
            ("eva02_base", "clip") => (Family::Eva02, (768, 12, 12, SWIGLU_RATIO)),
            ("eva02_large", "clip") => (Family::Eva02, (1024, 24, 16, SWIGLU_RATIO)),
            ("eva02_enormous", "clip") => (Family::EvaPostNorm, (1792, 64, 16, 15360.0 / 1792.0)),
            ("vit_pe_core_tiny", "") => (Family::Perception, (192, 12, 3, MLP_RATIO)),
            ("vit_pe_core_small", "") => (Family::Perception, (384, 12, 6, MLP_RATIO)),
            ("vit_pe_core_base", "") => (Family::Perception, (768, 12, 12, MLP_RATIO)),
            ("vit_pe_core_large", "") => (Family::Perception, (1024, 24, 16, MLP_RATIO)),
            ("vit_pe_core_gigantic", "") => (Family::Perception, (1536, 50, 16, 8960.0 / 1536.0)),
            ("vit_base", "siglip") => (Family::Siglip, (768, 12, 12, MLP_RATIO)),
            ("vit_large", "siglip") => (Family::Siglip, (1024, 24, 16, MLP_RATIO)),
            ("vit_so400m", "siglip") => (Family::Siglip, (1152, 27, 16, 3.7362)),
            ("vit_giantopt", "siglip") => (Family::Siglip, (1536, 40, 16, MLP_RATIO)),
            ("vit_base", "clip") => (Family::Clip, (768, 12, 12, MLP_RATIO)),
            ("vit_large", "clip") => (Family::Clip, (1024, 24, 16, MLP_RATIO)),
            ("vit_huge", "clip") => (Family::Clip, (1280, 32, 16, MLP_RATIO)),
            _ => return None,
        };
        let is_tanh = family == Family::Siglip
            && matches!((kind, patch_size), ("vit_base", 32) | ("vit_so400m", 16) | ("vit_giantopt", _));
        let has_class_token = family != Family::Siglip && kind != "vit_pe_core_gigantic";
        let rotary = match family {
            Family::Eva02 => Some(RotaryPositions { grid: EVA02_GRID, offset: 0.0, is_column_first: false }),
            Family::Perception => Some(RotaryPositions {
                grid: image_size / patch_size,
                offset: if has_class_token { 1.0 } else { 0.0 },
                is_column_first: true,
            }),
            _ => None,
        };
        let activation = if is_tanh { Activation::GeluTanh } else { Activation::Gelu };
        Some(Self {
            family,
            image_size,
            patch_size,
            width,
            layers,
            heads,
            mlp_ratio,
            activation,
            has_class_token,
            rotary,
        })
    }

    /// Applies `timm_model_kwargs`.
    pub(super) fn with_options(mut self, s: &Section<'_>) -> Parsed<Self> {
        self.image_size = s.square("img_size", self.image_size)?;
        self.patch_size = s.square("patch_size", self.patch_size)?;
        self.width = s.size("embed_dim", Some(self.width))?;
        self.layers = s.size("depth", Some(self.layers))?;
        self.heads = s.size("num_heads", Some(self.heads))?;
        self.mlp_ratio = s.number("mlp_ratio", self.mlp_ratio)?;
        if !matches!(self.family, Family::Siglip | Family::Clip) {
            return Ok(self);
        }
        self.activation = match s.get("act_layer").map(|v| (v, v.as_str())) {
            None => self.activation,
            Some((_, Some("gelu"))) => Activation::Gelu,
            Some((_, Some("gelu_tanh"))) => Activation::GeluTanh,
            Some((v, _)) => return Err(s.unsupported("act_layer", v, "gelu or gelu_tanh")),
        };
        Ok(self)
    }

    /// Returns the `timm_pool` that this tower has in a CLIP.
    pub(super) fn pool(&self) -> &'static str {
        match self.family {
            Family::Siglip | Family::Perception => "map",
            Family::Clip | Family::Eva | Family::EvaPostNorm | Family::Eva02 => "token",
        }
    }

    /// Returns the configuration.
    pub(super) fn config(&self, projection: EmbeddingProjection) -> Parsed<VisionConfig> {
        let family = self.family;
        let mlp_width = self.mlp_width()?;
        let has_norm_before = matches!(family, Family::Clip | Family::Perception);
        self.check_heads()?;
        Ok(VisionConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            mlp_width,
            pooler: None,
            class_token: self.has_class_token,
            patch_bias: !has_norm_before,
            ln_pre: has_norm_before,
            blocks: match family {
                Family::Siglip | Family::Clip | Family::Perception => ImageBlocks::PreNorm,
                Family::Eva => ImageBlocks::Eva,
                Family::EvaPostNorm => ImageBlocks::PostNorm,
                Family::Eva02 => ImageBlocks::SubNorm,
            },
            rotary: self.rotary,
            layer_scale: None,
            pooling: match family {
                Family::Siglip => ImagePooling::Attention { heads: self.heads, mlp_width },
                Family::Perception => ImagePooling::Attention {
                    heads: PERCEPTION_POOL_HEADS,
                    mlp_width: (self.width as f64 * MLP_RATIO) as usize,
                },
                _ => ImagePooling::ClassToken,
            },
            projection,
            activation: self.activation,
            epsilon: if has_norm_before { CLIP_EPSILON } else { EPSILON },
            is_timm: true,
        })
    }

    /// Checks what the sizes of heads must be, beside dividing the width.
    fn check_heads(&self) -> Parsed<()> {
        let (width, heads) = (self.width, self.heads);
        if self.family == Family::Perception && !width.is_multiple_of(PERCEPTION_POOL_HEADS) {
            return Err(format!(
                "`vision_cfg.timm_model_kwargs.embed_dim` {width} is not divisible by {PERCEPTION_POOL_HEADS}, the heads of the pooling"
            ));
        }
        // Rows and columns turn a quarter of a head's pairs each; a LayerNorm over all heads takes them as they are.
        if self.rotary.is_some() && !(width / heads.max(1)).is_multiple_of(8) {
            return Err(format!(
                "`vision_cfg.timm_model_kwargs`: heads of {width} / {heads} numbers; with rotary positions a multiple of 8 is supported"
            ));
        }
        Ok(())
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
