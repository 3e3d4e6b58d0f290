//! Checkpoint -> ONNX, written from Rust. One builder with parameters for every size.
//!
//! Nothing here runs a model. The folder is written next to its final place and renamed when complete.

mod albef;
mod bert;
mod blip;
mod blocks;
mod decoder;
mod error;
mod fold;
pub(crate) mod graph;
pub(crate) mod host_inputs;
mod image_blocks;
mod image_encoder;
mod image_features;
mod linear;
mod mlm_head;
mod patches;
mod pooler;
mod positions;
mod source;
mod text_encoder;
mod tower;
mod weights;

use std::path::{Path, PathBuf};

pub use error::ExportError;
pub use host_inputs::GraphError;
use recaption_schemas::sha256_hex;
use weights::{WEIGHTS_FILE, WeightsWriter};

use self::tower::Tower;
use crate::{
    checkpoint::AnyCheckpoint,
    model::{MODEL_FILE, ModelFile, ModelFolder, Precision, TOKENIZER_FILE},
};

/// Exports the checkpoint in `checkpoint` to the model folder `out`, replacing an older export.
///
/// ```no_run
/// use std::path::Path;
///
/// use recaption_onnx::{Precision, export};
///
/// let model = export(Path::new("checkpoint"), Path::new("model"), Precision::Fp32)?;
/// println!("{} parameters", model.spec.parameters);
/// # Ok::<(), recaption_onnx::ExportError>(())
/// ```
///
/// # Errors
/// See [`ExportError`]; nothing is left half-written at `out`.
pub fn export(checkpoint: &Path, out: &Path, precision: Precision) -> Result<ModelFolder, ExportError> {
    let source = AnyCheckpoint::open(checkpoint)?;
    if out.exists() && !is_empty_dir(out) && !is_model_folder(out) {
        return Err(ExportError::Occupied(out.to_owned()));
    }
    let name = out.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    let parent = match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let sibling = |what: &str| parent.join(format!(".{name}.{what}-{}", std::process::id()));
    let (partial, old) = (sibling("partial"), sibling("old"));
    let result = write_folder(&source, &partial, precision).and_then(|()| replace(out, &partial, &old));
    if let Err(error) = result {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error);
    }
    Ok(ModelFolder::open(out)?)
}

fn is_empty_dir(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Returns whether the folder is an earlier export and holds nothing else: only such a folder is replaced.
fn is_model_folder(path: &Path) -> bool {
    let spec = std::fs::read(path.join(MODEL_FILE)).ok();
    let Some(spec) = spec.and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok()) else {
        return false;
    };
    let Some(files) = spec.get("files").and_then(serde_json::Value::as_array) else { return false };
    let is_listed = |name: &str| {
        name == MODEL_FILE
            || files.iter().any(|f| f.get("name").and_then(serde_json::Value::as_str) == Some(name))
    };
    std::fs::read_dir(path).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|e| e.file_name().to_str().is_some_and(is_listed)))
    })
}

/// Moves `partial` to `out`. An older export is moved aside first and restored if that fails.
fn replace(out: &Path, partial: &Path, old: &Path) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: out.to_owned(), source };
    remove(old)?;
    let replaced = out.exists();
    if replaced {
        std::fs::rename(out, old).map_err(failed)?;
    }
    if let Err(source) = std::fs::rename(partial, out) {
        if replaced {
            // The first error is the one to report if this fails too.
            let _ = std::fs::rename(old, out);
        }
        return Err(failed(source));
    }
    remove(old)
}

fn remove(path: &Path) -> Result<(), ExportError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(ExportError::Write { path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

fn write(path: PathBuf, bytes: &[u8]) -> Result<(), ExportError> {
    std::fs::write(&path, bytes).map_err(|source| ExportError::Write { path, source })
}

fn write_folder(source: &AnyCheckpoint, dir: &Path, precision: Precision) -> Result<(), ExportError> {
    remove(dir)?;
    std::fs::create_dir_all(dir).map_err(|source| ExportError::Write { path: dir.to_owned(), source })?;
    let tensors = source.tensors();
    let mut weights = WeightsWriter::create(dir, precision)?;
    let mut files = Vec::new();
    for (name, graph) in source.graphs() {
        let title = name.trim_end_matches(".onnx");
        let mut tower = Tower::new(title, tensors, &mut weights, precision, source.activation());
        source.build(*graph, &mut tower)?;
        let bytes = tower.g.finish()?;
        files.push(ModelFile { name: (*name).into(), size: bytes.len() as u64, sha256: sha256_hex(&bytes) });
        write(dir.join(name), &bytes)?;
    }
    tensors.ignore(source.unused());
    tensors.finish()?;
    let (size, sha256) = weights.finish()?;
    files.push(ModelFile { name: WEIGHTS_FILE.into(), size, sha256 });
    if let Some(bytes) = source.tokenizer()? {
        files.push(ModelFile {
            name: TOKENIZER_FILE.into(),
            size: bytes.len() as u64,
            sha256: sha256_hex(&bytes),
        });
        write(dir.join(TOKENIZER_FILE), &bytes)?;
    }
    let spec = source.describe(precision, files)?;
    let mut json = serde_json::to_vec_pretty(&spec)
        .map_err(std::io::Error::from)
        .map_err(|source| ExportError::Write { path: dir.join(MODEL_FILE), source })?;
    json.push(b'\n');
    write(dir.join(MODEL_FILE), &json)
}

#[cfg(test)]
mod tests;
