//! `recaption pull --dir DIR`: the files of a checkpoint as a directory of its own.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use recaption_onnx::checkpoint::{
    BlipCheckpoint, Checkpoint,
    tokenizer_files::{CLIP_MERGES, MERGES, VOCABULARY},
};
use recaption_store::PulledModel;

/// Copies the files to `dir`, with the tokenizer that an export would build where the model has none. A file of the same name
/// is replaced. The tokenizer is built from the pulled files alone, so that what `dir` has of another model has no part in it.
///
/// # Errors
/// When `dir` holds weights or a vocabulary of another model, which would be mistaken for this model's, or cannot be written.
pub(crate) fn copy_to(pulled: &PulledModel, dir: &Path) -> anyhow::Result<()> {
    let is_pulled = |name: &str| pulled.files.iter().any(|file| file.name == name);
    let mut unwanted = vec![Checkpoint::WEIGHTS, Checkpoint::TORCH_WEIGHTS];
    let mut built = None;
    if super::is_blip(pulled) {
        // Open_clip's configuration beside it would be read instead, and a tokenizer before a vocabulary.
        unwanted.extend([Checkpoint::CONFIG, BlipCheckpoint::WEIGHTS, BlipCheckpoint::TORCH_WEIGHTS]);
        unwanted.extend(BlipCheckpoint::PROCESSORS);
        unwanted.extend([BlipCheckpoint::TOKENIZER, BlipCheckpoint::VOCABULARY]);
    } else if !is_pulled(Checkpoint::TOKENIZER) {
        built = Checkpoint::open(&pulled.dir)?.tokenizer()?;
        if built.is_none() {
            unwanted.extend([Checkpoint::TOKENIZER, VOCABULARY, MERGES, CLIP_MERGES]);
        }
    }
    for name in unwanted {
        if dir.join(name).exists() && !is_pulled(name) {
            bail!("{} holds {name}, which this model has not; choose another directory", dir.display());
        }
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    for file in &pulled.files {
        let from = pulled.dir.join(&file.name);
        replace(&dir.join(&file.name), |partial| fs::copy(&from, partial).map(drop))?;
    }
    if let Some(bytes) = built {
        replace(&dir.join(Checkpoint::TOKENIZER), |partial| fs::write(partial, &bytes))?;
    }
    Ok(())
}

/// Makes a file beside its place and renames it, so that it is complete or absent.
fn replace(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let made = make(&partial).and_then(|()| fs::rename(&partial, path));
    if made.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    made.with_context(|| format!("cannot write {}", path.display()))
}
