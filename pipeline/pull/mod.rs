//! Checkpoints from the Hugging Face hub: `recaption pull`, and `hf://ORG/NAME` wherever a checkpoint is named.
//!
//! Which files a checkpoint has is known here, how they get into the cache in `recaption_store`. The configuration is
//! downloaded and read first: a model that cannot be exported is told before its weights are downloaded.

mod describe;
mod directory;
mod progress;

use std::path::{Path, PathBuf};

use anyhow::Context;
use recaption_onnx::checkpoint::{
    BlipCheckpoint, Checkpoint,
    tokenizer_files::{CLIP_MERGES, MERGES, VOCABULARY},
};
use recaption_store::{FileChoice, HubModel, HubModels, PullError, PulledModel};

pub(crate) use self::{describe::describe, directory::copy_to};
use crate::{config, runtime::on_runtime};

/// The configuration, which comes first: open_clip's, which a model with both is exported by, or a BLIP's with what its image processor
/// does.
const CONFIG: [FileChoice; 2] = [
    FileChoice { forms: &[&[Checkpoint::CONFIG], &[BlipCheckpoint::CONFIG]], is_required: true },
    BLIP_PROCESSOR,
];
/// How a BLIP's images are prepared; without a file as transformers does by default.
const BLIP_PROCESSOR: FileChoice = FileChoice {
    forms: &[&[BlipCheckpoint::PROCESSORS[0]], &[BlipCheckpoint::PROCESSORS[1]]],
    is_required: false,
};
/// All files of a BLIP. The authors' `.pth` files are of no fixed name, and are not downloaded.
const BLIP_FILES: [FileChoice; 4] = [
    FileChoice { forms: &[&[BlipCheckpoint::CONFIG]], is_required: true },
    BLIP_PROCESSOR,
    FileChoice {
        forms: &[
            &[BlipCheckpoint::TOKENIZER],
            &[BlipCheckpoint::VOCABULARY, BlipCheckpoint::VOCABULARY_SETTINGS],
            &[BlipCheckpoint::VOCABULARY],
        ],
        is_required: false,
    },
    FileChoice { forms: &[&[BlipCheckpoint::WEIGHTS], &[BlipCheckpoint::TORCH_WEIGHTS]], is_required: true },
];
/// All files of a checkpoint of open_clip's. Without tokenizer an export makes CLIP's where the vocabulary is CLIP's.
const FILES: [FileChoice; 3] = [
    FileChoice { forms: &[&[Checkpoint::CONFIG]], is_required: true },
    FileChoice {
        forms: &[&[Checkpoint::TOKENIZER], &[VOCABULARY, MERGES], &[CLIP_MERGES]],
        is_required: false,
    },
    FileChoice { forms: &[&[Checkpoint::WEIGHTS], &[Checkpoint::TORCH_WEIGHTS]], is_required: true },
];

/// Where a checkpoint is.
#[derive(Clone, Debug)]
pub(crate) enum CheckpointSource {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A model on the hub.
    Hub(HubModel),
}

impl CheckpointSource {
    /// Parses a path or `hf://ORG/NAME[@REVISION]`.
    ///
    /// # Errors
    /// Returns what is wrong in a URL, and what to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(HubModel::parse_url(text)?.map_or_else(|| Self::Directory(text.into()), Self::Hub))
    }

    /// Returns the checkpoint's directory, downloaded where it is on the hub and not in the cache.
    ///
    /// # Errors
    /// As [`pull`].
    pub(crate) fn resolve(&self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Directory(dir) => Ok(dir.clone()),
            Self::Hub(model) => Ok(pull(model)?.dir),
        }
    }
}

/// Downloads a checkpoint into the cache, as far as it is not there.
///
/// # Errors
/// When the model cannot be downloaded, or its configuration is none that is supported.
pub(crate) fn pull(model: &HubModel) -> anyhow::Result<PulledModel> {
    let settings = config::environment_store_settings()?;
    let hub = HubModels::from_lookup(|name| std::env::var(name).ok(), settings)?;
    let progress = progress::PullBars::default();
    let shown = |at: recaption_store::PullProgress<'_>| progress.update(at);
    on_runtime(async {
        let first = hub.pull(model, &CONFIG, &shown).await.map_err(explain)?;
        let files: &[FileChoice] = if is_blip(&first) {
            BlipCheckpoint::read_config(&first.dir).with_context(|| format!("{model} cannot be used"))?;
            &BLIP_FILES
        } else {
            Checkpoint::read_config(&first.dir).with_context(|| format!("{model} cannot be used"))?;
            &FILES
        };
        // What is downloaded further is of the same commit, even if the branch moves meanwhile.
        let pinned = model.at_commit(&first.commit);
        let mut pulled = hub.pull(&pinned, files, &shown).await.map_err(explain)?;
        // Only now: a commit of which files are missing would take the place of one that works offline.
        hub.remember(model, &pulled.commit)?;
        for file in &mut pulled.files {
            file.is_new |= first.files.iter().any(|known| known.name == file.name && known.is_new);
        }
        Ok(pulled)
    })
}

/// Returns whether a model is a BLIP: without open_clip's configuration, which is read where there are both.
///
/// The cache may hold what another program downloaded, so that what was pulled counts.
fn is_blip(pulled: &PulledModel) -> bool {
    pulled.files.iter().all(|file| file.name != Checkpoint::CONFIG) && BlipCheckpoint::is_in(&pulled.dir)
}

/// Adds what a model without a configuration that is read may be.
fn explain(error: PullError) -> anyhow::Error {
    let is_config_missing =
        matches!(&error, PullError::MissingFile { wanted, .. } if wanted.contains(Checkpoint::CONFIG));
    let error = anyhow::Error::new(error);
    if is_config_missing {
        return error.context(
            "not a model in open_clip's format (on the hub: library open_clip), nor a BLIP in transformers', which are those that are read",
        );
    }
    error
}

/// Returns what was pulled, for people.
pub(crate) fn summary(model: &HubModel, pulled: &PulledModel, dir: Option<&Path>) -> String {
    let mut text = format!("model     {model}\ncommit    {}\n", pulled.commit);
    for file in &pulled.files {
        let state = if file.is_new { "downloaded" } else { "was there" };
        text += &format!("file      {:<30} {:>10.1} MB  {state}\n", file.name, file.bytes as f64 / 1e6);
    }
    let place = dir.unwrap_or(&pulled.dir);
    text += &format!("in        {}\n", place.display());
    let checkpoint = dir.map_or_else(|| model.to_string(), |dir| dir.display().to_string());
    text + &format!("export    recaption export --checkpoint {checkpoint} --out MODEL\n")
}
