//! The image encoder of a model in open_clip's format as an ALBEF's: the same ViT under other names.

use std::path::Path;

use recaption_onnx::checkpoint::{
    Activation, Checkpoint, CheckpointError, ImageBlocks, TensorReader, VisionConfig,
};

use crate::model::albef::AlbefConfig;

/// The reason why an image encoder cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ImageEncoderError {
    /// The model cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its image tower is another network than the ALBEF's image encoder.
    #[error("model.image_encoder {dir}: {what}")]
    Unfit {
        /// Directory of the model.
        dir: String,
        /// What differs.
        what: String,
    },
}

/// Names outside the blocks: open_clip's and the ALBEF's, below `visual.` and `visual_encoder.`.
const OUTER: [(&str, &str); 3] = [
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
    ("conv1.weight", "patch_embed.proj.weight"),
];
/// Parts of a block with weight and bias, likewise.
const BLOCK: [(&str, &str); 6] = [
    ("ln_1.", "norm1."),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("ln_2.", "norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// Reads the image tower of the model in `dir`: names of the ALBEF's tensors and their values. What is not among them, the bias of the
/// patches and, of a model with a pooler, the last norm, begins as it would without.
///
/// # Errors
/// Fails when the model cannot be read, or its tower is not the configuration's image encoder.
pub fn read_image_encoder(dir: &Path, c: &AlbefConfig) -> Result<Vec<(String, Vec<f32>)>, ImageEncoderError> {
    let checkpoint = Checkpoint::open(dir)?;
    let v = &checkpoint.config.vision;
    check(v, c).map_err(|what| ImageEncoderError::Unfit { dir: dir.display().to_string(), what })?;
    let mut found = Vec::new();
    let mut take = |from: String, to: String| -> Result<(), CheckpointError> {
        found.push((format!("visual_encoder.{to}"), values(&checkpoint.tensors, &format!("visual.{from}"))?));
        Ok(())
    };
    for (from, to) in OUTER {
        take(from.into(), to.into())?;
    }
    let norms = [("ln_pre", "norm_pre", v.ln_pre), ("ln_post", "norm", v.pooler.is_none())];
    for (from, to, _) in norms.into_iter().filter(|(.., is_there)| *is_there) {
        for kind in ["weight", "bias"] {
            take(format!("{from}.{kind}"), format!("{to}.{kind}"))?;
        }
    }
    for layer in 0..v.layers {
        for (from, to) in BLOCK {
            for kind in ["weight", "bias"] {
                take(
                    format!("transformer.resblocks.{layer}.{from}{kind}"),
                    format!("blocks.{layer}.{to}{kind}"),
                )?;
            }
        }
    }
    Ok(found)
}

/// Returns a tensor, whatever its shape.
fn values(tensors: &TensorReader, name: &str) -> Result<Vec<f32>, CheckpointError> {
    let shape = tensors.shape(name).unwrap_or_default().to_vec();
    tensors.get(name, &shape)
}

/// Checks that a tower is the configuration's image encoder.
fn check(v: &VisionConfig, c: &AlbefConfig) -> Result<(), String> {
    let sizes = [
        ("image_res", c.image_res, v.image_size),
        ("patch_size", c.patch_size, v.patch_size),
        ("vision_width", c.vision_width, v.width),
        ("vision_depth", c.vision_depth, v.layers),
        ("vision_heads", c.vision_heads, v.heads),
        ("the MLP's width", 4 * c.vision_width, v.mlp_width),
    ];
    if let Some((key, ours, theirs)) = sizes.into_iter().find(|(_, ours, theirs)| ours != theirs) {
        return Err(format!("its image tower has {theirs}, but config.json's {key} is {ours}"));
    }
    if v.ln_pre != c.vision_norm_pre {
        return Err(format!(
            "set `vision_norm_pre` = {} in config.json: that is how its image tower begins",
            v.ln_pre
        ));
    }
    if f64::from(v.epsilon) != f64::from(c.vision_norm_eps as f32) {
        return Err(format!("set `vision_norm_eps` = {} in config.json, the image tower's", v.epsilon));
    }
    let is_plain = v.blocks == ImageBlocks::PreNorm && v.layer_scale.is_none() && v.rotary.is_none();
    if !is_plain || !v.class_token || v.activation != Activation::Gelu {
        return Err(
            "its image tower is no ViT with a class token, exact GELU and nothing more, which an ALBEF's image encoder is".into(),
        );
    }
    Ok(())
}
