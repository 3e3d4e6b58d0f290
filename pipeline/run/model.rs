//! The models of a run, opened and fitted to its settings.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use recaption_caption::CaptionWorkerSettings;
use recaption_onnx::{
    ModelFolder, caption::CaptionSettings, checkpoint::CheckpointKind, runtime::Execution,
    tokenizer::Tokenizer,
};
use recaption_schemas::Preprocess;

use crate::config::{ConfigError, RunConfig};

/// The models of a run with the settings that depend on them.
#[derive(Debug)]
pub struct RunModel {
    /// The captioner.
    pub folder: ModelFolder,
    /// The scorer; `None` where the captioner scores its own captions.
    pub scorer: Option<ModelFolder>,
    /// Generation settings.
    pub settings: CaptionSettings,
}

impl RunModel {
    /// Opens the configured model folders and adapts the settings to them.
    ///
    /// # Errors
    /// When a folder is unusable, has no tokenizer, or cannot do what is configured.
    pub fn open(config: &RunConfig) -> anyhow::Result<Self> {
        Self::open_all(config).map_err(|mut errors| errors.swap_remove(0))
    }

    /// As [`RunModel::open`], with an error for each model that cannot be used.
    ///
    /// # Errors
    /// At least one error.
    pub(crate) fn open_all(config: &RunConfig) -> Result<Self, Vec<anyhow::Error>> {
        let captioner = open_captioner(config);
        let scorer = config.model.scorer.as_deref().map(open_folder).transpose().context("model.scorer");
        let (folder, scorer) = match (captioner, scorer) {
            (Ok(folder), Ok(scorer)) => (folder, scorer),
            (captioner, scorer) => {
                return Err([captioner.err(), scorer.err()].into_iter().flatten().collect());
            }
        };
        // A scorer that is the captioner itself is dropped: it would compute the same features twice.
        let scorer = scorer.filter(|scorer| scorer.digest != folder.digest);
        let scoring = scorer.as_ref().map_or_else(
            || folder.require_scores().context("model.captioner"),
            |scorer| scorer.require_scores().context("model.scorer"),
        );
        scoring.map_err(|error| vec![error])?;
        check_matching(config, scorer.as_ref()).map_err(|error| vec![error])?;
        let settings = caption_settings(config, &folder).map_err(|error| vec![error])?;
        Ok(Self { folder, scorer, settings })
    }

    /// Returns how many candidates of an image are matched with it: 0 for a scorer without a matching head.
    #[must_use]
    pub fn itm_top_k(&self, config: &RunConfig) -> usize {
        if self.scorer.as_ref().is_some_and(|scorer| scorer.fusion().is_ok()) {
            config.score.itm_top_k
        } else {
            0
        }
    }

    /// Returns what a caption worker does by this configuration.
    #[must_use]
    pub(crate) fn worker_settings(&self, config: &RunConfig, keep_features: bool) -> CaptionWorkerSettings {
        CaptionWorkerSettings {
            caption: self.settings.clone(),
            seed: config.resources.seed,
            keep_prompt: config.caption.keep_prompt,
            filter: config.filter.clone(),
            itm_top_k: self.itm_top_k(config),
            match_original: config.score.match_original,
            embed_images: config.output.carries_images(),
            keep_features,
        }
    }

    /// Finds out what computes, one execution per GPU, and fits the batch to it. Loads ONNX Runtime, which a run with nothing to do does without.
    ///
    /// # Errors
    /// When the provider that was asked for, or ONNX Runtime itself, is not there.
    pub fn resolve(&mut self, config: &RunConfig) -> anyhow::Result<Vec<Execution>> {
        self.verify_files()?;
        self.find_executions(config)
    }

    /// Compares the models' files with the digests that the export wrote: rows carry the model's digest, so they must be its
    /// rows. Reads all files.
    ///
    /// # Errors
    /// When a file has changed or cannot be read.
    pub(crate) fn verify_files(&self) -> anyhow::Result<()> {
        for model in self.folders() {
            let changed = model.spec.files.iter().zip(model.unchanged()?).find(|(_, whole)| !whole);
            if let Some((file, _)) = changed {
                anyhow::bail!(
                    "model {}: {} has changed since the export; repeat the export",
                    model.dir.display(),
                    file.name
                );
            }
        }
        Ok(())
    }

    /// As [`RunModel::resolve`], without a look at the models' files.
    ///
    /// # Errors
    /// As [`RunModel::resolve`].
    pub(crate) fn find_executions(&mut self, config: &RunConfig) -> anyhow::Result<Vec<Execution>> {
        let models: Vec<&ModelFolder> = self.folders().collect();
        let executions = Execution::resolve_all(config.model.provider, &config.model.devices, &models)?;
        config.model.refuse_unwanted_cpu(&executions)?;
        // All of one kind, at least one.
        self.settings.max_slots = executions.first().map_or(0, |execution| config.batch_size(*execution));
        Ok(executions)
    }

    /// Returns the captioner, and the scorer if there is one.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &ModelFolder> {
        std::iter::once(&self.folder).chain(&self.scorer)
    }

    /// Returns the keys that change rows, with their values.
    pub(crate) fn row_keys(&self, config: &RunConfig) -> BTreeMap<String, String> {
        let scorer = self.scorer.as_ref().map(|scorer| scorer.digest.as_str());
        config.row_keys(&self.folder.digest, scorer, (self.settings.max_tokens, self.itm_top_k(config)))
    }

    /// Returns the name of the captioner's folder.
    #[must_use]
    pub fn name(&self) -> String {
        let dir = self.folder.dir.canonicalize().unwrap_or_else(|_| self.folder.dir.clone());
        dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
    }

    /// Returns whether the captioner scores its own captions, in whatever precision.
    #[must_use]
    pub fn is_circular(&self) -> bool {
        let source = |model: &ModelFolder| model.spec.source_sha256.clone();
        self.scorer.as_ref().is_none_or(|scorer| source(scorer) == source(&self.folder))
    }

    /// What the scorer wants of an image, if that is not what the captioner wants.
    #[must_use]
    pub fn scorer_preprocessing(&self) -> Option<Preprocess> {
        let preprocessing = self.scorer.as_ref().map(|scorer| scorer.spec.preprocessing);
        preprocessing.filter(|wanted| *wanted != self.folder.spec.preprocessing)
    }
}

/// Checks that the scorer has a matching head where the configuration needs one.
fn check_matching(config: &RunConfig, scorer: Option<&ModelFolder>) -> anyhow::Result<()> {
    if scorer.is_some_and(|scorer| scorer.fusion().is_ok()) {
        return Ok(());
    }
    let (key, instead) = match config.filter.min_itm {
        Some(least) => (format!("`filter.min_itm` = {least}"), ", or filter.min_similarity"),
        None if config.score.match_original => ("`score.match_original` = true".to_owned(), ""),
        None => (String::new(), ""),
    };
    if !key.is_empty() {
        return Err(unfit(format!(
            "{key}: model.scorer has no matching head (ITM); use an ALBEF or a BlipForImageTextRetrieval as scorer{instead}"
        )));
    }
    if config.score.is_itm_top_k_set && config.score.itm_top_k > 0 {
        tracing::warn!("`score.itm_top_k` is set, but model.scorer has no matching head (ITM)");
    }
    Ok(())
}

/// Opens the captioner, which must be able to generate captions.
fn open_captioner(config: &RunConfig) -> anyhow::Result<ModelFolder> {
    let folder = open_folder(&config.model.captioner)?;
    folder.decoder()?;
    Ok(folder)
}

/// Adapts the settings to the captioner.
fn caption_settings(config: &RunConfig, folder: &ModelFolder) -> anyhow::Result<CaptionSettings> {
    let prompt = prompt_ids(folder, &config.caption.prompt)?;
    let available = folder.caption_tokens(prompt.len());
    let max_tokens = config.caption.max_tokens.unwrap_or(available.default);
    if max_tokens > available.largest {
        let after = if prompt.is_empty() { "" } else { " after this prompt" };
        let what = format!(
            "`caption.max_tokens` = {max_tokens}: this model generates at most {} tokens{after}",
            available.largest
        );
        return Err(unfit(what));
    }
    if config.caption.min_tokens >= max_tokens {
        return Err(unfit(format!(
            "`caption.min_tokens` = {} leaves no room below max_tokens = {max_tokens}",
            config.caption.min_tokens
        )));
    }
    let settings = CaptionSettings {
        strategy: config.caption.strategy,
        candidates: config.caption.candidates,
        prompt,
        max_tokens,
        min_tokens: config.caption.min_tokens,
        max_slots: config.batch_size(Execution::Cpu),
        cache_bytes: config.resources.cache_bytes,
    };
    settings.validate()?;
    for key in &config.caption.ignored {
        let strategy = config.caption.strategy_name();
        tracing::warn!("`{key}` is set, but caption.strategy = {strategy} does not look at it");
    }
    Ok(settings)
}

/// An error about a setting that does not suit the model.
fn unfit(what: String) -> anyhow::Error {
    ConfigError { origin: "configuration".into(), what }.into()
}

/// Ids of the prompt, which must leave room for a caption and hold no special token: start and end mean something else
/// where they stand, and padding is invisible to the model.
fn prompt_ids(folder: &ModelFolder, text: &str) -> anyhow::Result<Vec<i64>> {
    let tokenizer = Tokenizer::load(folder)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (context, special) = (folder.spec.dimensions.context_length, folder.spec.special_ids);
    let encoded = tokenizer.encode(text)?;
    // With start and end, of which the end's place is the caption's.
    if encoded.truncated || encoded.ids.len() >= context {
        let what =
            format!("`caption.prompt` leaves no room for a caption within {context} tokens: shorten it");
        return Err(unfit(what));
    }
    let ids = encoded.ids[1..encoded.ids.len() - 1].to_vec();
    let names = [
        (special.pad, "padding (`!` in CLIP's vocabulary)"),
        (special.start, "a caption's start"),
        (special.end, "a caption's end"),
    ];
    match names.iter().find(|(id, _)| ids.contains(id)) {
        None => {
            let letters = |text: &str| {
                text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>()
            };
            let read = tokenizer.decode(&ids)?;
            if letters(&read) != letters(text) {
                tracing::warn!(prompt = text, read, "the model's vocabulary does not spell the prompt");
            }
            Ok(ids)
        }
        Some((id, name)) => Err(unfit(format!(
            "`caption.prompt` holds id {id}, which this model reads as {name}: leave it out"
        ))),
    }
}

fn open_folder(dir: &Path) -> anyhow::Result<ModelFolder> {
    if dir.starts_with("hf:") {
        anyhow::bail!(
            "{} is a checkpoint on the hub; export it first: recaption export --checkpoint {} --out MODEL",
            dir.display(),
            dir.display()
        );
    }
    if !dir.join("model.json").exists()
        && let Some(kind) = CheckpointKind::of(dir)
    {
        let dir = dir.display();
        let article =
            if matches!(kind, CheckpointKind::OpenClip | CheckpointKind::Albef) { "an" } else { "a" };
        anyhow::bail!(
            "{dir} is {article} {kind} checkpoint; export it first: recaption export --checkpoint {dir} --out MODEL"
        );
    }
    let folder = ModelFolder::open(dir)?;
    // Fails early and clearly when there is no tokenizer.
    Tokenizer::load(&folder)?;
    Ok(folder)
}
