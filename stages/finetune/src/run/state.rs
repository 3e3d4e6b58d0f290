//! Checkpoints of a run: weights, moments, average, place in the data and everything else that the next step depends on.
//!
//! One file each, `checkpoints/step-NNNNNNNN.safetensors`, written beside its place, synced and renamed; the newest two
//! are kept. A damaged one is passed over for the one before.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor, TensorData};
use recaption_onnx::checkpoint::{Dtype, Parameter};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::{
    data::{DataCounts, Position},
    model::host,
    open_clip::{OpenClipError, Stored, write_whole},
    optim::AdamWState,
};

/// Version of the layout.
const FORMAT: u32 = 1;
/// Checkpoints that are kept.
const KEPT: usize = 2;
/// Folder below the run's.
pub const FOLDER: &str = "checkpoints";

/// What a step depends on, beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Version of the layout.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Place in the data. The order and the crops follow from it and the seed: there is no other state of chance.
    pub position: Position,
    /// What became of the samples so far.
    pub counts: DataCounts,
    /// Best validation so far: its step and loss.
    pub best: Option<(u64, f64)>,
    /// Validations since then.
    pub worse: u64,
    /// Seconds of training so far, of all attempts.
    pub seconds: f64,
    /// Sums since the last line of the log.
    pub log: Sums,
    /// Digest of the list of inputs, in which the position is a place.
    pub inputs: String,
    /// What the recipe says about weights.
    pub recipe: serde_json::Value,
}

/// Sums over the steps since the last line of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Steps.
    pub steps: u64,
    /// Weighted contrastive losses.
    pub contrastive: f64,
    /// Weighted caption losses.
    pub caption: f64,
    /// Norms of gradients.
    pub norm: f64,
    /// Seconds, loading included.
    pub seconds: f64,
}

impl Progress {
    /// Of a run that begins.
    #[must_use]
    pub fn new(recipe: serde_json::Value) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            position: Position::default(),
            counts: DataCounts::default(),
            best: None,
            worse: 0,
            seconds: 0.0,
            log: Sums::default(),
            inputs: String::new(),
            recipe,
        }
    }
}

/// A checkpoint in memory.
pub struct State {
    /// Numbers.
    pub progress: Progress,
    /// Values of all parameters, in order.
    pub values: Vec<Vec<f32>>,
    /// The optimizer.
    pub optimizer: AdamWState,
    /// The average, where one is kept.
    pub average: Option<Vec<Tensor<1>>>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] OpenClipError),
    /// It is damaged, or of another model.
    #[error("checkpoint {path}: {what}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Writes a checkpoint of the run in `out`, and removes older ones.
///
/// # Errors
/// A full disk; earlier checkpoints are untouched then.
pub fn save(
    out: &Path,
    list: &[Parameter],
    progress: &Progress,
    values: &[Tensor<1>],
    optimizer: &AdamWState,
    average: Option<&[Tensor<1>]>,
) -> Result<(), StateError> {
    let folder = out.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| StateError::Io { path: folder.clone(), source })?;
    let mut tensors = Vec::new();
    let mut add = |kind: &str, i: usize, value: &Tensor<1>| -> Result<(), StateError> {
        let name = format!("{kind}.{}", list[i].name);
        let stored = Stored::new(&name, &list[i].shape, &host(value), Dtype::F32)?;
        tensors.push((name, stored));
        Ok(())
    };
    for (i, value) in values.iter().enumerate() {
        add("value", i, value)?;
    }
    for (i, moments) in optimizer.moments.iter().enumerate() {
        if let Some([m, v]) = moments {
            add("m", i, m)?;
            add("v", i, v)?;
        }
    }
    for (i, value) in average.into_iter().flatten().enumerate() {
        add("average", i, value)?;
    }
    let path = folder.join(format!("step-{:08}.safetensors", progress.step));
    let failed = |what: String| StateError::Damaged { path: path.clone(), what };
    let text = serde_json::to_string(progress).map_err(|e| failed(e.to_string()))?;
    let metadata = HashMap::from([
        ("progress".to_owned(), text),
        ("optimizer_steps".to_owned(), optimizer.steps.to_string()),
    ]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|e| failed(e.to_string()))?;
    write_whole(&path, &bytes)?;
    for old in found(out)?.into_iter().rev().skip(KEPT) {
        // One that stays is only a waste of room.
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

/// Removes what a killed run left half-written in `folder`.
fn clear_partial(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.contains(".partial-") {
            // One that stays is only a waste of room.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Checkpoints of the run in `out`, oldest first.
fn found(out: &Path) -> Result<Vec<PathBuf>, StateError> {
    let folder = out.join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StateError::Io { path: folder, source }),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("step-") && name.ends_with(".safetensors")
    });
    paths.sort();
    Ok(paths)
}

/// The newest whole checkpoint of the run in `out`; none when there is none.
///
/// # Errors
/// When the newest whole one belongs to another architecture, or all are damaged.
pub fn newest(out: &Path, list: &[Parameter], device: &Device) -> Result<Option<State>, StateError> {
    clear_partial(out);
    clear_partial(&out.join(FOLDER));
    let mut first = None;
    for path in found(out)?.into_iter().rev() {
        match load(&path, list, device) {
            Ok(state) => return Ok(Some(state)),
            Err(error) => {
                tracing::warn!("{error}; the one before is tried");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(None), Err)
}

fn load(path: &Path, list: &[Parameter], device: &Device) -> Result<State, StateError> {
    let damaged = |what: String| StateError::Damaged { path: path.to_owned(), what };
    let bytes = std::fs::read(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = metadata.get("progress").ok_or_else(|| damaged("it holds no progress".into()))?;
    let progress: Progress = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
    if progress.format != FORMAT {
        return Err(damaged(format!("format {}, this build reads {FORMAT}", progress.format)));
    }
    let steps = metadata.get("optimizer_steps").and_then(|n| n.parse().ok());
    let steps = steps.ok_or_else(|| damaged("it does not say how many steps the optimizer took".into()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let get = |kind: &str, parameter: &Parameter| -> Result<Option<Vec<f32>>, StateError> {
        let Ok(view) = tensors.tensor(&format!("{kind}.{}", parameter.name)) else { return Ok(None) };
        if view.shape() != parameter.shape || view.dtype() != Dtype::F32 {
            return Err(damaged(format!(
                "`{}` is {:?} {:?}, the model's is {:?}: it belongs to another architecture",
                parameter.name,
                view.dtype(),
                view.shape(),
                parameter.shape
            )));
        }
        Ok(Some(view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    };
    let tensor = |values: Vec<f32>| -> Tensor<1> {
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), device)
    };
    let missing =
        |p: &Parameter| damaged(format!("`{}` is missing: it belongs to another architecture", p.name));
    let (mut values, mut moments, mut average) = (Vec::new(), Vec::new(), Vec::new());
    for parameter in list {
        values.push(get("value", parameter)?.ok_or_else(|| missing(parameter))?);
        let (m, v) = (get("m", parameter)?, get("v", parameter)?);
        moments.push(m.zip(v).map(|(m, v)| [tensor(m), tensor(v)]));
        average.extend(get("average", parameter)?.map(tensor));
    }
    let known = tensors.names().iter().filter(|name| name.starts_with("value.")).count();
    if known != list.len() {
        return Err(damaged(format!(
            "it holds {known} parameters, the model has {}: it belongs to another architecture",
            list.len()
        )));
    }
    let average = (average.len() == list.len()).then_some(average);
    Ok(State { progress, values, optimizer: AdamWState { steps, moments }, average })
}
