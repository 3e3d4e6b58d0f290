//! A checkpoint of any supported kind, recognised by its files.

use std::path::Path;

use super::{AlbefCheckpoint, BlipCheckpoint, Checkpoint, CheckpointError};

/// A checkpoint of any supported kind.
#[derive(Debug)]
pub enum AnyCheckpoint {
    /// A CoCa, a CLIP or a SigLIP, as open_clip publishes it, or a SigLIP as transformers does.
    OpenClip(Checkpoint),
    /// A BLIP, as transformers publishes it.
    Blip(BlipCheckpoint),
    /// An ALBEF, with the names of the authors' code.
    Albef(Box<AlbefCheckpoint>),
}

/// A kind of checkpoint, told by the files of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// In open_clip's layout.
    OpenClip,
    /// A SigLIP in transformers' layout.
    Siglip,
    /// A BLIP in transformers' layout.
    Blip,
    /// An ALBEF of its authors.
    Albef,
}

impl CheckpointKind {
    /// Returns what is in `dir`, if that is known. A directory with open_clip's configuration is open_clip's, whatever else it holds.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        if dir.join(Checkpoint::CONFIG).exists() {
            Some(Self::OpenClip)
        } else if Checkpoint::is_siglip(dir) {
            Some(Self::Siglip)
        } else if BlipCheckpoint::is_in(dir) {
            Some(Self::Blip)
        } else if AlbefCheckpoint::is_in(dir) {
            Some(Self::Albef)
        } else {
            None
        }
    }
}

impl std::fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OpenClip => "open_clip",
            Self::Siglip => "SigLIP",
            Self::Blip => "BLIP",
            Self::Albef => "ALBEF",
        })
    }
}

impl AnyCheckpoint {
    /// Opens the checkpoint in `dir`. A directory with open_clip's configuration is open_clip's, whatever else it holds.
    ///
    /// # Errors
    /// When a file is missing, an option is unsupported, or the tensor directory is malformed.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        Ok(match CheckpointKind::of(dir) {
            Some(CheckpointKind::Blip) => Self::Blip(BlipCheckpoint::open(dir)?),
            Some(CheckpointKind::Albef) => Self::Albef(Box::new(AlbefCheckpoint::open(dir)?)),
            // An unknown directory is an error that says what open_clip publishes.
            Some(CheckpointKind::OpenClip | CheckpointKind::Siglip) | None => {
                Self::OpenClip(Checkpoint::open(dir)?)
            }
        })
    }
}
