//! A checkpoint of any supported kind, recognised by its files.

use std::path::Path;

use super::{BlipCheckpoint, Checkpoint, CheckpointError};

/// A checkpoint of any supported kind.
#[derive(Debug)]
pub enum AnyCheckpoint {
    /// A CoCa, a CLIP or a SigLIP, as open_clip publishes it, or a SigLIP as transformers does.
    OpenClip(Checkpoint),
    /// A BLIP, as transformers publishes it.
    Blip(BlipCheckpoint),
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
        Ok(Self::OpenClip(Checkpoint::open(dir)?))
    }
}
