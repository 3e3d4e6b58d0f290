//! `recaption pull --dir DIR`: the files of a checkpoint as a directory of its own.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use recaption_onnx::checkpoint::Checkpoint;
use recaption_store::PulledModel;

/// Copies the files to `dir`, with the tokenizer that an export would build where the model has none. A file of the same name
/// is replaced.
///
/// # Errors
/// When `dir` holds other weights, which would be mistaken for the model's, or cannot be written.
pub(crate) fn copy_to(pulled: &PulledModel, dir: &Path) -> anyhow::Result<()> {
    let is_pulled = |name: &str| pulled.files.iter().any(|file| file.name == name);
    for name in [Checkpoint::WEIGHTS, Checkpoint::TORCH_WEIGHTS] {
        if dir.join(name).exists() && !is_pulled(name) {
            bail!("{} holds {name}, which this model has not; choose another directory", dir.display());
        }
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create the directory {}", dir.display()))?;
    for file in &pulled.files {
        let from = pulled.dir.join(&file.name);
        replace(&dir.join(&file.name), |partial| fs::copy(&from, partial).map(drop))?;
    }
    if !is_pulled(Checkpoint::TOKENIZER)
        && let Some(bytes) = Checkpoint::open(dir)?.tokenizer()?
    {
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
