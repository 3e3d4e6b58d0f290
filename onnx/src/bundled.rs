//! The captioners inside the binary: CoCas of a few million parameters for scenes, as DALL·E 3's were made.
//!
//! open_clip checkpoints in fp16, so that the demo takes the same road as any other model: export, then run. Nothing about
//! their sizes is known here; a model folder tells its own.

use std::{io, path::Path};

use crate::checkpoint::Checkpoint;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bundled {
    /// Trained on pictures with alt texts such as the web has; the others began as it. It has seen texts of all kinds, so it is
    /// the one that judges.
    Base,
    /// Fine-tuned to short captions, which name the main subject.
    Ssc,
    /// Fine-tuned to descriptive captions, which say everything.
    Dsc,
}

/// The three files of a checkpoint.
macro_rules! files {
    ($name:literal) => {
        [
            (Checkpoint::CONFIG, include_bytes!(concat!("../models/", $name, "/open_clip_config.json"))),
            (
                Checkpoint::WEIGHTS,
                include_bytes!(concat!("../models/", $name, "/open_clip_model.safetensors")),
            ),
            (Checkpoint::TOKENIZER, include_bytes!(concat!("../models/", $name, "/tokenizer.json"))),
        ]
    };
}

const BASE: [(&str, &[u8]); 3] = files!("coca-scenes-base");
const SSC: [(&str, &[u8]); 3] = files!("coca-scenes-ssc");
const DSC: [(&str, &[u8]); 3] = files!("coca-scenes-dsc");

impl Bundled {
    /// Every one, the base first.
    pub const ALL: [Self; 3] = [Self::Base, Self::Ssc, Self::Dsc];

    /// Its name, which is that of its folder in `onnx/models`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "coca-scenes-base",
            Self::Ssc => "coca-scenes-ssc",
            Self::Dsc => "coca-scenes-dsc",
        }
    }

    /// Writes the checkpoint into `dir`, which is created.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_checkpoint(self, dir: &Path) -> io::Result<()> {
        let files = match self {
            Self::Base => BASE,
            Self::Ssc => SSC,
            Self::Dsc => DSC,
        };
        std::fs::create_dir_all(dir)?;
        files.iter().try_for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes))
    }
}
