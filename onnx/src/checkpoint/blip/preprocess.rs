//! `preprocessor_config.json`: how an image is resized and normalised. BLIP and SigLIP squash it to a square, without a crop.

use std::path::Path;

use recaption_schemas::{Interpolation, Preprocess, ResizeMode};
use serde_json::{Map, Value};

use super::files;
use crate::checkpoint::{
    config::{
        Normalisation,
        section::{Parsed, Section},
    },
    error::CheckpointError,
};

/// Pillow's numbers of its filters.
const BILINEAR: u64 = 2;
const BICUBIC: u64 = 3;
/// Largest distance of `rescale_factor` from 1 / 255: files have it rounded to f32 or f64.
const RESCALE_TOLERANCE: f64 = 1e-9;

/// Reads the image processor's settings in `dir`; `None` where no file has them.
pub(in crate::checkpoint) fn read(dir: &Path) -> Result<Option<Map<String, Value>>, CheckpointError> {
    for (name, key) in [(files::PREPROCESSOR, None), (files::PROCESSOR, Some("image_processor"))] {
        let path = dir.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(CheckpointError::BlipIo { path, source }),
        };
        let mut root: Value = serde_json::from_slice(&text).map_err(|e| CheckpointError::Config {
            path: path.clone(),
            what: format!("not valid JSON: {e}"),
        })?;
        if let Some(key) = key {
            root = root.get_mut(key).map_or(Value::Null, Value::take);
        }
        match root {
            Value::Object(map) => return Ok(Some(map)),
            Value::Null if key.is_some() => {}
            _ => return Err(CheckpointError::Config { path, what: "expected a JSON object".into() }),
        }
    }
    Ok(None)
}

/// Parses the settings for a model that takes squares of `image_size` pixels; without any they are transformers' defaults, of which
/// `default` is how pixels are normalised.
pub(in crate::checkpoint) fn parse(
    map: Option<&Map<String, Value>>,
    image_size: usize,
    default: Normalisation,
) -> Parsed<(Preprocess, Normalisation)> {
    let empty = Map::new();
    let s = Section::new("preprocessor_config", map.unwrap_or(&empty));
    let on = || vec![Value::Bool(true)];
    s.require(&[
        ("do_resize", on()),
        ("do_rescale", on()),
        ("do_normalize", on()),
        ("do_center_crop", vec![false.into()]),
        ("do_pad", vec![false.into()]),
    ])?;
    let factor = s.number("rescale_factor", 1.0 / 255.0)?;
    if (factor - 1.0 / 255.0).abs() > RESCALE_TOLERANCE {
        return Err(s.unsupported("rescale_factor", &factor.into(), "1 / 255"));
    }
    let size = match s.get("size") {
        None => image_size,
        Some(Value::Object(sides)) => {
            let sides = Section::new("preprocessor_config.size", sides);
            let (height, width) = (sides.size("height", None)?, sides.size("width", None)?);
            if height != width {
                return Err(format!(
                    "`preprocessor_config.size` is {height} by {width}: only squares are supported"
                ));
            }
            height
        }
        Some(_) => s.square("size", image_size)?,
    };
    if size != image_size {
        return Err(format!(
            "`preprocessor_config.size` is {size}, but `vision_config.image_size` is {image_size}: the position embeddings would not fit"
        ));
    }
    let interpolation = match s.get("resample").map(|v| (v, v.as_u64())) {
        None | Some((_, Some(BICUBIC))) => Interpolation::Bicubic,
        Some((_, Some(BILINEAR))) => Interpolation::Bilinear,
        Some((v, _)) => return Err(s.unsupported("resample", v, "3 (bicubic) or 2 (bilinear)")),
    };
    let channels = |key: &'static str, default: [f64; 3]| -> Parsed<[f64; 3]> {
        let Some(v) = s.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> = v.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| s.unsupported(key, v, "three numbers"))
    };
    let normalisation = Normalisation {
        mean: channels("image_mean", default.mean)?,
        std: channels("image_std", default.std)?,
    };
    if normalisation.std.iter().any(|s| *s <= 0.0) {
        return Err("`preprocessor_config.image_std` must be positive".into());
    }
    let size = u32::try_from(size).map_err(|e| e.to_string())?;
    Ok((Preprocess { size, resize_mode: ResizeMode::Squash, interpolation }, normalisation))
}
