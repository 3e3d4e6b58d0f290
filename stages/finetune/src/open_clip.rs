//! open_clip directories: read into parameters, written again.
//!
//! What was not trained comes out as it came in, to the bit: each tensor keeps its type, the file its metadata and its
//! order. Files are written beside their place and renamed.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use recaption_onnx::checkpoint::{Checkpoint, CheckpointError, Init, ModelConfig, Parameter};
use safetensors::{Dtype, View};

use crate::random::Random;

/// Stream of random numbers for initial weights.
const INITIAL: u64 = 4;

/// Why a model cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum OpenClipError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Not a CoCa.
    #[error("checkpoint {0}: a CLIP has no decoder: training needs a CoCa, with a `multimodal_cfg`")]
    NoDecoder(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The weights cannot be put into the file's type.
    #[error("tensor `{name}` holds {value}, which {dtype:?} cannot; set `model.save_as = \"fp32\"`")]
    Overflow {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
        /// The type.
        dtype: Dtype,
    },
}

/// A model on the host: everything an open_clip directory holds.
#[derive(Clone)]
pub struct OpenClip {
    /// Where it came from.
    pub dir: PathBuf,
    /// The configuration, parsed.
    pub config: ModelConfig,
    /// Names, shapes and initialisation of all parameters.
    pub list: Vec<Parameter>,
    /// Values, f32, in the order of `list`.
    pub values: Vec<Vec<f32>>,
    /// Type of each tensor in the file, in the order of `list`.
    pub dtypes: Vec<Dtype>,
    /// The file's `__metadata__`.
    metadata: Option<HashMap<String, String>>,
    /// Tensors that no training touches (`logit_bias`), with shape.
    others: Vec<(String, Vec<usize>, Vec<f32>, Dtype)>,
}

impl OpenClip {
    /// Reads a directory with weights.
    ///
    /// # Errors
    /// A missing or malformed file, tensors that contradict the configuration, a CLIP.
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

    /// A new model by the configuration in `dir`, drawn at random by the table of parameters; weights there are not looked at.
    ///
    /// # Errors
    /// A missing or malformed configuration, a CLIP.
    pub fn initialise(dir: &Path, seed: u64) -> Result<Self, OpenClipError> {
        let path = dir.join(Checkpoint::CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let config = ModelConfig::parse(&text).map_err(|what| CheckpointError::Config { path, what })?;
        let list = parameters(&config, dir)?;
        let values = list.iter().enumerate().map(|(i, p)| initial(p, seed, i as u64)).collect();
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

    /// The same model with other values.
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

    /// From now on all tensors are saved as `dtype`; as they came, when there is none.
    pub fn save_as(&mut self, dtype: Option<Dtype>) {
        if let Some(dtype) = dtype {
            self.dtypes = vec![dtype; self.dtypes.len()];
        }
    }

    /// Writes the directory `out`: configuration and tokenizer as they were, the weights as they are.
    ///
    /// # Errors
    /// A full disk, a value that a tensor's type cannot hold.
    pub fn write(&self, out: &Path) -> Result<(), OpenClipError> {
        std::fs::create_dir_all(out)
            .map_err(|source| OpenClipError::Write { path: out.to_owned(), source })?;
        for name in [Checkpoint::CONFIG, Checkpoint::TOKENIZER] {
            let from = self.dir.join(name);
            match std::fs::read(&from) {
                Ok(bytes) => write_whole(&out.join(name), &bytes)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && name == Checkpoint::TOKENIZER => {}
                Err(source) => return Err(CheckpointError::Io { path: from, source }.into()),
            }
        }
        let path = out.join(Checkpoint::WEIGHTS);
        let bytes = self.weights(&path)?;
        write_whole(&path, &bytes)
    }

    /// The weights' file.
    fn weights(&self, path: &Path) -> Result<Vec<u8>, OpenClipError> {
        let mut tensors = Vec::with_capacity(self.list.len());
        for ((parameter, values), dtype) in self.list.iter().zip(&self.values).zip(&self.dtypes) {
            tensors.push((
                parameter.name.as_str(),
                Stored::new(&parameter.name, &parameter.shape, values, *dtype)?,
            ));
        }
        for (name, shape, values, dtype) in &self.others {
            tensors.push((name.as_str(), Stored::new(name, shape, values, *dtype)?));
        }
        safetensors::serialize(tensors, self.metadata.clone())
            .map_err(|e| OpenClipError::Write { path: path.to_owned(), source: std::io::Error::other(e) })
    }
}

fn parameters(config: &ModelConfig, dir: &Path) -> Result<Vec<Parameter>, OpenClipError> {
    match config.decoder {
        Some(_) => Ok(config.parameters()),
        None => Err(OpenClipError::NoDecoder(dir.to_owned())),
    }
}

fn initial(parameter: &Parameter, seed: u64, number: u64) -> Vec<f32> {
    let n = parameter.shape.iter().product();
    match parameter.init {
        Init::Ones => vec![1.0; n],
        Init::Zeros => vec![0.0; n],
        Init::Constant(value) => vec![value; n],
        Init::Normal(std) => {
            let mut random = Random::new(seed, &[INITIAL, number]);
            (0..n).map(|_| random.normal() as f32 * std).collect()
        }
    }
}

/// Writes a file beside its place, to the disk, and renames it: whole or not at all.
///
/// # Errors
/// A full disk, a folder that cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), OpenClipError> {
    let failed = |source| OpenClipError::Write { path: path.to_owned(), source };
    let name = path.file_name().map_or("file".into(), |n| n.to_string_lossy().into_owned());
    let beside = path.with_file_name(format!(".{name}.partial-{}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        // The name, too, should outlive a power cut.
        match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| {
        // What is left would only confuse; the first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
        failed(source)
    })
}

/// A tensor in its type, for safetensors.
pub struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    /// Values as `dtype`.
    ///
    /// # Errors
    /// A finite value that becomes infinite.
    pub fn new(name: &str, shape: &[usize], values: &[f32], dtype: Dtype) -> Result<Self, OpenClipError> {
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for value in values {
            let fits = match dtype {
                Dtype::F16 => {
                    let half = f16::from_f32(*value);
                    bytes.extend_from_slice(&half.to_le_bytes());
                    half.is_finite()
                }
                Dtype::BF16 => {
                    let half = bf16::from_f32(*value);
                    bytes.extend_from_slice(&half.to_le_bytes());
                    half.is_finite()
                }
                _ => {
                    bytes.extend_from_slice(&value.to_le_bytes());
                    true
                }
            };
            if value.is_finite() && !fits {
                return Err(OpenClipError::Overflow { name: name.to_owned(), value: *value, dtype });
            }
        }
        let dtype = if matches!(dtype, Dtype::F16 | Dtype::BF16) { dtype } else { Dtype::F32 };
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
