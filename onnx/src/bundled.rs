//! The captioners inside the binary: CoCas of a few million parameters for synthetic scenes, trained in the three stages of
//! DALL·E 3's captioners.
//!
//! They are open_clip checkpoints in fp16, which are exported like any other model.

use std::{io, path::Path};

use crate::checkpoint::Checkpoint;

/// A bundled captioner.
///
/// ```no_run
/// use std::path::Path;
///
/// use recaption_onnx::{Bundled, Precision, export};
///
/// Bundled::Dsc.write_checkpoint(Path::new("checkpoint"))?;
/// export(Path::new("checkpoint"), Path::new("model"), Precision::Fp32)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bundled {
    /// Trained on images with alt texts like those on the web; the others are fine-tuned from it. It scores captions.
    Base,
    /// Fine-tuned on short captions, which name the main subject.
    Ssc,
    /// Fine-tuned on descriptive captions, which mention everything.
    Dsc,
}

/// Includes the three files of a checkpoint.
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
    /// All captioners, the base first.
    pub const ALL: [Self; 3] = [Self::Base, Self::Ssc, Self::Dsc];

    /// Returns the name, which is that of the folder in `onnx/models`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "coca-scenes-base",
            Self::Ssc => "coca-scenes-ssc",
            Self::Dsc => "coca-scenes-dsc",
        }
    }

    /// Writes the checkpoint to `dir`, which is created if necessary.
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
