//! The captioner inside the binary: a CoCa of 3.4 M parameters trained on scenes with web-like alt text.
//!
//! An open_clip checkpoint in fp16, so that the demo takes the same road as any other model: export, then run.

use std::{io, path::Path};

use crate::checkpoint::Checkpoint;

/// Its name.
pub const NAME: &str = "coca-scenes-base";

const FILES: [(&str, &[u8]); 3] = [
    (Checkpoint::CONFIG, include_bytes!("../models/coca-scenes-base/open_clip_config.json")),
    (Checkpoint::WEIGHTS, include_bytes!("../models/coca-scenes-base/open_clip_model.safetensors")),
    (Checkpoint::TOKENIZER, include_bytes!("../models/coca-scenes-base/tokenizer.json")),
];

/// Writes the checkpoint into `dir`, which is created.
///
/// # Errors
/// When a file cannot be written.
pub fn write_checkpoint(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    FILES.iter().try_for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes))
}
