//! `preprocess_cfg`: how an image is resized to the model's size, and how pixels are normalised.

use recaption_schemas::{Interpolation, Preprocess, ResizeMode};
use serde_json::{Map, Value};

use super::{
    section::{Parsed, Section},
    types::Normalisation,
};

/// OpenAI's mean per channel, RGB, on a scale of 0 to 1 (open_clip's `OPENAI_DATASET_MEAN`).
pub(in crate::checkpoint) const OPENAI_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenAI's standard deviation per channel, RGB.
pub(in crate::checkpoint) const OPENAI_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Parses the section in `root`, if there is one, for a model that takes squares of `image_size` pixels.
pub(super) fn parse_preprocess(
    root: &Map<String, Value>,
    image_size: usize,
) -> Parsed<(Preprocess, Normalisation)> {
    let empty = Map::new();
    let s = match root.get("preprocess_cfg") {
        None | Some(Value::Null) => Section::new("preprocess_cfg", &empty),
        Some(_) => Section::of(root, "preprocess_cfg")?,
    };
    s.require(&[("mode", vec!["RGB".into()])])?;
    let size = s.square("size", image_size)?;
    if size != image_size {
        return Err(format!("preprocess_cfg.size {size} differs from vision_cfg.image_size {image_size}"));
    }
    let fill = match s.get("fill_color") {
        None => 0,
        Some(v) => v
            .as_u64()
            .and_then(|n| u8::try_from(n).ok())
            .ok_or_else(|| s.unsupported("fill_color", v, "0 to 255"))?,
    };
    let resize_mode = match s.get("resize_mode").map(|v| (v, v.as_str())) {
        None | Some((_, Some("shortest"))) => ResizeMode::Shortest,
        Some((_, Some("longest"))) => ResizeMode::Longest { fill: [fill; 3] },
        Some((_, Some("squash"))) => ResizeMode::Squash,
        Some((v, _)) => return Err(s.unsupported("resize_mode", v, "shortest, longest or squash")),
    };
    let interpolation = match s.get("interpolation").map(|v| (v, v.as_str())) {
        None | Some((_, Some("bicubic"))) => Interpolation::Bicubic,
        Some((_, Some("bilinear"))) => Interpolation::Bilinear,
        Some((v, _)) => return Err(s.unsupported("interpolation", v, "bicubic or bilinear")),
    };
    let channels = |key: &'static str, default: [f64; 3]| -> Parsed<[f64; 3]> {
        let Some(v) = s.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> = v.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| s.unsupported(key, v, "three numbers"))
    };
    let normalisation =
        Normalisation { mean: channels("mean", OPENAI_MEAN)?, std: channels("std", OPENAI_STD)? };
    if normalisation.std.iter().any(|s| *s <= 0.0) {
        return Err("preprocess_cfg.std must be positive".into());
    }
    s.finish()?;
    let size = u32::try_from(size).map_err(|e| e.to_string())?;
    Ok((Preprocess { size, resize_mode, interpolation }, normalisation))
}
