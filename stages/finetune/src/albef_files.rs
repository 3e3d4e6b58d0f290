//! ALBEFs as directories: `config.json`, `albef.safetensors` under the authors' names, and BERT's tokenizer.
//!
//! A file without momentum copy or queues begins with a copy of the weights and random queues, as the authors' training does; a
//! queue of another size than the recipe's is drawn again. Files are replaced atomically.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use recaption_onnx::{
    checkpoint::{CheckpointError, Dtype, Parameter, TensorReader},
    tokenizer::TokenizerError,
};
use serde_json::Value;

use crate::{
    file::{WriteError, write_atomically},
    model::albef::{
        AlbefConfig,
        table::{self, IMAGE_QUEUE, QUEUE_POSITION, TEXT_QUEUE, TIED},
    },
    open_clip::initial_values,
    stored_tensor::{FileTensor, OverflowError, StoredTensor},
};

/// File with the configuration.
pub const CONFIG: &str = "config.json";
/// File with the weights.
pub const WEIGHTS: &str = "albef.safetensors";
/// Files of the tokenizer, all optional but one of the first two.
pub const TOKENIZER: [&str; 3] = ["tokenizer.json", "vocab.txt", "tokenizer_config.json"];
/// Tensor of position numbers that the authors' files have; it is written and not read.
const POSITION_IDS: &str = "embeddings.position_ids";

/// The reason why an ALBEF cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AlbefError {
    /// A file is missing or unreadable.
    #[error(
        "ALBEF {path}: {source}; expected a directory with config.json, albef.safetensors (unless model.init is random) and tokenizer.json or vocab.txt"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The configuration is malformed or contradicts itself.
    #[error("ALBEF {path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The weights are malformed, or contradict the configuration.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// The tokenizer is missing or does not fit.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A file or directory cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A value does not fit the type that it is saved in.
    #[error(transparent)]
    Overflow(#[from] OverflowError),
}

/// An ALBEF on the host.
#[derive(Clone, Debug)]
pub struct AlbefFiles {
    /// Directory that it was read from.
    pub dir: PathBuf,
    /// The configuration, parsed.
    pub config: AlbefConfig,
    /// The configuration as written, with keys that are unknown here.
    root: Value,
    /// Names, shapes and initialisation of all parameters, in order.
    pub list: Vec<Parameter>,
    /// Values, f32, in the order of `list`.
    pub values: Vec<Vec<f32>>,
}

/// Settings of a run that `config.json` holds too, and that the run's recipe decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlbefOverrides {
    /// Number of features in each queue.
    pub queue_size: usize,
    /// Decay of the momentum copy.
    pub momentum: f64,
    /// Share of the momentum copy's targets.
    pub alpha: f64,
    /// Probability that a token is masked.
    pub mlm_probability: f64,
    /// Longest text, `[CLS]` included.
    pub max_text_tokens: usize,
    /// Initial temperature, of random weights alone.
    pub temperature: f64,
}

impl AlbefFiles {
    /// Reads a directory with weights; `overrides` replace settings of its configuration, `seed` draws queues that are not there.
    ///
    /// # Errors
    /// Fails on a missing or malformed file, and on tensors that contradict the configuration.
    pub fn read(dir: &Path, overrides: Option<&AlbefOverrides>, seed: u64) -> Result<Self, AlbefError> {
        let mut files = Self::open(dir, overrides, seed)?;
        let path = dir.join(WEIGHTS);
        let tensors = TensorReader::open(&path)?;
        for (parameter, values) in files.list.iter().zip(&mut files.values) {
            let (name, shape) = (parameter.name.as_str(), &parameter.shape);
            if name == QUEUE_POSITION {
                if let Some(position) = read_position(&path)? {
                    *values = vec![position];
                }
            } else if [IMAGE_QUEUE, TEXT_QUEUE].contains(&name) {
                if tensors.shape(name) == Some(shape) {
                    *values = tensors.get(name, shape)?;
                }
            } else if table::is_trained(name) || tensors.contains(name) {
                *values = tensors.get(name, shape)?;
            } else {
                // Copied below.
                values.clear();
            }
        }
        if tensors.shape(IMAGE_QUEUE) != Some(&[files.config.embed_dim, files.config.queue_size]) {
            tracing::info!(
                size = files.config.queue_size,
                "{}: queues begin with random features",
                path.display()
            );
            files.set(QUEUE_POSITION, vec![0.0]);
        }
        files.copy_missing();
        Ok(files)
    }

    /// Creates a model of the configuration in `dir` with random weights; weights in `dir` are ignored.
    ///
    /// # Errors
    /// Fails on a missing or malformed configuration.
    pub fn initialise(dir: &Path, overrides: Option<&AlbefOverrides>, seed: u64) -> Result<Self, AlbefError> {
        let mut files = Self::open(dir, overrides, seed)?;
        for (parameter, values) in files.list.iter().zip(&mut files.values) {
            if !table::is_trained(&parameter.name) && parameter.name.contains('.') {
                values.clear();
            }
        }
        files.copy_missing();
        Ok(files)
    }

    /// Replaces parameters by these values, and the momentum copy by a copy.
    pub fn replace(&mut self, values: Vec<(String, Vec<f32>)>) {
        for (name, values) in values {
            if let Some(copy) = table::copy_name(&name) {
                self.set(&copy, values.clone());
            }
            self.set(&name, values);
        }
    }

    /// Reads the configuration; all values are random.
    fn open(dir: &Path, overrides: Option<&AlbefOverrides>, seed: u64) -> Result<Self, AlbefError> {
        let path = dir.join(CONFIG);
        let text =
            std::fs::read_to_string(&path).map_err(|source| AlbefError::Io { path: path.clone(), source })?;
        let bad = |what: String| AlbefError::Config { path: path.clone(), what };
        let mut config = AlbefConfig::parse(&text).map_err(bad)?;
        let root: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if let Some(o) = overrides {
            (config.queue_size, config.momentum, config.alpha) = (o.queue_size, o.momentum, o.alpha);
            (config.mlm_probability, config.temp) = (o.mlm_probability, o.temperature);
            config.max_text_tokens = o.max_text_tokens;
        }
        let list = table::parameters(&config);
        let values = list.iter().enumerate().map(|(i, p)| initial_values(p, seed, i as u64)).collect();
        let mut files = Self { dir: dir.to_owned(), config, root, list, values };
        files.normalise_queues();
        Ok(files)
    }

    /// Makes every column of the queues a unit vector.
    fn normalise_queues(&mut self) {
        let size = self.config.queue_size;
        for (parameter, values) in self.list.iter().zip(&mut self.values) {
            if ![IMAGE_QUEUE, TEXT_QUEUE].contains(&parameter.name.as_str()) {
                continue;
            }
            for column in 0..size {
                let squares: f32 = values.iter().skip(column).step_by(size).map(|v| v * v).sum();
                let norm = squares.sqrt().max(1e-12);
                values.iter_mut().skip(column).step_by(size).for_each(|v| *v /= norm);
            }
        }
    }

    /// Copies the weights to momentum copies that have no values.
    fn copy_missing(&mut self) {
        let index: HashMap<String, usize> =
            self.list.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        for (i, parameter) in self.list.iter().enumerate() {
            if let Some(copy) = table::copy_name(&parameter.name).and_then(|name| index.get(&name))
                && self.values[*copy].is_empty()
            {
                self.values[*copy] = self.values[i].clone();
            }
        }
    }

    fn set(&mut self, name: &str, value: Vec<f32>) {
        if let Some(at) = self.list.iter().position(|p| p.name == name) {
            self.values[at] = value;
        }
    }

    /// Returns the same model with other values, in the order of `list`.
    #[must_use]
    pub fn with_values(&self, values: Vec<Vec<f32>>) -> Self {
        Self { values, ..self.clone() }
    }

    /// Writes the directory `out`: configuration, tokenizer and weights in `dtype`.
    ///
    /// # Errors
    /// Fails when a file cannot be written, and on a value that the type cannot hold.
    pub fn write(&self, out: &Path, dtype: Dtype) -> Result<(), AlbefError> {
        std::fs::create_dir_all(out).map_err(|source| WriteError { path: out.to_owned(), source })?;
        write_atomically(&out.join(CONFIG), self.config_text().as_bytes())?;
        for name in TOKENIZER {
            let from = self.dir.join(name);
            match std::fs::read(&from) {
                Ok(bytes) => write_atomically(&out.join(name), &bytes)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(AlbefError::Io { path: from, source }),
            }
        }
        let path = out.join(WEIGHTS);
        let bytes = safetensors::serialize(self.tensors(dtype)?, None)
            .map_err(|e| WriteError { path: path.clone(), source: std::io::Error::other(e) })?;
        Ok(write_atomically(&path, &bytes)?)
    }

    /// Returns the configuration as JSON, with the keys that were there.
    fn config_text(&self) -> String {
        let mut root = self.root.clone();
        if let (Some(root), Ok(Value::Object(known))) =
            (root.as_object_mut(), serde_json::to_value(&self.config))
        {
            for (key, value) in known {
                match (root.get_mut(&key), value) {
                    // Keys of BERT's that are unknown here stay.
                    (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                    (_, value) => {
                        root.insert(key, value);
                    }
                }
            }
        }
        serde_json::to_string_pretty(&root).unwrap_or_default() + "\n"
    }

    /// Returns all tensors of the file, tied ones twice.
    fn tensors(&self, dtype: Dtype) -> Result<Vec<(String, FileTensor)>, AlbefError> {
        let mut tensors = Vec::with_capacity(self.list.len() + 6);
        for (parameter, values) in self.list.iter().zip(&self.values) {
            let (name, shape) = (&parameter.name, &parameter.shape);
            if name == QUEUE_POSITION {
                let position: Vec<i64> = values.iter().map(|v| *v as i64).collect();
                tensors.push((name.clone(), FileTensor::integers(shape, &position)));
                continue;
            }
            let mut add = |name: &str| -> Result<(), AlbefError> {
                let stored = StoredTensor::new(name, shape, values, dtype)?;
                tensors.push((name.to_owned(), FileTensor::Floats(stored)));
                Ok(())
            };
            add(name)?;
            for (second, first) in TIED {
                if let Some(module) = name.strip_suffix(first) {
                    add(&format!("{module}{second}"))?;
                }
            }
        }
        let length = self.config.bert.max_position_embeddings;
        let positions: Vec<i64> = (0..length as i64).collect();
        for module in ["text_encoder.bert", "text_encoder_m.bert"] {
            let name = format!("{module}.{POSITION_IDS}");
            tensors.push((name, FileTensor::integers(&[1, length], &positions)));
        }
        Ok(tensors)
    }
}

/// Reads `queue_ptr`, an integer, which [`TensorReader`] does not read.
fn read_position(path: &Path) -> Result<Option<f32>, AlbefError> {
    let io = |source| AlbefError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(io)?;
    let length = u64::from_le_bytes(prefix);
    let mut header = Vec::new();
    (&mut file).take(length).read_to_end(&mut header).map_err(io)?;
    let Ok(header) = serde_json::from_slice::<Value>(&header) else { return Ok(None) };
    let entry = &header[QUEUE_POSITION];
    let (Some("I64"), Some(offset)) = (entry["dtype"].as_str(), entry["data_offsets"][0].as_u64()) else {
        return Ok(None);
    };
    let mut value = [0; 8];
    file.seek(SeekFrom::Start(8 + length + offset)).map_err(io)?;
    file.read_exact(&mut value).map_err(io)?;
    Ok(Some(i64::from_le_bytes(value) as f32))
}
