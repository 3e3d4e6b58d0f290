//! Checkpoint directories, read strictly: an unsupported option or tensor is an error that names it.
//!
//! The first step of an export. [`Checkpoint`] is open_clip's, or transformers' of a SigLIP, [`BlipCheckpoint`] transformers' of a BLIP,
//! [`AlbefCheckpoint`] its authors' of an ALBEF, [`AnyCheckpoint`] whichever is there. Tensors are read one at a time.

mod albef;
mod blip;
mod config;
mod entry;
mod error;
mod files;
mod foreign;
mod parameters;
mod siglip;
mod source;
mod tensors;
mod text;
mod timm_names;
pub mod tokenizer_files;
pub mod torch_zip;

use std::path::{Path, PathBuf};

pub use albef::{AlbefCheckpoint, AlbefConfig};
pub use blip::{BlipCheckpoint, BlipConfig, BlipTask, BlipTextConfig, BlipVisionConfig};
pub use config::{
    Activation, DecoderConfig, EmbeddingProjection, ImageBlocks, ImagePooling, ModelConfig, MultimodalInput,
    Normalisation, PoolerConfig, PoolerKind, RotaryPositions, TextConfig, TextPooling, TextTokens,
    TokenizerFamily, VisionConfig,
};
pub use error::CheckpointError;
pub use parameters::{Init, Parameter};
pub use safetensors::Dtype;
pub use source::{AnyCheckpoint, CheckpointKind};
pub use tensors::TensorReader;

/// An opened open_clip checkpoint, or a SigLIP of transformers read as one: configuration and tensor directory.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory.
    pub dir: PathBuf,
    /// The parsed configuration.
    pub config: ModelConfig,
    /// The weights.
    pub tensors: TensorReader,
}

impl Checkpoint {
    /// File with `model_cfg` and `preprocess_cfg`.
    pub const CONFIG: &str = files::CONFIG;
    /// File with the weights.
    pub const WEIGHTS: &str = files::WEIGHTS;
    /// File with the weights as `torch.save` writes them, read where there is no [`Self::WEIGHTS`].
    pub const TORCH_WEIGHTS: &str = files::TORCH_WEIGHTS;
    /// File with the tokenizer, optional for export.
    pub const TOKENIZER: &str = files::TOKENIZER;

    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    /// When a file is missing, an option is unsupported, or the tensor directory is malformed.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let mut config = Self::read_config(dir)?;
        if Self::is_siglip(dir) {
            return Ok(Self { dir: dir.to_owned(), config, tensors: siglip::open_weights(dir)? });
        }
        let mut tensors = TensorReader::open(&Self::weights(dir))?;
        if config.vision.is_timm {
            tensors = timm_names::as_in_open_clip(tensors)?;
        }
        // The tensors of a CLIP without `custom_text` have no prefix; open_clip loads such weights either way.
        if config.decoder.is_none() && tensors.contains("positional_embedding") {
            config.text.prefix = "";
        }
        Ok(Self { dir: dir.to_owned(), config, tensors })
    }

    /// Returns whether `dir` holds a SigLIP in transformers' layout. A directory with open_clip's configuration is open_clip's, whatever
    /// else it holds.
    #[must_use]
    pub fn is_siglip(dir: &Path) -> bool {
        !dir.join(Self::CONFIG).exists() && siglip::is_in(dir)
    }

    /// Reads the configuration in `dir`; weights need not be there.
    ///
    /// # Errors
    /// When it is missing, or an option is unsupported.
    pub fn read_config(dir: &Path) -> Result<ModelConfig, CheckpointError> {
        if Self::is_siglip(dir) {
            return siglip::read_config(dir);
        }
        let path = dir.join(Self::CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|source| match foreign::describe(dir) {
            Some(what) => CheckpointError::Foreign { path: dir.to_owned(), what },
            None => CheckpointError::Io { path: path.clone(), source },
        })?;
        ModelConfig::parse(&text).map_err(|what| CheckpointError::Config { path, what })
    }

    /// Returns the path of the weights in `dir`: the safetensors file, or else torch's where it is there.
    #[must_use]
    pub fn weights(dir: &Path) -> PathBuf {
        let (path, torch) = (dir.join(Self::WEIGHTS), dir.join(Self::TORCH_WEIGHTS));
        if !path.exists() && torch.exists() { torch } else { path }
    }

    /// Returns the contents of the checkpoint's `tokenizer.json`, or of one built from its vocabulary's files, or, where it has
    /// CLIP's vocabulary and names no other tokenizer, of CLIP's. `None` where there is none of them.
    ///
    /// # Errors
    /// When a file is unreadable or malformed.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>, CheckpointError> {
        tokenizer_files::read(&self.dir, &self.config.text)
    }
}
