//! Checkpoints of a run: weights, moments, average, position in the data and everything else that the next step depends on.
//!
//! One file each, `checkpoints/step-NNNNNNNN.safetensors`, replaced atomically; the newest two are kept. A damaged one is skipped
//! for the previous one.

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
    file::{PARTIAL_MARK, WriteError, write_atomically},
    model::host,
    optim::AdamWState,
    stored_tensor::{OverflowError, StoredTensor},
};

/// Version of the layout.
const FORMAT: u32 = 1;
/// Number of checkpoints that are kept.
const KEPT: usize = 2;
/// Folder of the checkpoints, below the run's.
pub(super) const FOLDER: &str = "checkpoints";

/// Everything that the next step depends on, besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrainingProgress {
    /// Version of the layout.
    pub format: u32,
    /// Number of steps done.
    pub step: u64,
    /// Position in the data. Order and crops follow from it and the seed: there is no other random state.
    pub position: Position,
    /// Counts of samples so far.
    pub counts: DataCounts,
    /// Best validation so far: its step and loss.
    pub best: Option<(u64, f64)>,
    /// Number of validations since then.
    #[serde(alias = "worse")]
    pub validations_since_best: u64,
    /// Seconds of training so far, over all restarts.
    pub seconds: f64,
    /// Sums since the last line of metrics.
    pub log: LossSums,
    /// Digest of the list of inputs, for which the position is valid.
    pub inputs: String,
    /// The recipe's settings that change weights.
    pub recipe: serde_json::Value,
}

/// Sums over the steps since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct LossSums {
    /// Number of steps.
    pub steps: u64,
    /// Sum of weighted contrastive losses.
    pub contrastive: f64,
    /// Sum of weighted caption losses.
    pub caption: f64,
    /// Sum of matching losses, of an ALBEF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<f64>,
    /// Sum of gradient norms.
    pub norm: f64,
    /// Seconds, loading included.
    pub seconds: f64,
}

impl TrainingProgress {
    /// Creates the progress of a run that begins.
    pub(super) fn new(recipe: serde_json::Value) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            position: Position::default(),
            counts: DataCounts::default(),
            best: None,
            validations_since_best: 0,
            seconds: 0.0,
            log: LossSums::default(),
            inputs: String::new(),
            recipe,
        }
    }
}

/// A checkpoint, loaded.
pub(super) struct TrainingState {
    pub(super) progress: TrainingProgress,
    /// Values of all parameters, in order.
    pub(super) values: Vec<Vec<f32>>,
    /// Steps and moments of the optimizer.
    pub(super) optimizer: AdamWState,
    /// The moving average, if one is kept.
    pub(super) average: Option<Vec<Tensor<1>>>,
}

/// The reason why a checkpoint cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or folder cannot be read or created.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A value does not fit its type.
    #[error(transparent)]
    Overflow(#[from] OverflowError),
    /// The checkpoint is damaged, or belongs to another architecture.
    #[error("checkpoint {path}: {what}")]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Writes a checkpoint of the run in `out`, and deletes older ones.
///
/// # Errors
/// Fails when it cannot be written; earlier checkpoints stay.
pub(super) fn save(
    out: &Path,
    list: &[Parameter],
    progress: &TrainingProgress,
    values: &[Tensor<1>],
    optimizer: &AdamWState,
    average: Option<&[Tensor<1>]>,
) -> Result<(), StateError> {
    let folder = out.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| StateError::Io { path: folder.clone(), source })?;
    let mut tensors = Vec::new();
    let mut add = |kind: &str, i: usize, value: &Tensor<1>| -> Result<(), StateError> {
        let name = format!("{kind}.{}", list[i].name);
        let stored = StoredTensor::new(&name, &list[i].shape, &host(value), Dtype::F32)?;
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
    write_atomically(&path, &bytes)?;
    for old in list_checkpoints(out)?.into_iter().rev().skip(KEPT) {
        // One that cannot be deleted wastes space only.
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

/// Deletes partial files that a killed run left in `folder`.
fn clear_partial(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.contains(PARTIAL_MARK) {
            // One that cannot be deleted wastes space only.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Lists the checkpoints of the run in `out`, oldest first.
fn list_checkpoints(out: &Path) -> Result<Vec<PathBuf>, StateError> {
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

/// Loads the newest whole checkpoint of the run in `out`; returns `None` when there are none.
///
/// # Errors
/// Fails when all are damaged or belong to another architecture.
pub(super) fn newest(
    out: &Path,
    list: &[Parameter],
    device: &Device,
) -> Result<Option<TrainingState>, StateError> {
    clear_partial(out);
    clear_partial(&out.join(FOLDER));
    let mut first = None;
    for path in list_checkpoints(out)?.into_iter().rev() {
        match load(&path, list, device) {
            Ok(state) => return Ok(Some(state)),
            Err(error) => {
                tracing::warn!("{error}; trying the previous checkpoint");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(None), Err)
}

fn load(path: &Path, list: &[Parameter], device: &Device) -> Result<TrainingState, StateError> {
    let damaged = |what: String| StateError::Damaged { path: path.to_owned(), what };
    let bytes = std::fs::read(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = metadata.get("progress").ok_or_else(|| damaged("it has no progress".into()))?;
    let progress: TrainingProgress = serde_json::from_str(text).map_err(|e| damaged(e.to_string()))?;
    if progress.format != FORMAT {
        return Err(damaged(format!("format {}, but this build reads {FORMAT}", progress.format)));
    }
    let steps = metadata.get("optimizer_steps").and_then(|n| n.parse().ok());
    let steps = steps.ok_or_else(|| damaged("it has no number of optimizer steps".into()))?;
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
            "it has {known} parameters, the model has {}: it belongs to another architecture",
            list.len()
        )));
    }
    let average = (average.len() == list.len()).then_some(average);
    Ok(TrainingState { progress, values, optimizer: AdamWState { steps, moments }, average })
}
