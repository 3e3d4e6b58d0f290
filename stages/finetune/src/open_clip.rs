//! Models in open_clip's format, read from and written to directories.
//!
//! Reading and writing a model without training gives the same bytes: each tensor keeps its type, the file its metadata and
//! order. Files are replaced atomically.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use recaption_onnx::checkpoint::{Checkpoint, CheckpointError, Init, ModelConfig, Parameter};
use safetensors::Dtype;

pub use crate::{file::WriteError, stored_tensor::OverflowError};
use crate::{file::write_atomically, random::Random, stored_tensor::StoredTensor};

/// Stream of random numbers for initial weights.
const INITIAL_STREAM: u64 = 4;

/// The reason why a model cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OpenClipError {
    /// The checkpoint is missing, malformed or contradicts its configuration.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model is a CLIP.
    #[error("checkpoint {0}: a CLIP has no decoder: training needs a CoCa, with a `multimodal_cfg`")]
    NoDecoder(PathBuf),
    /// A file or directory cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A value does not fit the type that it is saved in.
    #[error(transparent)]
    Overflow(#[from] OverflowError),
}

/// A model on the host: everything that an open_clip directory holds.
#[derive(Clone, Debug)]
pub struct OpenClip {
    /// Directory that it was read from.
    pub dir: PathBuf,
    /// The configuration, parsed.
    pub config: ModelConfig,
    /// Names, shapes and initialisation of all parameters, in order.
    pub list: Vec<Parameter>,
    /// Values, f32, in the order of `list`.
    pub values: Vec<Vec<f32>>,
    /// Type of each tensor in the file, in the order of `list`.
    pub dtypes: Vec<Dtype>,
    /// `__metadata__` of the weights' file.
    metadata: Option<HashMap<String, String>>,
    /// Tensors that are not trained (`logit_bias`): name, shape, values, type.
    others: Vec<(String, Vec<usize>, Vec<f32>, Dtype)>,
}

impl OpenClip {
    /// Reads a directory with weights.
    ///
    /// # Errors
    /// Fails on a missing or malformed file, on tensors that contradict the configuration, and on a CLIP.
    pub fn read(dir: &Path) -> Result<Self, OpenClipError> {
        let checkpoint = Checkpoint::open(dir)?;
        let list = parameters(&checkpoint.config, dir)?;
        let tensors = &checkpoint.tensors;
        let values = list.iter().map(|p| tensors.get(&p.name, &p.shape)).collect::<Result<_, _>>()?;
        let dtype = |name: &str| tensors.dtype(name).unwrap_or(Dtype::F32);
        let mut others = Vec::new();
        let listed = list.iter().any(|p| p.name == "logit_bias");
        if let Some(shape) = tensors.shape("logit_bias").filter(|_| !listed) {
            let shape = shape.to_vec();
            let bias = tensors.get("logit_bias", &shape)?;
            others.push(("logit_bias".to_owned(), shape, bias, dtype("logit_bias")));
        }
        tensors.finish()?;
        Ok(Self {
            dir: dir.to_owned(),
            dtypes: list.iter().map(|p| dtype(&p.name)).collect(),
            config: checkpoint.config,
            list,
            values,
            metadata: tensors.metadata().map(|m| m.clone().into_iter().collect()),
            others,
        })
    }

    /// Creates a model of the configuration in `dir` with random weights; weights in `dir` are ignored.
    ///
    /// # Errors
    /// Fails on a missing or malformed configuration, and on a CLIP.
    pub fn initialise(dir: &Path, seed: u64) -> Result<Self, OpenClipError> {
        let path = dir.join(Checkpoint::CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let config = ModelConfig::parse(&text).map_err(|what| CheckpointError::Config { path, what })?;
        let list = parameters(&config, dir)?;
        let values = list.iter().enumerate().map(|(i, p)| initial_values(p, seed, i as u64)).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(Self {
            dir: dir.to_owned(),
            config,
            dtypes: vec![Dtype::F32; list.len()],
            list,
            values,
            metadata: Some(metadata),
            others: Vec::new(),
        })
    }

    /// Returns the same model with other values, in the order of `list`.
    #[must_use]
    pub fn with_values(&self, values: Vec<Vec<f32>>) -> Self {
        Self {
            dir: self.dir.clone(),
            config: self.config,
            list: self.list.clone(),
            values,
            dtypes: self.dtypes.clone(),
            metadata: self.metadata.clone(),
            others: self.others.clone(),
        }
    }

    /// Sets the type that all tensors are written in; `None` keeps the types that were read.
    pub fn save_as(&mut self, dtype: Option<Dtype>) {
        if let Some(dtype) = dtype {
            self.dtypes = vec![dtype; self.dtypes.len()];
        }
    }

    /// Writes the directory `out`: copies of configuration and tokenizer, and the weights.
    ///
    /// # Errors
    /// Fails when a file cannot be written, and on a value that a tensor's type cannot hold.
    pub fn write(&self, out: &Path) -> Result<(), OpenClipError> {
        std::fs::create_dir_all(out).map_err(|source| WriteError { path: out.to_owned(), source })?;
        for name in [Checkpoint::CONFIG, Checkpoint::TOKENIZER] {
            let from = self.dir.join(name);
            match std::fs::read(&from) {
                Ok(bytes) => write_atomically(&out.join(name), &bytes)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && name == Checkpoint::TOKENIZER => {}
                Err(source) => return Err(CheckpointError::Io { path: from, source }.into()),
            }
        }
        let path = out.join(Checkpoint::WEIGHTS);
        let bytes = self.weights(&path)?;
        Ok(write_atomically(&path, &bytes)?)
    }

    /// Serialises the weights.
    fn weights(&self, path: &Path) -> Result<Vec<u8>, OpenClipError> {
        let mut tensors = Vec::with_capacity(self.list.len());
        for ((parameter, values), dtype) in self.list.iter().zip(&self.values).zip(&self.dtypes) {
            tensors.push((
                parameter.name.as_str(),
                StoredTensor::new(&parameter.name, &parameter.shape, values, *dtype)?,
            ));
        }
        for (name, shape, values, dtype) in &self.others {
            tensors.push((name.as_str(), StoredTensor::new(name, shape, values, *dtype)?));
        }
        safetensors::serialize(tensors, self.metadata.clone())
            .map_err(|e| WriteError { path: path.to_owned(), source: std::io::Error::other(e) }.into())
    }
}

/// Returns the table of a CoCa's parameters.
fn parameters(config: &ModelConfig, dir: &Path) -> Result<Vec<Parameter>, OpenClipError> {
    match config.decoder {
        Some(_) => Ok(config.parameters()),
        None => Err(OpenClipError::NoDecoder(dir.to_owned())),
    }
}

/// Draws a parameter's initial values; `number` is its position in the table.
pub(crate) fn initial_values(parameter: &Parameter, seed: u64, number: u64) -> Vec<f32> {
    let n = parameter.shape.iter().product();
    match parameter.init {
        Init::Ones => vec![1.0; n],
        Init::Zeros => vec![0.0; n],
        Init::Constant(value) => vec![value; n],
        Init::Normal(std) => {
            let mut random = Random::new(seed, &[INITIAL_STREAM, number]);
            (0..n).map(|_| random.normal() as f32 * std).collect()
        }
    }
}
