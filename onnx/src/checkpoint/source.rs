//! A checkpoint of any supported kind, recognised by its files.

use std::path::Path;

use super::{AlbefCheckpoint, BlipCheckpoint, Checkpoint, CheckpointError};

/// A checkpoint of any supported kind.
#[derive(Debug)]
pub enum AnyCheckpoint {
    /// A CoCa or a CLIP, as open_clip publishes it.
    OpenClip(Checkpoint),
    /// A BLIP, as transformers publishes it.
    Blip(BlipCheckpoint),
    /// An ALBEF, with the names of the authors' code.
    Albef(Box<AlbefCheckpoint>),
}

impl AnyCheckpoint {
    /// Opens the checkpoint in `dir`. A directory with open_clip's configuration is open_clip's, whatever else it holds.
    ///
    /// # Errors
    /// When a file is missing, an option is unsupported, or the tensor directory is malformed.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if !dir.join(Checkpoint::CONFIG).exists() && BlipCheckpoint::is_in(dir) {
            return Ok(Self::Blip(BlipCheckpoint::open(dir)?));
        }
        if !dir.join(Checkpoint::CONFIG).exists() && AlbefCheckpoint::is_in(dir) {
            return Ok(Self::Albef(Box::new(AlbefCheckpoint::open(dir)?)));
        }
        Ok(Self::OpenClip(Checkpoint::open(dir)?))
    }
}
